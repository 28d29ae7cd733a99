package smartvm

// A step is one thing that an operation changes on the host or has somebody change. An operation may be ended before and
// after each of them, by a kill, a full disk or a power cut; what it leaves must then be something that the next command
// understands. The list below is the whole of it, and a test walks it: it fails for a step that no operation takes, and
// for one that is not listed.
type step string

// The steps of each operation, in order.
const (
	stepCreateAside   step = "create: folder made aside"
	stepCreateRecord  step = "create: record written"
	stepCreateName    step = "create: name taken"
	stepCreatePublish step = "create: folder named"

	stepStartRuntime  step = "start: runtime folder made"
	stepStartJournal  step = "start: journal begun"
	stepStartMonitor  step = "start: monitor started"
	stepStartStage    step = "start: drives staged"
	stepStartRecord   step = "start: record written"
	stepStartCgroup   step = "start: cgroup made"
	stepStartSpawn    step = "start: VMM spawned"
	stepStartNote     step = "start: VMM noted"
	stepStartReady    step = "start: API answers"
	stepStartTell     step = "start: VMM told"
	stepStartRunning  step = "start: noted as running"
	stepStartCommit   step = "start: monitor let go"
	stepRestoreStage  step = "restore: drives cloned"
	stepRestoreLoad   step = "restore: snapshot loaded"
	stepPauseVMM      step = "pause: VMM paused"
	stepPauseNote     step = "pause: noted"
	stepResumeVMM     step = "resume: VMM resumed"
	stepResumeNote    step = "resume: noted"
	stepStopNote      step = "stop: noted"
	stepStopVMM       step = "stop: VMM ended"
	stepMonitorSpawn  step = "monitor: VMM started"
	stepMonitorNote   step = "monitor: end noted"
	stepMonitorSettle step = "monitor: settling begun"

	stepSettleKill    step = "settle: processes ended"
	stepSettleNote    step = "settle: end noted"
	stepSettleSockets step = "settle: sockets removed"
	stepSettleJournal step = "settle: runtime folder removed"
	stepSettleHome    step = "settle: unfinished drives removed"

	stepRemoveHide   step = "remove: folder hidden"
	stepRemoveName   step = "remove: name freed"
	stepRemoveFolder step = "remove: folder removed"

	stepSnapshotAside   step = "snapshot: folder made aside"
	stepSnapshotState   step = "snapshot: state written"
	stepSnapshotDrives  step = "snapshot: drives copied"
	stepSnapshotPublish step = "snapshot: folder named"

	stepSnapshotHide   step = "remove snapshot: folder hidden"
	stepSnapshotRemove step = "remove snapshot: folder removed"

	stepRenameTake   step = "rename: name taken"
	stepRenameRecord step = "rename: record written"
	stepRenameFree   step = "rename: old name freed"

	stepSwapNote   step = "update drive: name noted"
	stepSwapLend   step = "update drive: file placed"
	stepSwapVMM    step = "update drive: VMM told"
	stepSwapRecord step = "update drive: record written"
	stepSwapDrop   step = "update drive: old file taken away"

	stepSweepAside step = "gc: leftover removed"
)

// allSteps lists every step there is.
func allSteps() []step {
	return []step{
		stepCreateAside, stepCreateRecord, stepCreateName, stepCreatePublish,
		stepStartRuntime, stepStartJournal, stepStartMonitor, stepStartStage, stepStartRecord, stepStartCgroup, stepStartSpawn, stepStartNote,
		stepStartReady, stepStartTell, stepStartRunning, stepStartCommit, stepRestoreStage, stepRestoreLoad,
		stepPauseVMM, stepPauseNote, stepResumeVMM, stepResumeNote, stepStopNote, stepStopVMM,
		stepMonitorSpawn, stepMonitorNote, stepMonitorSettle,
		stepSettleKill, stepSettleNote, stepSettleSockets, stepSettleJournal, stepSettleHome,
		stepRemoveHide, stepRemoveName, stepRemoveFolder,
		stepSnapshotAside, stepSnapshotState, stepSnapshotDrives, stepSnapshotPublish, stepSnapshotHide, stepSnapshotRemove,
		stepRenameTake, stepRenameRecord, stepRenameFree,
		stepSwapNote, stepSwapLend, stepSwapVMM, stepSwapRecord, stepSwapDrop,
		stepSweepAside,
	}
}

// stepHook is called before and after each step; its error takes the step's place. Only tests set one.
type stepHook func(s step, after bool) error

// take takes a step.
func (hook stepHook) take(s step, f func() error) error {
	if hook == nil {
		return f()
	}
	if err := hook(s, false); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return hook(s, true)
}
