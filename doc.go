// Package smartvm runs Firecracker microVMs on a Linux host.
//
// A [Manager] makes VMs; a [VM] is started, paused, snapshotted, restored, stopped and cleaned up; a [Config] says what it
// is made of, and can be read from a YAML or JSON file ([LoadConfig]). Where the guest runs SmartVM's init ([Guest]),
// commands run in it through the guest's agent ([VM.Agent]). Errors are [*Error] with a [Code].
//
// A start is a list of steps that each hand back their own undo: a failure anywhere leaves nothing behind, and a stop
// walks the same steps back. The context of a call bounds that call; a VM lives until it is stopped.
//
// On a host without KVM the same code drives an emulator ([Options].Emulate): the guest is a real Linux kernel, but slow,
// and the boundary around it is no security boundary as KVM is.
//
// VMs run on Linux only. Elsewhere the package has what needs no VM: configurations and errors.
package smartvm
