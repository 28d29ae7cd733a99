// Command init is what boots our guests: PID 1 of an initramfs, and, as a process of its own, the agent.
//
// As PID 1 it mounts what every program expects, loads the modules that the image builder has listed, sets addresses from
// every `ip=`, and switches to the root drive if there is one. Then it starts the agent (the same program under another
// name), reaps every orphan, and waits for an order to shut down: Ctrl-Alt-Del, the host, or the end of the main command.
// With `smartvm.init=image` it hands its place to the image's own init instead, and only the agent stays.
//
// Whatever goes wrong is said on the console. What cannot be got over ends in a reboot, which ends the VM; nothing ends
// in a hang.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
)

// agentName is argv[0] of the agent's process.
const agentName = "smartvm-agent"

func main() {
	switch {
	case os.Args[0] == agentName:
		os.Exit(runAgent())
	case os.Getpid() == 1:
		defer rebootOnPanic()
		boot()
	default:
		fmt.Fprintln(os.Stderr, "init: this is the first program of a SmartVM guest: its kernel runs it as PID 1")
		os.Exit(2)
	}
}

// say puts a line on the console.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "smartvm: "+format+"\n", args...)
}

// rebootOnPanic ends the VM with the reason on the console. Every goroutine of PID 1 defers it.
func rebootOnPanic() {
	if fault := recover(); fault != nil {
		say("init failed: %v\n%s", fault, debug.Stack())
		reboot()
	}
}

// giveUp ends the VM because it cannot become what was asked for.
func giveUp(err error) {
	say("cannot boot: %v", err)
	reboot()
}
