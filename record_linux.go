package smartvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"smartvm/internal/atomicfile"
	"smartvm/record"
)

// vmRecord is what lasts of a VM, in <folder>/record.json. It is written whole, by whoever holds the VM's lock.
type vmRecord struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Image     string    `json:"image,omitempty"` // for people
	CreatedAt time.Time `json:"createdAt"`
	Config    Config    `json:"config"`  // as it was given
	Runtime   string    `json:"runtime"` // the folder of the VM's sockets and its journal
	VMM       vmmChoice `json:"vmm"`

	Remove  bool            `json:"remove,omitempty"` // the VM goes when it has ended
	Kept    bool            `json:"kept,omitempty"`   // it is to survive a power cut: its records are synced
	Owner   *record.Process `json:"owner,omitempty"`  // who takes the VM away in the end; nil: it stays until it is removed
	Restart Restart         `json:"restart,omitzero"`
	Command *Command        `json:"command,omitempty"`
	Timeout time.Duration   `json:"timeout,omitempty"` // from a start to where the VM is ended

	Jail *jailRecord `json:"jail,omitempty"` // nil before the first start, and where VMM.Jailed is not set
	Home *homeRecord `json:"home,omitempty"` // nil before the first start, and after a clean-up

	Instance  uint64    `json:"instance,omitempty"` // counts the starts
	Boot      string    `json:"boot,omitempty"`     // the host's boot id at the last of them
	StartedAt time.Time `json:"startedAt,omitzero"`
	Restarts  int       `json:"restarts,omitempty"` // by the policy, since the last start by hand
}

// vmmChoice is how the VM's VMM is run, whoever runs it.
type vmmChoice struct {
	Arch                  string        `json:"arch"`
	Emulate               bool          `json:"emulate,omitempty"`
	Binary                string        `json:"binary,omitempty"` // "" until the first start
	Args                  []string      `json:"args,omitempty"`
	AllowVersions         []string      `json:"allowVersions,omitempty"`
	WritableDrivesInPlace bool          `json:"writableDrivesInPlace,omitempty"`
	Jailed                bool          `json:"jailed,omitempty"`
	ShutdownTimeout       time.Duration `json:"shutdownTimeout"`
}

// homeRecord is a home that is staged.
type homeRecord struct {
	Seen     Config        `json:"seen"`   // as the VMM sees it: paths relative to the folder
	OnHost   Config        `json:"onHost"` // the same, with paths of the host
	Drives   []StagedDrive `json:"drives,omitempty"`
	Restored string        `json:"restored,omitempty"` // the snapshot's folder; there is no kernel to boot again then
	// Unused are names in the jail that were a drive's, or were to become one's: see UpdateDrive.
	Unused []string `json:"unused,omitempty"`
}

// vmJournal is what is going on with a VM, in <runtime>/journal.json. It dies with the host's boot, as do the processes
// and sockets that it names. The journal's resources are what a settling takes away.
type vmJournal struct {
	Instance uint64         `json:"instance"`
	State    journalState   `json:"state"`
	VMM      record.Process `json:"vmm,omitzero"`
	Monitor  record.Process `json:"monitor,omitzero"` // whoever waits for the VMM's end: a supervisor, or the library's host
	Ending   string         `json:"ending,omitempty"` // which call is about to end the VM
	Cgroup   string         `json:"cgroup,omitempty"` // the folder of the VM's cgroup; "" without limits
	PIDNS    bool           `json:"pidns,omitempty"`  // the VMM is process 1 of a PID namespace, which SIGTERM does not end
}

type journalState string

const (
	journalStarting journalState = "starting" // by whoever holds the VM's lock; nobody does: the start was interrupted
	journalRunning  journalState = "running"
	journalPaused   journalState = "paused"
)

// The kinds of resources in a journal.
const (
	kindProcess = "process" // name: "vmm" or "monitor"
	kindSocket  = "socket"  // name: the path, outside of the VM's folders
)

const maxRecord = 4 << 20

// Names in a VM's folders beside those that the VMM is given (folder_linux.go).
const (
	lockName    = "lock"
	recordName  = "record.json"
	exitName    = "exit.json"
	journalName = "journal.json"
	monitorName = "monitor" // locked by the monitor until the end of the VMM is noted
	readyName   = "ready"   // there once the guest's agent has answered
	commandName = "command" // there once the VM's command runs
)

// held is a VM under its lock: what may be changed.
type held struct {
	vm      *VM
	folder  folder
	lock    *record.Lock
	file    *record.Record // record.json, of which rec is the data
	rec     vmRecord
	journal *record.Record // journal.json; nil without one
	jour    vmJournal
}

// readRecord reads a VM's record. Its errors are record's own, or a *record.DamagedError for data that make no sense.
func readRecord(f folder) (*record.Record, vmRecord, error) {
	path := filepath.Join(f.data, recordName)
	file, err := record.Read(path)
	if err != nil {
		return nil, vmRecord{}, err
	}
	var rec vmRecord
	if err := json.Unmarshal(file.Data, &rec); err != nil {
		return nil, vmRecord{}, &record.DamagedError{Path: path, Err: err}
	}
	switch {
	case keyOf(rec.ID) != filepath.Base(f.data):
		err = fmt.Errorf("it is of a VM %q, whose folder this is not", rec.ID)
	case !filepath.IsAbs(rec.Runtime) || filepath.Base(rec.Runtime) != filepath.Base(f.data):
		err = fmt.Errorf("its runtime folder is %q", rec.Runtime)
	}
	if err != nil {
		return nil, vmRecord{}, &record.DamagedError{Path: path, Err: err}
	}
	return file, rec, nil
}

// readJournal reads a VM's journal; nil without one. A damaged one names nothing, and is told.
func readJournal(runtime string) (*record.Record, vmJournal, error) {
	path := filepath.Join(runtime, journalName)
	file, err := record.Read(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, vmJournal{}, nil
	}
	if err != nil {
		return nil, vmJournal{}, err
	}
	var jour vmJournal
	if err := json.Unmarshal(file.Data, &jour); err != nil {
		return nil, vmJournal{}, &record.DamagedError{Path: path, Err: err}
	}
	return file, jour, nil
}

// save writes the record.
func (h *held) save() error {
	data, err := json.Marshal(h.rec)
	if err != nil {
		return err
	}
	h.file.Data = data
	h.file.SchemaVersion, h.file.Writer = record.SchemaVersion, h.vm.manager.writer()
	return record.Write(h.folder.path(recordName), h.file, h.rec.Kept)
}

// note writes the journal. It is never synced: what it names does not survive a power cut either.
func (h *held) note() error {
	data, err := json.Marshal(h.jour)
	if err != nil {
		return err
	}
	if h.journal == nil {
		h.journal = &record.Record{}
	}
	h.journal.Data = data
	h.journal.SchemaVersion, h.journal.Writer = record.SchemaVersion, h.vm.manager.writer()
	if h.journal.Boot, err = record.BootID(); err != nil {
		return err
	}
	return record.Write(filepath.Join(h.folder.runtime, journalName), h.journal, false)
}

// ExitNote is how a VM's last run ended, as its monitor noted it in <folder>/exit.json.
type ExitNote struct {
	Instance uint64    `json:"instance"` // which start it is about
	At       time.Time `json:"at"`
	Code     int       `json:"code"`             // of the VMM; -1 when a signal ended it or nobody knows
	Signal   int       `json:"signal,omitempty"` // that ended the VMM
	Meaning  string    `json:"meaning"`
	Unknown  bool      `json:"unknown,omitempty"` // nobody was there to see the end

	By          string       `json:"by,omitempty"`    // the call that ended the VM: "stop", "kill", "timeout"; "" when it ended by itself
	Error       string       `json:"error,omitempty"` // why a start failed, or was given up
	Panic       string       `json:"panic,omitempty"` // the guest kernel's line, from the console
	OutOfMemory bool         `json:"outOfMemory,omitempty"`
	LimitMet    string       `json:"limitMet,omitempty"` // which of the VM's limits made themselves felt, in words
	Command     *CommandExit `json:"command,omitempty"`  // of the VM's own command
	LastOutput  string       `json:"lastOutput,omitempty"`
}

// CommandExit is how the command ended that a VM lives for.
type CommandExit struct {
	Code   int    `json:"code"`             // 0 to 255; 127 and 126 also when it could not be started
	Signal int    `json:"signal,omitempty"` // that killed it in the guest
	Error  string `json:"error,omitempty"`  // why it could not be started, or why nobody knows its status
}

// ExitCode is what a shell would report.
func (c CommandExit) ExitCode() int {
	if c.Signal != 0 {
		return 128 + c.Signal
	}
	return c.Code
}

// Summary is how the VMM ended, which limits it had met, and the line of a guest's kernel that panicked.
func (n ExitNote) Summary() string {
	text := n.exit().String()
	if n.LimitMet != "" {
		text += "; " + n.LimitMet
	}
	if n.Panic != "" {
		text += fmt.Sprintf("; last on the console: %q", n.Panic)
	}
	return text
}

// failed tells whether the VM's end was not in order.
func (n ExitNote) failed() bool {
	switch {
	case n.By == byStop || n.By == byKill:
		return false
	case n.Error != "" || n.Unknown || n.Panic != "" || n.Code != 0 || n.Signal != 0:
		return true
	}
	return false
}

func readExit(f folder) (*ExitNote, error) {
	text, err := readBounded(f.path(exitName), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var note ExitNote
	if err := json.Unmarshal(text, &note); err != nil {
		return nil, &record.DamagedError{Path: f.path(exitName), Err: err}
	}
	return &note, nil
}

// writeExit notes an end. A disk that is full costs the note, and the VM counts as lost.
func writeExit(f folder, note ExitNote) error {
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteUnsynced(f.path(exitName), append(text, '\n'), 0o600)
}
