package serde

import (
	"fmt"
	"strconv"
)

// Error is why a JSON text was refused: the same words as serde_json's, at the same place.
type Error struct {
	Message string
	// Line and Column count from 1 and 0, as serde_json counts them: the column is the number of bytes read on the line.
	// Line is 0 for an error without a place.
	Line, Column int
}

// Error gives the message and, where there is one, its place.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("%s at line %d column %d", e.Message, e.Line, e.Column)
}

// Debug gives the error as Rust's {:?} prints it, for the log lines that hold it so.
func (e *Error) Debug() string {
	return fmt.Sprintf("Error(%s, line: %d, column: %d)", strconv.Quote(e.Message), e.Line, e.Column)
}

// Fail returns an error of a value's own making, for a Decode function; the decoder adds the place.
func Fail(format string, args ...any) error {
	return &Error{Message: fmt.Sprintf(format, args...)}
}

// The messages of serde_json's ErrorCode (error.rs) that a slice reader can give.
const (
	eofList           = "EOF while parsing a list"
	eofObject         = "EOF while parsing an object"
	eofString         = "EOF while parsing a string"
	eofValue          = "EOF while parsing a value"
	expectedColon     = "expected `:`"
	expectedListEnd   = "expected `,` or `]`"
	expectedObjectEnd = "expected `,` or `}`"
	expectedIdent     = "expected ident"
	expectedValue     = "expected value"
	invalidEscape     = "invalid escape"
	invalidNumber     = "invalid number"
	outOfRange        = "number out of range"
	invalidUnicode    = "invalid unicode code point"
	controlCharacter  = `control character (\u0000-\u001F) found while parsing a string`
	keyNotString      = "key must be a string"
	loneSurrogate     = "lone leading surrogate in hex escape"
	endOfHexEscape    = "unexpected end of hex escape"
	trailingComma     = "trailing comma"
	trailingChars     = "trailing characters"
	recursionLimit    = "recursion limit exceeded"
)
