// Package lab makes a throw-away Linux host: a machine of QEMU's with a KVM of its own, in which this project runs as its
// users run it. Neither KVM nor root is needed for it, only QEMU and Debian's packages.
//
//	kernel, initrd   those of the default image (`make image`): our init is PID 1, our agent runs commands
//	/dev/vda         the root: Debian's packages, unpacked into a squashfs file; kept, and made again when they change
//	/dev/vdb         what is tried: our programs, the tests, Firecracker; made for each run
//	/dev/vdc         an empty XFS drive with reflinks, for what VMs keep; as good as new in each run
//
// The host has no network card. It lives as long as the process that started it, see Start.
//
// docs/lab.md tells how to use it.
package lab
