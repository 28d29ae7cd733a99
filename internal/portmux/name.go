package portmux

// PortName is the name of the virtio-serial port that the multiplexer runs over; the guest's kernel shows it in
// /sys/class/virtio-ports/*/name. Both ends look for it here.
const PortName = "smartvm.agent"
