package smartvm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"smartvm/internal/lazyregexp"
)

// CreateOptions say how a VM lives, beside what it is made of. The zero value is a VM of the manager's own: it has no
// name, and goes when the manager is closed.
type CreateOptions struct {
	// Name is a label by which the VM is found: a letter or digit, then letters, digits, `_`, `.` and `-`, at most 63. No
	// two VMs below one data folder have the same. Default: none.
	Name string
	// Image is told by List, and means nothing else.
	Image string
	// Detached says that the VM outlives the manager: Close leaves it. Its record and its drives survive a power cut.
	// Needs Options.Supervisor.
	Detached bool
	// Attached says that the VM ends with this process, however this process ends. It needs Options.Supervisor, and
	// excludes Detached.
	Attached bool
	// Keep has an attached VM stay when it has ended, stopped, with its record and its drives: Close stops it and leaves it.
	// A detached VM stays anyway. It excludes Remove.
	Keep bool
	// Remove has the VM taken away when it has ended, with all that it had.
	Remove bool
	// Restart says whether the VM starts again when it has ended by itself. It excludes Remove.
	Restart Restart
	// Command is what the guest lives for: it is started as soon as the guest is up, whoever is there then, and the VM ends
	// with it. Its output goes to the log "agent". Default: none.
	Command *Command
	// CommandByCaller says that whoever makes the VM runs its command in this manager's starts, with streams of its own, and
	// tells how it ended by VM.NoteCommand. Later starts run it as any other.
	CommandByCaller bool
	// Timeout ends the VM so long after each start. Default: never.
	Timeout time.Duration
}

// Command is a command in a guest.
type Command struct {
	Args []string `json:"args"`           // the program and its arguments
	Env  []string `json:"env,omitempty"`  // KEY=value
	Dir  string   `json:"dir,omitempty"`  // default: /
	User string   `json:"user,omitempty"` // default: root
}

// RestartMode says when a VM that has ended starts again.
type RestartMode string

// The modes. A VM that was ended by a call stays down in each of them.
const (
	RestartNever     RestartMode = ""           // the default
	RestartOnFailure RestartMode = "on-failure" // when its command failed, its guest panicked or its VMM died
	RestartAlways    RestartMode = "always"     // however it ended
)

// Restart is a VM's restart policy.
type Restart struct {
	Mode RestartMode `json:"mode,omitempty"`
	Max  int         `json:"max,omitempty"` // of restarts in a row, with on-failure; 0: no bound
}

// ParseRestart reads a policy as docker writes it: "no", "always", "on-failure" or "on-failure:N".
func ParseRestart(text string) (Restart, error) {
	mode, count, counted := strings.Cut(text, ":")
	switch {
	case (text == "no" || text == ""):
		return Restart{}, nil
	case text == string(RestartAlways):
		return Restart{Mode: RestartAlways}, nil
	case mode == string(RestartOnFailure) && !counted:
		return Restart{Mode: RestartOnFailure}, nil
	case mode == string(RestartOnFailure):
		if n, err := strconv.Atoi(count); err == nil && n > 0 {
			return Restart{Mode: RestartOnFailure, Max: n}, nil
		}
	}
	return Restart{}, fmt.Errorf("%q is no restart policy: want no, always, on-failure or on-failure:N", text)
}

// String gives the policy as ParseRestart reads it.
func (r Restart) String() string {
	switch {
	case r.Mode == RestartNever:
		return "no"
	case r.Max > 0:
		return fmt.Sprintf("%s:%d", r.Mode, r.Max)
	}
	return string(r.Mode)
}

var namePattern = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// CheckName tells what is wrong with a VM's name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%q is no name: it begins with a letter or digit, goes on with these, `_`, `.` and `-`, and has at most 63 of them", name)
	}
	return nil
}

// check lists what is wrong with the options for a VM with this configuration.
func (c CreateOptions) check(config *Config, supervised bool) error {
	var faults []error
	fault := func(wrong bool, text string) {
		if wrong {
			faults = append(faults, errors.New(text))
		}
	}
	if c.Name != "" {
		faults = append(faults, CheckName(c.Name))
	}
	fault((c.Detached || c.Attached) && !supervised, "a VM that lives longer or shorter than its manager needs a supervisor: set Options.Supervisor to `smartvm supervise`")
	fault(c.Detached && c.Attached, "a VM is either detached or attached")
	fault(c.Keep && !c.Detached && !c.Attached, "a VM that is to stay needs a supervisor, and is attached or detached")
	fault(c.Keep && c.Remove, "a VM is either kept or removed when it has ended")
	fault(c.Remove && c.Restart.Mode != RestartNever, "a VM that is removed when it ends cannot start again: --rm excludes --restart")
	fault(c.Restart.Max < 0, "the number of restarts is negative")
	fault(c.Timeout < 0, "the time-out is negative")
	fault(c.Restart.Mode != RestartNever && c.Restart.Mode != RestartOnFailure && c.Restart.Mode != RestartAlways, fmt.Sprintf("there is no restart policy %q", c.Restart.Mode))
	if c.Command != nil {
		fault(config.Guest == nil, "a command needs our init in the guest: configure `guest`")
		fault(len(c.Command.Args) == 0 || c.Command.Args[0] == "", "the command is empty")
	}
	return errors.Join(faults...)
}

// stays tells whether the VM is there until somebody removes it.
func (c CreateOptions) stays() bool { return c.Detached || c.Keep }

// clone returns a copy that shares no memory with c.
func (c *Command) clone() *Command {
	if c == nil {
		return nil
	}
	d := *c
	d.Args, d.Env = append([]string(nil), c.Args...), append([]string(nil), c.Env...)
	return &d
}
