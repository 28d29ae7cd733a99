//go:build linux

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"smartvm"
	"smartvm/internal/bytesize"
)

const (
	limitKeys  = "cpus, memory, pids, read-bps, write-bps, read-iops, write-iops, open-files or file-size"
	netnsUsage = "as root, run the VMM in this network namespace, where its TAPs are: a `NAME` of ip netns, or a path with a / in it"
)

// setLimit reads KEY=VALUE. What a value may be the configuration says.
func setLimit(limits *smartvm.Limits, text string) (err error) {
	key, value, _ := strings.Cut(text, "=")
	switch key {
	case "cpus":
		if limits.CPUs, err = strconv.ParseFloat(value, 64); err != nil || limits.CPUs == 0 {
			return fmt.Errorf("%q is no number of CPUs, such as 1.5", value)
		}
	case "memory":
		limits.MemoryMiB, err = wholeMiB(value)
		return err
	case "pids":
		if limits.PIDs, err = strconv.Atoi(value); err != nil || limits.PIDs == 0 {
			return fmt.Errorf("%q is no number of processes and threads", value)
		}
	case "read-bps":
		limits.ReadBps, err = bytesASecond(value)
		return err
	case "write-bps":
		limits.WriteBps, err = bytesASecond(value)
		return err
	case "read-iops":
		limits.ReadIOPS, err = operationsASecond(value)
		return err
	case "write-iops":
		limits.WriteIOPS, err = operationsASecond(value)
		return err
	case "open-files":
		if limits.OpenFiles, err = strconv.Atoi(value); err != nil || limits.OpenFiles == 0 {
			return fmt.Errorf("%q is no number of files", value)
		}
	case "file-size":
		limits.FileSizeMiB, err = wholeMiB(value)
		return err
	default:
		return errors.New("the limits are cpus=NUMBER, memory=SIZE, pids=NUMBER, read-bps=SIZE, write-bps=SIZE, read-iops=NUMBER, write-iops=NUMBER, open-files=NUMBER and file-size=SIZE")
	}
	return nil
}

// bytesASecond reads a rate; a bare number is bytes.
func bytesASecond(text string) (int64, error) {
	rate, err := bytesize.Parse(text, 1)
	if err == nil && rate == 0 {
		err = fmt.Errorf("%q lets no byte through", text)
	}
	return rate, err
}

func operationsASecond(text string) (int64, error) {
	rate, err := strconv.ParseInt(text, 10, 64)
	if err != nil || rate == 0 {
		return 0, fmt.Errorf("%q is no number of operations a second", text)
	}
	return rate, nil
}
