package kvm

import "testing"

// The guest's code says how many instructions it has; this counts them by running it in Go.
func TestTheLoopHasAMillionInstructions(t *testing.T) {
	t.Parallel()
	count, exits := 0, 0
	var bx, cx uint16
	for ip, steps := 0, 0; ; steps++ {
		if steps > 2*chunks*chunkInstructions {
			t.Fatal("the code does not end")
		}
		count++
		jump := func(zero bool) {
			ip += 2
			if !zero {
				ip += int(int8(loopCode[ip-1]))
			}
		}
		switch loopCode[ip] {
		case 0xbb:
			bx = uint16(loopCode[ip+1]) | uint16(loopCode[ip+2])<<8
			ip += 3
		case 0xb9:
			cx = uint16(loopCode[ip+1]) | uint16(loopCode[ip+2])<<8
			ip += 3
		case 0x49:
			cx--
			ip++
			count++
			jump(cx == 0)
		case 0xe6:
			exits++
			ip += 2
		case 0x4b:
			bx--
			ip++
			count++
			jump(bx == 0)
		case 0xf4:
			// Two instructions are outside of the chunks: the first and the last.
			if count != chunks*chunkInstructions+2 || exits != chunks {
				t.Fatalf("%d instructions and %d exits, want %d and %d", count, exits, chunks*chunkInstructions+2, chunks)
			}
			return
		default:
			t.Fatalf("unknown instruction %#x at %d", loopCode[ip], ip)
		}
	}
}
