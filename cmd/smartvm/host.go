//go:build linux

package main

import (
	"log/slog"
	"os"

	"smartvm"
)

// The environment variables that this program reads.
const (
	envDataDir     = "SMARTVM_DATA_DIR"
	envRuntimeDir  = "SMARTVM_RUNTIME_DIR"
	envFirecracker = "SMARTVM_FIRECRACKER"
	envEmulator    = "SMARTVM_EMULATOR"
)

// host is where a command runs: its streams and the manager's options.
type host struct {
	streams
	progress *progress
	options  smartvm.Options
}

func hostFromEnvironment(s streams, verbose bool) host {
	p := newProgress(s.err)
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
			EmulatorBinary:    os.Getenv(envEmulator),
			Supervisor:        ownCommand(superviseCommand),
			Settle:            ownCommand(settleCommand),
			Logger:            slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{Level: level})),
		},
	}
}
