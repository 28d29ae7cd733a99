package emulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"smartvm/emulator/microhttp"
	"smartvm/emulator/serde"
)

var (
	errEmptyID    = errors.New("The ID cannot be empty.")
	errInvalidID  = errors.New("API Resource IDs can only contain alphanumeric characters and underscores.")
	errIDMismatch = errors.New("The id from the path does not match the id from the body!")
	errEmptyPatch = errors.New("Empty PATCH request.")
)

// decode reads a request's body.
func decode(body []byte, d serde.Decode) error {
	if err := serde.Unmarshal(body, d); err != nil {
		return fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err)
	}
	return nil
}

// checkID checks the id in a path; nil means that the path has none.
func checkID(id *string) error {
	if id == nil || *id == "" {
		return errEmptyID
	}
	for _, r := range *id {
		if r != '_' && !alphanumeric(r) {
			return errInvalidID
		}
	}
	return nil
}

// alphanumeric is Rust's char::is_alphanumeric.
func alphanumeric(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.Other_Alphabetic, r)
}

// handle answers a request.
func (c *controller) handle(r *microhttp.Request) *microhttp.Response {
	began := time.Now()
	c.log.Info(moduleAPI, "The API server received a %s.", c.describe(r))
	a, deprecation, err := parse(r)
	c.metrics.count(r.Method, firstToken(r.Path), err != nil)
	if err != nil {
		c.log.Error(moduleAPI, "%v", err)
		return &microhttp.Response{Status: 400, Body: faultBody(err)}
	}
	data, err := c.run(a)
	response := c.respond(data, err)
	if deprecation != "" {
		c.log.Warn(moduleAPI, "%s", deprecation)
		c.metrics.deprecated++
		response.Deprecated = true
	}
	c.log.Debug(moduleAPI, "Total previous API call duration: %d us.", time.Since(began).Microseconds())
	return response
}

func (c *controller) respond(data any, err error) *microhttp.Response {
	switch {
	case errors.Is(err, errMMDSLimit):
		c.log.Error(moduleAPI, "Received Error. Status code: 413 Payload too large. Message: %v", err)
		return &microhttp.Response{Status: 413, Body: faultBody(err)}
	case err != nil:
		c.log.Error(moduleAPI, "Received Error. Status code: 400 Bad Request. Message: %v", err)
		return &microhttp.Response{Status: 400, Body: faultBody(err)}
	case data == nil:
		c.log.Info(moduleAPI, "The request was executed successfully. Status code: 204 No Content.")
		return &microhttp.Response{Status: 204}
	}
	c.log.Info(moduleAPI, "The request was executed successfully. Status code: 200 OK.")
	return &microhttp.Response{Status: 200, Body: marshal(data)}
}

func faultBody(err error) []byte {
	return append(serde.AppendString([]byte(`{"fault_message":`), err.Error()), '}')
}

func marshal(data any) []byte {
	if raw, ok := data.(rawJSON); ok {
		return raw
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(data); err != nil {
		panic("emulator: an answer cannot be written as JSON: " + err.Error()) // a fault in this program
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// describe tells of a request for the log. Metadata never gets there, CPU templates only when debugging.
func (c *controller) describe(r *microhttp.Request) string {
	text := fmt.Sprintf("%s request on %q", r.Method[:1]+strings.ToLower(r.Method[1:]), r.Path)
	switch {
	case r.Body == nil || r.Path == "/mmds":
		return text
	case r.Path == "/cpu-config" && !c.log.enabled(levelDebug):
		return text + ". To view the CPU template received by the API, configure log-level to DEBUG"
	case !utf8.Valid(r.Body):
		return text + ` with body "inconvertible to UTF-8"`
	}
	return fmt.Sprintf("%s with body %q", text, r.Body)
}

// tokens takes a path apart: leading slashes do not count, and neither does one at the end.
func tokens(path string) []string {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(path, "/"), "/")
}

func firstToken(path string) string {
	if t := tokens(path); len(t) > 0 {
		return t[0]
	}
	return ""
}

// parse turns a request into an action, and returns the notice about deprecated fields in it.
func parse(r *microhttp.Request) (action, string, error) {
	t := tokens(r.Path)
	token := func(i int) *string {
		if i < len(t) {
			return &t[i]
		}
		return nil
	}
	first := ""
	if p := token(0); p != nil {
		first = *p
	}
	switch {
	case r.Method == "GET" && r.Body != nil:
		return nil, "", errors.New("GET request cannot have a body.")
	case r.Method == "GET":
		if a, err := parseGet(first, token); a != nil || err != nil {
			return a, "", err
		}
	case r.Method == "PUT" && r.Body == nil:
		return nil, "", errors.New("Empty PUT request.")
	case r.Method == "PUT":
		if known, a, deprecation, err := parsePut(first, token, r.Body); known {
			return a, deprecation, err
		}
	case r.Method == "PATCH" && first == "balloon":
		return parseBalloonPatch(token, r.Body)
	case r.Method == "PATCH" && r.Body == nil:
		return nil, "", errEmptyPatch
	case r.Method == "PATCH":
		if known, a, deprecation, err := parsePatch(first, token, r.Body); known {
			return a, deprecation, err
		}
	case r.Body != nil:
		return nil, "", errors.New("Empty Delete request.")
	case first == string(kindDrive), first == string(kindPmem), first == string(kindInterface):
		return parseUnplug(deviceKind(first), token(1))
	}
	return nil, "", invalidPath(r.Method, first)
}

func invalidPath(method, path string) error {
	return fmt.Errorf("Invalid request method and/or path: %s %s.", method, path)
}

func parseGet(first string, token func(int) *string) (action, error) {
	second := token(1)
	switch {
	case first == "":
		return getInfo{}, nil
	case first == "version":
		return getVersion{}, nil
	case first == "vm" && second != nil && *second == "config":
		return getConfig{}, nil
	case first == "machine-config":
		return getMachineConfig{}, nil
	case first == "mmds":
		return mmdsCall(getMMDS), nil
	case first == "hotplug" && second != nil && *second == "memory":
		return getMemoryHotplug{}, nil
	case first != "balloon":
		return nil, nil
	case second == nil:
		return getBalloon{}, nil
	case *second == "statistics":
		return getBalloonStats, nil
	case *second != "hinting":
		return nil, fmt.Errorf("Unrecognized GET request path `%s`.", *second)
	}
	switch third := token(2); {
	case third == nil:
		return nil, errors.New("Unrecognized GET request path `/hinting/`.")
	case *third != "status":
		return nil, fmt.Errorf("Unrecognized GET request path `/hinting/%s`.", *third)
	}
	return getHinting, nil
}

func parsePut(first string, token func(int) *string, body []byte) (known bool, a action, deprecation string, err error) {
	switch first {
	case "actions":
		a, deprecation, err = parseAction(body)
	case "balloon":
		a, deprecation, err = parsePutBalloon(body)
	case "boot-source":
		a, deprecation, err = parsePutBootSource(body)
	case "cpu-config":
		a, deprecation, err = parsePutCPUConfig(body)
	case "drives":
		a, deprecation, err = parsePutDrive(body, token(1))
	case "pmem":
		a, deprecation, err = parsePutPmem(body, token(1))
	case "logger":
		a, deprecation, err = parsePutLogger(body)
	case "serial":
		a, deprecation, err = parsePutSerial(body)
	case "machine-config":
		a, deprecation, err = parsePutMachineConfig(body)
	case "metrics":
		a, deprecation, err = parsePutMetrics(body)
	case "mmds":
		a, deprecation, err = parsePutMMDS(body, token(1))
	case "network-interfaces":
		a, deprecation, err = parsePutInterface(body, token(1))
	case "snapshot":
		a, deprecation, err = parsePutSnapshot(body, token(1))
	case "vsock":
		a, deprecation, err = parsePutVsock(body)
	case "entropy":
		a, deprecation, err = parsePutEntropy(body)
	case "hotplug":
		if second := token(1); second == nil || *second != "memory" {
			return false, nil, "", nil
		}
		a, deprecation, err = parsePutMemoryHotplug(body)
	default:
		return false, nil, "", nil
	}
	return true, a, deprecation, err
}

func parsePatch(first string, token func(int) *string, body []byte) (known bool, a action, deprecation string, err error) {
	switch first {
	case "drives":
		a, deprecation, err = parsePatchDrive(body, token(1))
	case "machine-config":
		a, deprecation, err = parsePatchMachineConfig(body)
	case "mmds":
		a, deprecation, err = parsePatchMMDS(body)
	case "network-interfaces":
		a, deprecation, err = parsePatchInterface(body, token(1))
	case "pmem":
		a, deprecation, err = parsePatchPmem(body, token(1))
	case "vm":
		a, deprecation, err = parsePatchVM(body)
	case "hotplug":
		if second := token(1); second == nil || *second != "memory" {
			return false, nil, "", nil
		}
		a, deprecation, err = parsePatchMemoryHotplug(body)
	default:
		return false, nil, "", nil
	}
	return true, a, deprecation, err
}

func parseBalloonPatch(token func(int) *string, body []byte) (action, string, error) {
	second := token(1)
	switch {
	case second != nil && *second == "hinting":
	case body == nil:
		return nil, "", errEmptyPatch
	case second != nil && *second == "statistics":
		return parsePatchBalloonStats(body)
	default:
		return parsePatchBalloon(body)
	}
	switch third := token(2); {
	case third == nil:
		return nil, "", errors.New("Unrecognized PATCH request path `/hinting/`.")
	case *third == "start":
		return parseStartHinting(body)
	case *third == "stop":
		return stopHinting, "", nil
	default:
		return nil, "", fmt.Errorf("Unrecognized PATCH request path `/hinting/%s`.", *third)
	}
}
