package firecracker

import (
	"encoding/json"
	"strings"
)

// addition is something that a version brought to the API after [Oldest]: a field of a request's body, or a whole
// operation when there is no field.
type addition struct {
	method, path string // path with {…} for ids, as in the API description
	field        string
	since        Version
}

// additions is the one list of what came when, from Firecracker's CHANGELOG.md. Before sending it is held against every
// request, as Firecracker refuses a whole body for one unknown field.
func additions() []addition {
	v1_12, v1_13 := Version{1, 12, 0, ""}, Version{1, 13, 0, ""}
	v1_14, v1_15_1, v1_16 := Version{1, 14, 0, ""}, Version{1, 15, 1, ""}, Version{1, 16, 0, ""}
	return []addition{
		{"PUT", "/snapshot/load", "network_overrides", v1_12},

		{"PUT", "/mmds/config", "imds_compat", v1_13},
		{"PUT", "/snapshot/load", "track_dirty_pages", v1_13},

		{"PUT", "/serial", "", v1_14},
		{"PUT", "/pmem/{id}", "", v1_14},
		{"PUT", "/hotplug/memory", "", v1_14},
		{"PATCH", "/hotplug/memory", "", v1_14},
		{"GET", "/hotplug/memory", "", v1_14},
		{"PUT", "/balloon", "free_page_hinting", v1_14},
		{"PUT", "/balloon", "free_page_reporting", v1_14},
		{"PATCH", "/balloon/hinting/start", "", v1_14},
		{"PATCH", "/balloon/hinting/stop", "", v1_14},
		{"GET", "/balloon/hinting/status", "", v1_14},

		// The change log has it in 1.16.0; the description of 1.15.1 shows that a fix brought it earlier.
		{"PUT", "/snapshot/load", "clock_realtime", v1_15_1},

		{"PUT", "/network-interfaces/{iface_id}", "mtu", v1_16},
		{"PUT", "/pmem/{id}", "rate_limiter", v1_16},
		{"PATCH", "/pmem/{id}", "", v1_16},
		{"PUT", "/serial", "rate_limiter", v1_16},
		{"PUT", "/snapshot/load", "vsock_override", v1_16},
	}
}

// gate finds what running does not know in a request. With several such, it names the newest: the version that all of
// it needs.
func gate(running Version, asked []addition) error {
	var newest *addition
	for i, a := range asked {
		if running.Compare(a.since) < 0 && (newest == nil || a.since.Compare(newest.since) > 0) {
			newest = &asked[i]
		}
	}
	if newest == nil {
		return nil
	}
	return &UnsupportedFieldError{Field: newest.name(), Since: newest.since, Running: running}
}

// asked lists the additions that a request makes use of. A field counts when its key is there, whatever its value: that
// is what Firecracker looks at.
func asked(method, path string, body []byte) []addition {
	var found []addition
	var keys map[string]json.RawMessage
	for _, a := range additions() {
		if a.method != method || !matches(a.path, path) {
			continue
		}
		if a.field != "" {
			if keys == nil && json.Unmarshal(body, &keys) != nil {
				return found // not an object: the VMM says so better than we could
			}
			if _, ok := keys[a.field]; !ok {
				continue
			}
		}
		found = append(found, a)
	}
	return found
}

// matches tells whether path is one of the template's.
func matches(template, path string) bool {
	want, have := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if !strings.HasPrefix(want[i], "{") && want[i] != have[i] {
			return false
		}
	}
	return true
}

// name is how a user is told: "network-interfaces.mtu", or "PATCH /pmem/{id}" for an operation.
func (a addition) name() string {
	if a.field == "" {
		return a.method + " " + a.path
	}
	kind, _, _ := strings.Cut(a.path, "/{")
	return strings.TrimPrefix(kind, "/") + "." + a.field
}
