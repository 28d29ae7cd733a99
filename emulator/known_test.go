package emulator_test

import (
	"os"
	"strings"
	"testing"
)

// knownDifferences are the exchanges of TestAGuestsWholeLifeLooksTheSameInTheLab in which the emulator is not as Firecracker,
// each with the words of docs/emulator.md that tell why.
var knownDifferences = map[string]string{
	`first, up: in the guest, ` + askMMDS: "MMDS: the store works, the guest does not reach it",
}

// askMMDS asks the metadata service from within the guest.
const askMMDS = `printf 'GET /who/am HTTP/1.1\r\n\r\n' | timeout 5 nc 169.254.169.254 80 2>/dev/null | tail -n 1`

func TestEveryKnownDifferenceIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/emulator.md")
	if err != nil {
		t.Fatal(err)
	}
	for exchange, words := range knownDifferences {
		if words == "" || !strings.Contains(string(text), words) {
			t.Errorf("%s: docs/emulator.md does not say %q", exchange, words)
		}
	}
}
