//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"smartvm"
	"smartvm/internal/bytesize"
)

// The environment variables that this program reads.
const (
	envDataDir     = "SMARTVM_DATA_DIR"
	envRuntimeDir  = "SMARTVM_RUNTIME_DIR"
	envFirecracker = "SMARTVM_FIRECRACKER"
	envJailer      = "SMARTVM_JAILER"
	envEmulator    = "SMARTVM_EMULATOR"

	envSnapshotQuota = "SMARTVM_SNAPSHOT_QUOTA"
	envDriveQuota    = "SMARTVM_DRIVE_QUOTA"
)

// host is where a command runs: its streams and the manager's options.
type host struct {
	streams
	progress *progress
	options  smartvm.Options
}

func hostFromEnvironment(s streams, verbose bool) host {
	p := newProgress(s.err)
	quotas, _ := quotasFromEnvironment() // looked at before any command runs
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return host{
		streams: s, progress: p,
		options: smartvm.Options{
			DataDir:           os.Getenv(envDataDir),
			RuntimeDir:        os.Getenv(envRuntimeDir),
			FirecrackerBinary: os.Getenv(envFirecracker),
			JailerBinary:      os.Getenv(envJailer),
			EmulatorBinary:    os.Getenv(envEmulator),
			SnapshotQuota:     quotas[envSnapshotQuota],
			DriveQuota:        quotas[envDriveQuota],
			Supervisor:        ownCommand(superviseCommand),
			Settle:            ownCommand(settleCommand),
			Logger:            slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{Level: level})),
		},
	}
}

// quotasFromEnvironment reads the quotas, in bytes: 0 for one that is not set.
func quotasFromEnvironment() (map[string]int64, error) {
	quotas := map[string]int64{}
	for _, name := range []string{envSnapshotQuota, envDriveQuota} {
		text := os.Getenv(name)
		if text == "" {
			continue
		}
		size, err := bytesize.Parse(text, bytesize.MiB)
		if err == nil && size == 0 {
			err = errors.New("a quota of nothing leaves nothing; unset it for no quota")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		quotas[name] = size
	}
	return quotas, nil
}

// tidy puts in order what earlier crashes left, while this command does its work. What it does is said with -v; what it
// cannot do is gc's to say. The command waits for it in the end, for moments.
func (h host) tidy(ctx context.Context, manager *smartvm.Manager) (wait func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyLimit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		actions, err := manager.Sweep(ctx, smartvm.SweepOptions{})
		for _, action := range actions {
			if !action.Kept {
				h.options.Logger.Info("put in order what was left behind", "vm", action.VM, "what", action.What)
			}
		}
		if err != nil {
			h.options.Logger.Info("something could not be put in order; smartvm gc tells what", "error", err)
		}
	}()
	return func() { <-done }
}

// tidyLimit bounds how long a command may take longer for what others left.
const tidyLimit = 10 * time.Second
