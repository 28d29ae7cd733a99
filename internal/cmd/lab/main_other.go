//go:build !linux

// Command lab runs the tests that belong to the lab. It needs Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "lab: the lab runs on Linux only")
	os.Exit(2)
}
