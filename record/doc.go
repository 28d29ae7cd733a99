// Package record is what survives a crash: records of what was made, locks that die with their holder, and processes
// that are known again after a restart.
//
//   - A [Record] is one JSON file. What is about to be made is noted in it first ([Record.Intend]), so that whoever finds
//     the file after a crash knows what to look for. Reading it never trusts what a crash or a stranger left.
//   - A [Lock] is one file and flock(2). The kernel lets go of it when its holder dies, however it dies. It is held for an
//     operation, and its file is never removed alone, only together with the folder that it is in.
//   - A [Process] is a number and what makes it unique: the boot, and the process's start. A number alone may be a
//     stranger's by now.
//
// The package knows files, locks and processes, and nothing of what the names in a record mean. Locks and processes need
// Linux; records are portable.
package record
