package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"
)

// operation is one of the API's, as this client performs it. draw makes an arbitrary valid request of it.
type operation struct {
	name string // method and path of the description
	draw func(t *rapid.T) func(context.Context, *Client) error
}

// operations covers the whole API.
func operations() []operation {
	return []operation{
		asking("GET /", (*Client).Info),
		asking("GET /version", (*Client).GetVersion),
		asking("GET /vm/config", (*Client).GetVMConfig),
		asking("GET /machine-config", (*Client).GetMachineConfig),
		asking("GET /balloon", (*Client).GetBalloon),
		asking("GET /balloon/statistics", (*Client).GetBalloonStats),
		asking("GET /balloon/hinting/status", (*Client).GetBalloonHinting),
		asking("GET /hotplug/memory", (*Client).GetMemoryHotplug),
		asking("GET /mmds", (*Client).GetMMDS),
		oneOf("PUT /actions", (*Client).InstanceStart, (*Client).FlushMetrics, (*Client).SendCtrlAltDel),
		oneOf("PATCH /vm", (*Client).Pause, (*Client).Resume),
		oneOf("PATCH /balloon/hinting/stop", (*Client).StopBalloonHinting),
		sending("PUT /snapshot/create", (*Client).CreateSnapshot),
		sending("PUT /snapshot/load", (*Client).LoadSnapshot),
		sending("PUT /machine-config", (*Client).PutMachineConfig),
		sending("PATCH /machine-config", (*Client).PatchMachineConfig),
		sending("PUT /cpu-config", (*Client).PutCPUConfig),
		sending("PUT /boot-source", (*Client).PutBootSource),
		sending("PUT /drives/{drive_id}", (*Client).PutDrive),
		sending("PATCH /drives/{drive_id}", (*Client).PatchDrive),
		sending("PUT /pmem/{id}", (*Client).PutPmem),
		sending("PATCH /pmem/{id}", (*Client).PatchPmem),
		sending("PUT /network-interfaces/{iface_id}", (*Client).PutNetworkInterface),
		sending("PATCH /network-interfaces/{iface_id}", (*Client).PatchNetworkInterface),
		sending("PUT /vsock", (*Client).PutVsock),
		sending("PUT /entropy", (*Client).PutEntropy),
		sending("PUT /serial", (*Client).PutSerial),
		sending("PUT /logger", (*Client).PutLogger),
		sending("PUT /metrics", (*Client).PutMetrics),
		sending("PUT /balloon", (*Client).PutBalloon),
		sending("PATCH /balloon", (*Client).PatchBalloon),
		sending("PATCH /balloon/statistics", (*Client).PatchBalloonStats),
		sending("PATCH /balloon/hinting/start", (*Client).StartBalloonHinting),
		sending("PUT /hotplug/memory", (*Client).PutMemoryHotplug),
		sending("PATCH /hotplug/memory", (*Client).PatchMemoryHotplug),
		sending("PUT /mmds/config", (*Client).PutMMDSConfig),
		{"PUT /mmds", metadata((*Client).PutMMDS)},
		{"PATCH /mmds", metadata((*Client).PatchMMDS)},
	}
}

func asking[T any](name string, call func(*Client, context.Context) (T, error)) operation {
	return operation{name, func(*rapid.T) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error { _, err := call(c, ctx); return err }
	}}
}

func oneOf(name string, calls ...func(*Client, context.Context) error) operation {
	return operation{name, func(t *rapid.T) func(context.Context, *Client) error {
		call := calls[rapid.IntRange(0, len(calls)-1).Draw(t, name)]
		return func(ctx context.Context, c *Client) error { return call(c, ctx) }
	}}
}

func sending[T any](name string, call func(*Client, context.Context, T) error) operation {
	return operation{name, func(t *rapid.T) func(context.Context, *Client) error {
		var body T
		draw(t, reflect.ValueOf(&body).Elem(), "", false)
		return func(ctx context.Context, c *Client) error { return call(c, ctx, body) }
	}}
}

func metadata(call func(*Client, context.Context, any) error) func(t *rapid.T) func(context.Context, *Client) error {
	return func(t *rapid.T) func(context.Context, *Client) error {
		contents := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "contents")
		return func(ctx context.Context, c *Client) error { return call(c, ctx, contents) }
	}
}

func TestEveryOperationOfTheDescriptionHasACall(t *testing.T) {
	t.Parallel()
	var want, have []string
	for path, item := range describe(t, "1.16.1").doc.Paths.Map() {
		for method := range item.Operations() {
			want = append(want, method+" "+path)
		}
	}
	for _, o := range operations() {
		have = append(have, o.name)
	}
	if len(want) != 38 {
		t.Errorf("the description of 1.16.1 has %d operations, not 38", len(want))
	}
	if diff := cmp.Diff(set(want), set(have)); diff != "" {
		t.Errorf("operations (-description +client):\n%s", diff)
	}
}

// Every request that the client makes fits the description of 1.16.1, and what does not fit that of 1.15.1 is exactly
// what a client of 1.15.1 refuses to send.
func TestEveryRequestFitsBothDescriptions(t *testing.T) {
	t.Parallel()
	newer, older := describe(t, "1.16.1"), describe(t, "1.15.1")
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			server := startVMM(t, nil)
			client := server.client(t)
			refused := 0
			rapid.Check(t, func(t *rapid.T) {
				call := o.draw(t)
				client.SetVersion(Version{1, 16, 1, ""})
				_ = call(t.Context(), client) // the answer is an empty object, which not every call takes
				sent := server.last()
				if sent == nil {
					t.Fatal("nothing was sent to 1.16.1")
				}
				if route, err := newer.check(sent); err != nil || route != o.name {
					t.Fatalf("1.16.1: %s %s: route %q: %v\n%s", sent.method, sent.path, route, err, sent.body)
				}
				_, unknown := older.check(sent)

				client.SetVersion(Version{1, 15, 1, ""})
				err := call(t.Context(), client)
				var gated *UnsupportedFieldError
				isGated := errors.As(err, &gated)
				if isGated != (unknown != nil) {
					t.Fatalf("the gate for 1.15.1 says %v, its description says %v\n%s", err, unknown, sent.body)
				}
				if isGated {
					refused++
					if again := server.last(); again != nil {
						t.Fatalf("%s %s was sent in spite of %v", again.method, again.path, err)
					}
				} else if again := server.last(); again == nil || !bytes.Equal(again.body, sent.body) {
					t.Fatalf("1.15.1 got another request than 1.16.1: %+v", again)
				}
			})
			newIn116 := map[string]bool{
				"PUT /network-interfaces/{iface_id}": true, "PUT /pmem/{id}": true, "PATCH /pmem/{id}": true,
				"PUT /serial": true, "PUT /snapshot/load": true,
			}
			if newIn116[o.name] != (refused > 0) {
				t.Errorf("refused %d requests for 1.15.1", refused)
			}
		})
	}
}

func TestTheDescriptionRefusesAnUnknownField(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.15.1", "1.16.1"} {
		for _, path := range []string{"/boot-source", "/vsock", "/drives/a", "/snapshot/load"} {
			_, err := describe(t, version).check(&request{method: "PUT", path: path, body: []byte(
				`{"kernel_image_path":"k","guest_cid":3,"uds_path":"u","drive_id":"a","is_root_device":true,"snapshot_path":"s"}`)})
			if err == nil {
				t.Errorf("%s %s: a body with foreign fields passed: the check checks nothing", version, path)
			}
		}
	}
}

// description is a Firecracker API description that requests can be held against.
type description struct {
	doc    *openapi3.T
	router routers.Router
}

func describe(t *testing.T, version string) description {
	t.Helper()
	text, err := os.ReadFile("testdata/firecracker-v" + version + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("Trace, Off]"), []byte(`Trace, "Off"]`)) // YAML 1.1 reads a bare Off as false
	asJSON, err := yaml.YAMLToJSON(text)                                          // openapi2 has JSON tags only
	if err != nil {
		t.Fatal(err)
	}
	var v2 openapi2.T
	if err := json.Unmarshal(asJSON, &v2); err != nil {
		t.Fatal(err)
	}
	doc, err := openapi2conv.ToV3(&v2)
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = nil // the host's name does not matter
	closed := false
	for _, schema := range doc.Components.Schemas {
		// Firecracker refuses unknown fields, which the description does not say.
		if schema.Value.AdditionalProperties.Has == nil {
			schema.Value.AdditionalProperties.Has = &closed
		}
	}
	// PATCH takes any part of the machine's configuration (CHANGELOG.md, 1.11.0); the description wants all of it.
	for _, media := range doc.Paths.Find("/machine-config").Patch.RequestBody.Value.Content {
		partial := *media.Schema.Value
		partial.Required = nil
		media.Schema = &openapi3.SchemaRef{Value: &partial}
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return description{doc, router}
}

// check returns the operation that a request is, and in what it does not fit.
func (d description) check(r *request) (name string, err error) {
	var body io.Reader
	if len(r.body) > 0 {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequest(r.method, "http://localhost"+r.path, body)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	route, params, err := d.router.FindRoute(req)
	if err != nil {
		return "", err
	}
	return route.Method + " " + route.Path, openapi3filter.ValidateRequest(context.Background(),
		&openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route})
}

// draw fills v with an arbitrary value that Firecracker could take. The name is the field's in JSON; optional fields may
// stay zero.
func draw(t *rapid.T, v reflect.Value, name string, optional bool) {
	if optional && rapid.Bool().Draw(t, name+" unset") {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		draw(t, v.Elem(), name, false)
	case reflect.Struct:
		for i := range v.NumField() {
			name, rest, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			draw(t, v.Field(i), name, rest == "omitempty")
		}
	case reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(t, name+" length")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			draw(t, v.Index(i), fmt.Sprintf("%s %d", name, i), false)
		}
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, name))
	case reflect.String:
		v.SetString(text(v.Type(), name).Draw(t, name))
	case reflect.Uint16, reflect.Uint32:
		low := map[string]uint64{"mtu": 68, "guest_cid": 3}[name]
		v.SetUint(rapid.Uint64Range(low, 1<<v.Type().Bits()-1).Draw(t, name))
	default:
		low := map[string]int64{"vcpu_count": 1, "slot_size_mib": 128, "block_size_mib": 2}[name]
		high := int64(1) << 30
		switch {
		case name == "vcpu_count":
			high = 32
		case v.Kind() == reflect.Int64:
			high = 1<<63 - 1
		}
		v.SetInt(rapid.Int64Range(low, high).Draw(t, name))
	}
}

// text draws strings of a type that has few values, of a field that has a form, or any.
func text(kind reflect.Type, name string) *rapid.Generator[string] {
	some := func(values ...string) *rapid.Generator[string] { return rapid.SampledFrom(values) }
	switch kind {
	case reflect.TypeFor[CPUTemplate]():
		return some("None", "C3", "T2", "T2S", "T2CL", "T2A", "V1N1")
	case reflect.TypeFor[HugePages]():
		return some("None", "2M")
	case reflect.TypeFor[LogLevel]():
		return some("Off", "Error", "Warning", "Info", "Debug", "Trace")
	case reflect.TypeFor[CacheType]():
		return some("Unsafe", "Writeback")
	case reflect.TypeFor[IOEngine]():
		return some("Sync", "Async")
	case reflect.TypeFor[SnapshotType]():
		return some("Full", "Diff")
	case reflect.TypeFor[BackendType]():
		return some("File", "Uffd")
	case reflect.TypeFor[MMDSVersion]():
		return some("V1", "V2")
	}
	switch name {
	case "register":
		return some("eax", "ebx", "ecx", "edx")
	case "drive_id", "iface_id", "id":
		return rapid.StringMatching(`[A-Za-z0-9_]{1,12}`)
	}
	return rapid.String()
}

func set(names []string) map[string]bool {
	s := make(map[string]bool)
	for _, n := range names {
		s[n] = true
	}
	return s
}
