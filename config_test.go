package smartvm

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fullConfig sets every field of a Config, whatever fields there are: numbers to 1, texts to "x", lists to two entries.
func fullConfig() *Config {
	var c Config
	fillValue(reflect.ValueOf(&c).Elem())
	return &c
}

func fillValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fillValue(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fillValue(v.Index(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		switch {
		case v.CanInt():
			v.SetInt(1)
		case v.CanFloat():
			v.SetFloat(1.5)
		default:
			v.SetUint(1)
		}
	}
}

func TestACloneSharesNothing(t *testing.T) {
	t.Parallel()
	original, clone := fullConfig(), fullConfig().clone()
	if diff := cmp.Diff(original, clone); diff != "" {
		t.Fatalf("the clone differs:\n%s", diff)
	}
	clone = original.clone()
	for path := range sharedMemory(reflect.ValueOf(original), reflect.ValueOf(clone), "Config") {
		t.Errorf("%s is shared", path)
	}
}

// sharedMemory yields the pointers and lists that lead to the same memory.
func sharedMemory(a, b reflect.Value, path string) map[string]bool {
	shared := map[string]bool{}
	var walk func(a, b reflect.Value, path string)
	walk = func(a, b reflect.Value, path string) {
		switch a.Kind() {
		case reflect.Pointer:
			if a.Pointer() == b.Pointer() {
				shared[path] = true
			}
			walk(a.Elem(), b.Elem(), path)
		case reflect.Slice:
			if a.Pointer() == b.Pointer() {
				shared[path] = true
			}
			for i := range a.Len() {
				walk(a.Index(i), b.Index(i), path+"[]")
			}
		case reflect.Struct:
			for i := range a.NumField() {
				walk(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name)
			}
		}
	}
	walk(a, b, path)
	return shared
}

func TestAnEmptyCloneIsEmpty(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(&Config{}, (&Config{}).clone()); diff != "" {
		t.Error(diff)
	}
}

func TestAWrittenConfigurationReadsBack(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]*Config{"full": fullConfig(), "empty": {}} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseConfig(name, data)
		if name == "empty" { // bootSource is always written
			if diff := cmp.Diff(`{"bootSource":{"kernelImagePath":""}}`, string(data)); diff != "" {
				t.Error(diff)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestWhichDrivesAreEphemeral(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		name    string
		drive   Drive
		allowed bool
		want    bool
	}{
		{"a writable drive", Drive{}, true, true},
		{"a read-only drive", Drive{IsReadOnly: true}, true, false},
		{"a read-only drive that wants to be", Drive{IsReadOnly: true, Ephemeral: &yes}, true, true},
		{"a writable drive that does not want to be", Drive{Ephemeral: &no}, true, false},
		{"a drive that wants to be, and the manager does not", Drive{Ephemeral: &yes}, false, false},
		{"a writable drive, and the manager does not want", Drive{}, false, false},
		{"a vhost-user drive", Drive{Socket: "s"}, true, false},
	} {
		if got := c.drive.isEphemeral(c.allowed); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestDefaultsAreFirecrackers(t *testing.T) {
	t.Parallel()
	var c Config
	c.applyDefaults()
	if diff := cmp.Diff(MachineConfig{VCPUCount: 1, MemSizeMiB: 128}, c.MachineConfig); diff != "" {
		t.Error(diff)
	}
	c.MachineConfig = MachineConfig{VCPUCount: 3, MemSizeMiB: 77}
	c.applyDefaults()
	if diff := cmp.Diff(MachineConfig{VCPUCount: 3, MemSizeMiB: 77}, c.MachineConfig); diff != "" {
		t.Error(diff)
	}
}
