package tetherotel

import (
	"fmt"
	"reflect"
	"unicode/utf8"
)

// maxText is the most bytes of an error's text, or of a stack, that a span is given.
// Whoever makes the error bounds it by nothing.
const maxText = 16 << 10

// cut returns a text that is not too long as it is, and the beginning of another one.
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

// textOf returns the text of an error, whose method may panic: if the error is a nil
// pointer, say.
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
