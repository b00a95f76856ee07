package tetherhttp

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
)

// The errors that tasks return belong to the program: their methods may panic, as those of
// a nil *fs.PathError do. The functions below are how this package looks at such errors.
// A method that panics must not cut a client off or break the page.

// errorIs is errors.Is, except that it reports false if a method of err panics.
func errorIs(err, target error) bool {
	is, _ := guarded(func() bool { return errors.Is(err, target) })
	return is
}

// errorAs is errors.As. It reports false if a method of err panics, and for a nil pointer
// or function in err, whose methods cannot be called.
func errorAs[T any](err error) (target T, ok bool) {
	ok, _ = guarded(func() bool { return errors.As(err, &target) })
	return target, ok && !isNil(target)
}

// errorText is err.Error, or a text that says how the method panicked.
func errorText(err error) string {
	text, wrong := guarded(err.Error)
	return text + wrong
}

// guarded returns the result of f, or what went wrong if f panicked.
func guarded[T any](f func() T) (v T, wrong string) {
	defer func() {
		if r := recover(); r != nil {
			wrong = "(the error's own method panicked)"
			switch r.(type) {
			case string, runtime.Error: // other values have methods of their own
				wrong = fmt.Sprintf("(the error's own method panicked: %v)", r)
			}
		}
	}()
	return f(), ""
}

// isNil reports whether v is a nil pointer or a nil function.
func isNil(v any) bool {
	switch p := reflect.ValueOf(v); p.Kind() {
	case reflect.Pointer, reflect.Func:
		return p.IsNil()
	}
	return false
}
