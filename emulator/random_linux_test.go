package emulator_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"smartvm/internal/proof"
)

// randomSteps is how many requests one seed makes before the start, and after it.
const randomSteps = 60

// seeds is how many processes are asked.
const seeds = 24

// TestGeneratedRequestsGetFirecrackersAnswers puts requests of fixed seeds to both VMMs: plausible values, odd ones, and
// bodies that were damaged at random.
func TestGeneratedRequestsGetFirecrackersAnswers(t *testing.T) {
	firecracker := proof.Firecracker(t)
	proof.Host(t)
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := generator{rand.New(rand.NewPCG(seed, 20261123))}
			q := question{}
			q.Name = t.Name()
			for range randomSteps {
				q.Steps = append(q.Steps, g.step())
			}
			q.Steps = append(q.Steps,
				step{Method: "PUT", Path: "/machine-config", Body: `{"vcpu_count":1,"mem_size_mib":128}`},
				step{Method: "PUT", Path: "/boot-source", Body: `{"kernel_image_path":"{dir}/kernel"}`},
				step{Method: "PUT", Path: "/actions", Body: `{"action_type":"InstanceStart"}`})
			for range randomSteps {
				q.Steps = append(q.Steps, g.lateStep())
			}
			want := ask(t, firecracker, nil, []question{q})
			got := ask(t, emulatorBinary(t), []string{"--machine", "null"}, []question{q})
			for i, s := range q.Steps {
				if !reflect.DeepEqual(want.answers[i], got.answers[i]) {
					t.Errorf("call %d, %s %s %s:\n-Firecracker %v\n+emulator    %v", i, s.Method, s.Path, s.Body, want.answers[i], got.answers[i])
				}
			}
			if want.exit != got.exit {
				t.Errorf("exit: Firecracker %s, emulator %s", want.exit, got.exit)
			}
		})
	}
}

// generator makes requests.
type generator struct{ *rand.Rand }

func (g generator) one(list ...string) string { return list[g.IntN(len(list))] }

// number is a number that is likely to be near a limit.
func (g generator) number() string {
	return g.one("0", "1", "2", "3", "32", "33", "64", "127", "128", "129", "256", "1024", "65535", "65536", "4294967295", "4294967296",
		"-1", "1.5", "1e3", "null", `"1"`, "18446744073709551615", "18446744073709551616")
}

func (g generator) truth() string {
	return g.one("true", "false", "true", "false", "null", "0", `"true"`)
}

func (g generator) file() string {
	return g.one(`"{dir}/disk.img"`, `"{dir}/disk2.img"`, `"{dir}/odd.img"`, `"{dir}/empty.img"`, `"{dir}/nothing"`, `"{dir}/folder"`, "null", "1")
}

func (g generator) bucket() string {
	b := fmt.Sprintf(`{"size":%s,"refill_time":%s`, g.number(), g.number())
	if g.IntN(2) == 0 {
		b += `,"one_time_burst":` + g.number()
	}
	return g.one(b+"}", b+"}", "null", "{}")
}

func (g generator) limiter() string {
	return g.one(fmt.Sprintf(`{"bandwidth":%s,"ops":%s}`, g.bucket(), g.bucket()), `{"ops":`+g.bucket()+"}", "{}", "null", "[]")
}

// object joins some of the fields in any order.
func (g generator) object(fields ...string) string {
	g.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	kept := []string{}
	for _, f := range fields {
		if g.IntN(8) > 0 {
			kept = append(kept, f)
		}
	}
	if g.IntN(20) == 0 {
		kept = append(kept, `"surprise":{"a":[1,"\u00e4"]}`)
	}
	if len(kept) > 0 && g.IntN(25) == 0 {
		kept = append(kept, kept[0])
	}
	return "{" + strings.Join(kept, ",") + "}"
}

// damage changes one byte of a body, now and then.
func (g generator) damage(body string) string {
	if body == "" || g.IntN(12) > 0 {
		return body
	}
	b := []byte(body)
	b[g.IntN(len(b))] = ` {}[]",:0e.-\ntf`[g.IntN(16)]
	return string(b)
}

// lateStep is a request for a VM that runs.
func (g generator) lateStep() step {
	field := func(name, value string) string { return `"` + name + `":` + value }
	id := g.one("a", "b", "c", "eth0", "rootfs")
	s := step{Method: "PATCH"}
	switch g.IntN(10) {
	case 0:
		s.Path, s.Body = "/vm", g.one(`{"state":"Paused"}`, `{"state":"Resumed"}`)
	case 1, 2:
		s.Path = "/drives/" + id
		s.Body = g.object(field("drive_id", `"`+id+`"`), field("path_on_host", g.file()), field("rate_limiter", g.limiter()))
	case 3:
		s.Path = "/network-interfaces/" + id
		s.Body = g.object(field("iface_id", `"`+id+`"`), field("rx_rate_limiter", g.limiter()), field("tx_rate_limiter", g.limiter()))
	case 4:
		s.Path, s.Body = "/pmem/"+id, g.object(field("id", `"`+id+`"`), field("rate_limiter", g.limiter()))
	case 5:
		s.Path, s.Body = "/balloon", g.object(field("amount_mib", g.number()))
	case 6:
		s.Path, s.Body = "/balloon/statistics", g.object(field("stats_polling_interval_s", g.number()))
	case 7:
		s.Path, s.Body = g.one("/balloon/hinting/start", "/balloon/hinting/stop", "/hotplug/memory"), g.object(field("requested_size_mib", g.number()))
	default:
		return g.step()
	}
	s.Body = g.damage(s.Body)
	return s
}

func (g generator) step() step {
	field := func(name, value string) string { return `"` + name + `":` + value }
	s := step{Method: "PUT"}
	id := g.one("a", "b", "c", "eth0", "rootfs", "x-y")
	switch g.IntN(16) {
	case 0, 1:
		s.Method, s.Path = g.one("PUT", "PATCH"), "/machine-config"
		s.Body = g.object(field("vcpu_count", g.number()), field("mem_size_mib", g.number()), field("smt", g.truth()),
			field("huge_pages", g.one(`"None"`, `"2M"`, "null")), field("track_dirty_pages", g.truth()))
	case 2, 3:
		s.Path = "/drives/" + id
		s.Body = g.object(field("drive_id", `"`+g.one(id, id, id, "b")+`"`), field("path_on_host", g.file()), field("is_root_device", g.truth()),
			field("is_read_only", g.truth()), field("cache_type", g.one(`"Unsafe"`, `"Writeback"`, `"x"`)), field("rate_limiter", g.limiter()))
	case 4, 5:
		s.Path = "/network-interfaces/" + id
		s.Body = g.object(field("iface_id", `"`+g.one(id, id, id, "b")+`"`), field("host_dev_name", `"`+g.one("tap0", "tap1", "tap2", "much-too-long-name")+`"`),
			field("guest_mac", g.one(`"06:00:00:00:00:01"`, `"06:00:00:00:00:02"`, "null", `"x"`)), field("mtu", g.number()), field("rx_rate_limiter", g.limiter()))
	case 6:
		s.Path = "/vsock"
		s.Body = g.object(field("guest_cid", g.number()), field("uds_path", g.one(`"{dir}/v"`, `"{dir}/w"`, `"{dir}/nothing/v"`)), field("vsock_id", `"v"`))
	case 7:
		s.Path, s.Body = "/balloon", g.object(field("amount_mib", g.number()), field("deflate_on_oom", g.truth()), field("stats_polling_interval_s", g.number()))
	case 8:
		s.Method, s.Path = g.one("PUT", "PATCH"), "/mmds"
		s.Body = g.one(`{"a":{"b":1}}`, `{"a":null}`, `[1,2]`, `{"a":{"b":null,"c":0.1}}`, `"x"`, "null", `{"z":`+g.number()+"}")
	case 9:
		s.Path = "/mmds/config"
		s.Body = g.object(field("network_interfaces", g.one(`["a"]`, `["a","b"]`, "[]", `["eth0"]`)), field("version", g.one(`"V1"`, `"V2"`)),
			field("ipv4_address", g.one(`"169.254.3.4"`, `"10.0.0.1"`, "null")))
	case 10:
		s.Path = "/pmem/" + id
		s.Body = g.object(field("id", `"`+id+`"`), field("path_on_host", g.file()), field("root_device", g.truth()), field("rate_limiter", g.limiter()))
	case 11:
		s.Path = "/hotplug/memory"
		s.Body = g.object(field("total_size_mib", g.number()), field("block_size_mib", g.number()), field("slot_size_mib", g.number()))
	case 12:
		s.Path = "/boot-source"
		s.Body = g.object(field("kernel_image_path", g.one(`"{dir}/kernel"`, `"{dir}/notelf"`, `"{dir}/nothing"`)), field("initrd_path", g.one("null", `"{dir}/initrd"`)),
			field("boot_args", g.one(`"console=ttyS0"`, "null", `"a -- b"`)))
	case 13:
		s.Path, s.Body = "/entropy", g.object(field("rate_limiter", g.limiter()))
	case 14:
		s.Path, s.Body = "/actions", g.object(field("action_type", g.one(`"FlushMetrics"`, `"SendCtrlAltDel"`, `"x"`)))
	default:
		s.Method, s.Path = "GET", g.one("/vm/config", "/", "/mmds", "/balloon", "/machine-config", "/balloon/statistics", "/hotplug/memory")
	}
	s.Body = g.damage(s.Body)
	return s
}
