// Package image makes and opens base images: a kernel and what boots on it, together in one folder, a bundle.
//
// [BuildDebian] makes the default image from Debian's cloud kernel: the kernel as Firecracker takes it, and an
// initramfs with the modules that a microVM's devices need, busybox, and an init handed in by the caller. It needs no
// root and runs nothing but apt, and not even that when the packages are given. [Open] reads a bundle and holds it
// against its manifest. [ExtractKernel] and [InspectKernel] tell what a kernel file is and unpack it.
//
// Packages and kernels are read as untrusted data: every size is bounded, links in them are never followed, and nothing
// is written but the bundle's own files.
package image
