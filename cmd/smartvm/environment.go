//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// Bounds of an --env-file. The kernel takes no single argument or variable of more than 128 KiB (MAX_ARG_STRLEN).
const (
	maxEnvFile = 4 << 20
	maxEnvLine = 128 << 10
)

// guestEnvironment returns the variables for the guest's command: those of the files in order, then the given ones, so
// that -e wins. Lookup finds the value of a variable that is given by its name alone; one that this process does not
// have is left out.
func guestEnvironment(given, files []string, lookup func(string) (string, bool)) ([]string, error) {
	var env []string
	for _, path := range files {
		fromFile, err := readEnvFile(path, lookup)
		if err != nil {
			return nil, err
		}
		env = append(env, fromFile...)
	}
	for _, variable := range given {
		entry, ok, err := envEntry(variable, lookup)
		if err != nil {
			return nil, fmt.Errorf("-e %q: %w", variable, err)
		}
		if ok {
			env = append(env, entry)
		}
	}
	return env, nil
}

// readEnvFile reads variables as docker's --env-file has them: one for each line, KEY=value or KEY alone; white space in
// front is dropped, everything behind the `=` counts as it is, quotes too; empty lines and lines that start with `#` are
// skipped.
func readEnvFile(path string, lookup func(string) (string, bool)) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxEnvFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxEnvLine)
	var env []string
	number := 0
	for lines.Scan() {
		number++
		text := lines.Text()
		if number == 1 {
			text = strings.TrimPrefix(text, "\ufeff") // a byte order mark, as Windows' editors write it
		}
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
		if text == "" || text[0] == '#' {
			continue
		}
		entry, ok, err := envEntry(text, lookup)
		if err != nil {
			return nil, fmt.Errorf("--env-file %s: line %d: %w", path, number, err)
		}
		if ok {
			env = append(env, entry)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("--env-file %s: line %d: %w", path, number+1, err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("--env-file %s: is larger than the limit of %d bytes", path, maxEnvFile)
	}
	return env, nil
}

// envEntry completes a variable; ok is false for a name that this process has no value for.
func envEntry(variable string, lookup func(string) (string, bool)) (entry string, ok bool, err error) {
	name, value, hasValue := strings.Cut(variable, "=")
	switch {
	case name == "":
		return "", false, errors.New("there is no name in front of the =")
	case strings.ContainsFunc(name, unicode.IsSpace):
		return "", false, fmt.Errorf("the name %q has white space in it", name)
	case strings.ContainsRune(variable, 0):
		return "", false, fmt.Errorf("variable %q has a NUL byte in it", name)
	}
	if !hasValue {
		if value, ok = lookup(name); !ok {
			return "", false, nil
		}
	}
	return name + "=" + value, true, nil
}
