package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// account is whom a command runs as.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

// lookup resolves "user", "uid", "user:group" or "uid:gid" by the passwd and group files of a folder. A number needs no
// entry; an image without these files has root and numbers.
func lookup(etc, spec string) (*account, error) {
	user, group, withGroup := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	a, err := findUser(filepath.Join(etc, "passwd"), user)
	if err != nil {
		return nil, err
	}
	if withGroup && group == "" {
		return nil, fmt.Errorf("user %q: no group after the colon", spec)
	}
	found := !withGroup
	number, isNumber := id(group)
	err = eachLine(filepath.Join(etc, "group"), 4, func(f []string) {
		gid, ok := id(f[2])
		if !ok {
			return
		}
		if withGroup && !found && (f[0] == group || isNumber && gid == number) {
			a.gid, found = gid, true
		}
		// With a group named, it is the only one, as in Docker.
		if !withGroup && slices.Contains(strings.Split(f[3], ","), a.name) && gid != a.gid {
			a.groups = append(a.groups, gid)
		}
	})
	if err != nil {
		return nil, err
	}
	if !found {
		if !isNumber {
			return nil, fmt.Errorf("group %q: not in /etc/group", group)
		}
		a.gid = number
	}
	return a, nil
}

func findUser(passwd, user string) (*account, error) {
	number, isNumber := id(user)
	var a *account
	err := eachLine(passwd, 7, func(f []string) {
		uid, okUID := id(f[2])
		gid, okGID := id(f[3])
		if a == nil && okUID && okGID && (f[0] == user || isNumber && uid == number) {
			a = &account{name: f[0], uid: uid, gid: gid, home: f[5], shell: f[6]}
		}
	})
	switch {
	case err != nil:
		return nil, err
	case a != nil:
	case isNumber && number == 0 || user == "root":
		a = &account{name: "root", home: "/root"}
	case isNumber:
		a = &account{name: user, uid: number, gid: 0, home: "/"}
	default:
		return nil, fmt.Errorf("user %q: not in /etc/passwd", user)
	}
	if a.home == "" {
		a.home = "/"
	}
	if a.shell == "" {
		a.shell = "/bin/sh"
	}
	return a, nil
}

// id reads a uid or gid; the highest number means "none" to the kernel.
func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < 1<<32-1
}

// eachLine reads a file of colon-separated fields, passing over lines with too few. A missing file has no lines.
func eachLine(path string, fields int, do func([]string)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if field := strings.Split(lines.Text(), ":"); len(field) >= fields {
			do(field)
		}
	}
	return lines.Err()
}
