package smartvm

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"smartvm/internal/lazyregexp"
)

const (
	maxKeyLen     = 63 // Firecracker's --id takes 64; one less keeps a key a valid DNS label
	keyDigestLen  = 10 // hex digits of the SHA-256 of an id that is not its own key
	keyForNothing = "vm"
)

var (
	ownKey     = lazyregexp.New(`^[a-z0-9][a-z0-9-]{0,62}$`)
	derivedKey = lazyregexp.New(`-[0-9a-f]{10}$`)
)

// keyOf returns the name by which everything of the VM is found: its folder, Firecracker's --id, its socket, its TAPs.
// It holds lower-case letters, digits and `-` only and has at most 63 of them.
//
// A plain id is its own key. Any other is made safe and gets a digest of the id, so that two ids never share a key:
// `Web_1` and `web-1` differ. For the same reason an id that ends as a derived key does (`-` and ten hex digits) gets a
// digest as well; otherwise somebody could choose another VM's key as an id.
func keyOf(id string) string {
	if ownKey.MatchString(id) && !derivedKey.MatchString(id) {
		return id
	}
	digest := sha256.Sum256([]byte(id))
	suffix := "-" + hex.EncodeToString(digest[:])[:keyDigestLen]

	safe := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, id)
	safe = safe[:min(len(safe), maxKeyLen-len(suffix))]
	if safe = strings.Trim(safe, "-"); safe == "" {
		safe = keyForNothing
	}
	return safe + suffix
}
