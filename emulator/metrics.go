package emulator

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"smartvm/emulator/serde"
)

// metricsPeriod is how often a running VM's metrics are written (WRITE_METRICS_PERIOD_MS).
const metricsPeriod = 60 * time.Second

// metrics counts what the emulator does and writes it as Firecracker does: one JSON object per line, under the names
// that Firecracker's metrics have. Counters start from 0 again after each line.
type metrics struct {
	out io.WriteCloser // nil until configured

	requests   map[string]map[string]uint64 // of the API: by method's group, then by name
	deprecated uint64
	latencies  map[string]int64 // microseconds, of the last such call
	panics     uint64
}

// metricsConfig is the body of PUT /metrics.
func decodeMetrics(path *string) serde.Decode {
	return serde.OpenStruct("MetricsConfig", serde.Required("metrics_path", serde.Path(path)))
}

func (m *metrics) open(s system, path string) error {
	const words = "Cannot initialize the metrics system due to bad user input: "
	out, err := s.openOutput(path)
	if err != nil {
		return osFault(words, err)
	}
	if m.out != nil {
		_ = out.Close()
		return errors.New(words + "Reinitialization of metrics not allowed.")
	}
	m.out = out
	return nil
}

// metricNames are the counters of Firecracker's API server, by method and first part of the path.
var metricNames = map[string]map[string]string{
	"GET": {"": "instance_info", "version": "vmm_version", "machine-config": "machine_cfg", "mmds": "mmds",
		"hotplug": "hotplug_memory"},
	"PUT": {"actions": "actions", "boot-source": "boot_source", "drives": "drive", "logger": "logger",
		"machine-config": "machine_cfg", "cpu-config": "cpu_cfg", "metrics": "metrics", "network-interfaces": "network",
		"mmds": "mmds", "vsock": "vsock", "pmem": "pmem", "serial": "serial", "hotplug": "hotplug_memory"},
	"PATCH": {"drives": "drive", "network-interfaces": "network", "machine-config": "machine_cfg", "mmds": "mmds",
		"pmem": "pmem", "hotplug": "hotplug_memory"},
}

var metricGroups = map[string]string{
	"GET": "get_api_requests", "PUT": "put_api_requests", "PATCH": "patch_api_requests",
}

// count notes a request, and whether its body was refused.
func (m *metrics) count(method, resource string, failed bool) {
	name, ok := metricNames[method][resource]
	if !ok {
		return
	}
	group := metricGroups[method]
	if m.requests == nil {
		m.requests = map[string]map[string]uint64{}
	}
	if m.requests[group] == nil {
		m.requests[group] = map[string]uint64{}
	}
	m.requests[group][name+"_count"]++
	if failed {
		m.requests[group][name+"_fails"]++
	}
}

// took notes how long an action took.
func (m *metrics) took(name string, since time.Time) {
	if m.latencies == nil {
		m.latencies = map[string]int64{}
	}
	m.latencies[name] = time.Since(since).Microseconds()
}

// write appends a line, if metrics are configured.
func (m *metrics) write(l *logger) error {
	if m.out == nil {
		return nil
	}
	line := map[string]any{
		"utc_timestamp_ms": time.Now().UnixMilli(),
		"api_server":       map[string]any{"process_startup_time_us": 0, "process_startup_time_cpu_us": 0},
		"deprecated_api":   map[string]any{"deprecated_http_api_calls": m.deprecated},
		"latencies_us":     m.allLatencies(),
		"logger":           map[string]any{"missed_metrics_count": 0, "metrics_fails": 0, "missed_log_count": l.missed, "log_fails": 0},
		"vmm":              map[string]any{"panic_count": m.panics},
	}
	for method, group := range metricGroups {
		counters := map[string]uint64{}
		for _, name := range metricNames[method] {
			counters[name+"_count"] = m.requests[group][name+"_count"]
			if method != "GET" {
				counters[name+"_fails"] = m.requests[group][name+"_fails"]
			}
		}
		line[group] = counters
	}
	data, err := json.Marshal(line)
	if err != nil {
		return err
	}
	m.requests, m.deprecated = nil, 0
	_, err = m.out.Write(append(data, '\n'))
	return err
}

func (m *metrics) allLatencies() map[string]int64 {
	all := map[string]int64{}
	for _, name := range []string{"full_create_snapshot", "diff_create_snapshot", "load_snapshot", "pause_vm", "resume_vm",
		"vmm_full_create_snapshot", "vmm_diff_create_snapshot", "vmm_load_snapshot", "vmm_pause_vm", "vmm_resume_vm"} {
		all[name] = m.latencies[name]
	}
	return all
}

// putMetrics names the file of the metrics, once.
type putMetrics struct {
	onlyBeforeStart
	path string
}

func parsePutMetrics(body []byte) (action, string, error) {
	var a putMetrics
	err := decode(body, decodeMetrics(&a.path))
	return a, "", err
}

func (a putMetrics) beforeStart(c *controller) (any, error) {
	return nil, prefix("Metrics error: ", c.metrics.open(c.system, a.path))
}

// flushMetrics writes the metrics now.
type flushMetrics struct{ onlyAfterStart }

func (flushMetrics) afterStart(c *controller) (any, error) {
	err := c.metrics.write(c.log)
	if err != nil {
		err = osFault("Internal VMM error: Metrics error: Failed to write metrics: ", err)
	}
	return nil, err
}
