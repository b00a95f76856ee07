package tetherotel

import (
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// maxText is the maximum length of an error's text, or of a stack, in a span, in bytes.
// What makes the error does not bound it.
const maxText = 16 << 10

// cut returns text, or its beginning with a note if it is too long.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return fmt.Sprintf("%s… (cut: %d bytes more)", text[:end], len(text)-end)
}

// textOf returns the text of an error. The error's method may panic, for example if the
// error is a nil pointer.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("the Error method of a %T panicked", err)
		}
	}()
	return cut(err.Error())
}

// typeOf returns the type of an error as trace.Span.RecordError of the SDK does.
func typeOf(err error) string {
	t := reflect.TypeOf(err)
	if t.PkgPath() == "" && t.Name() == "" {
		return t.String()
	}
	return t.PkgPath() + "." + t.Name()
}

// fmtWrapped is the type of what fmt.Errorf returns for one %w: it says nothing.
var fmtWrapped = reflect.TypeOf(fmt.Errorf("%w", errors.ErrUnsupported))

// conventionalType returns the error.type of an error as the semantic conventions define it
// and semconv.ErrorType of recent versions returns it: what its ErrorType method says, or
// else its type. It returns otherType if a method of the error panics.
func conventionalType(err error) (name string) {
	defer func() {
		if recover() != nil {
			name = otherType
		}
	}()
	var says interface{ ErrorType() string }
	if errors.As(err, &says) {
		if name := says.ErrorType(); name != "" {
			return name
		}
	}
	for reflect.TypeOf(err) == fmtWrapped {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	return typeOf(err)
}
