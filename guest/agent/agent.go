// Package agent is the agent that runs in the guest: it answers the host's requests (package agentwire) on connections
// that a listener gives it, whatever carries them. The init (guest/init) starts it as a process of its own, so that PID 1
// can reap every orphan without taking a status from it.
//
// What becomes of a command when its connection ends first:
//
//   - an ordinary command belongs to its connection. Its process group gets SIGHUP, and SIGKILL after hangupGrace.
//   - the main command belongs to the guest. It goes on, its input ends, its output is dropped from then on, and the
//     guest shuts down when it has ended. So a guest survives a snapshot, which resets every connection.
//   - a detached command never had more of a connection than its start. Its streams are /dev/null.
//   - the detached main command is told to the host on connections that the agent dials, one after the other: its output,
//     from what was kept of it on, and its status. While the host does not listen it goes on, and what it writes then
//     is kept to the last keepBytes of each stream.
//
// A command has ended when its own process has. What it wrote is sent to the last byte; of a process that it left behind
// with its output open, only what comes while there is still something to send, or within outputGrace.
package agent

import "time"

const (
	// requestTimeout is how long a new connection may take to send its request.
	requestTimeout = 30 * time.Second
	// ackTimeout is how long the host may take to acknowledge an exit status after everything was sent. The host reads
	// at any rate, so only a host process that was stopped takes longer.
	ackTimeout = time.Minute
	// hangupGrace is what lies between SIGHUP and SIGKILL when a connection ends before its command.
	hangupGrace = 2 * time.Second
	// outputGrace is how long output is waited for after the command has ended.
	outputGrace = 200 * time.Millisecond
	// maxTail bounds what is read after the command has ended, in bytes: the most that a pipe can hold
	// (/proc/sys/fs/pipe-max-size), so that all of the command's own output is in it.
	maxTail = 1 << 20
	// keepBytes is how much of each stream of the detached main command is kept while no host takes it.
	keepBytes = 256 << 10
	// answerTimeout is how long the host may take to accept a connection that the agent dials, and to answer on it.
	answerTimeout = 5 * time.Second
	// redialPause is the first wait before the host is dialled again, redialPauseMax the longest; each is twice the last.
	redialPause    = 20 * time.Millisecond
	redialPauseMax = 2 * time.Second
	// tellTimeout is how long a host is looked for that takes the status of the detached main command, since it ended or
	// since the last host was lost.
	tellTimeout = 10 * time.Second
	// maxConns bounds the connections that are open at once.
	maxConns = 1024
)
