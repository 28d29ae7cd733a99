// Package lazyregexp compiles a regular expression when it is first used. A program that is started as often as a VM's
// supervisor must not spend its start on expressions that it never needs.
package lazyregexp

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression that may not be compiled yet. It is safe for concurrent use.
type Regexp struct{ compiled func() *regexp.Regexp }

// New returns the expression. One that is wrong panics when it is first used.
func New(expression string) Regexp {
	return Regexp{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })}
}

// MatchString reports whether s contains a match.
func (r Regexp) MatchString(s string) bool { return r.compiled().MatchString(s) }

// FindStringSubmatch returns the leftmost match and its groups, or nil.
func (r Regexp) FindStringSubmatch(s string) []string { return r.compiled().FindStringSubmatch(s) }

// ReplaceAllString replaces each match by text.
func (r Regexp) ReplaceAllString(s, text string) string {
	return r.compiled().ReplaceAllString(s, text)
}
