package tetherhttp

import "time"

// A constructor takes its configuration as an optional last argument, so that the default
// is not written at all: Tasks(reg). Each Config documents its defaults, and its zero value
// is ready to use.

// optional returns the configuration that a constructor was given, or the zero value. More
// than one is a programming error.
func optional[T any](constructor string, cfg []T) T {
	var zero T
	switch len(cfg) {
	case 0:
		return zero
	case 1:
		return cfg[0]
	}
	panic("tetherhttp: " + constructor + " takes one configuration at most")
}

// orDefault returns the duration that a setting stands for: zero is the default, and a
// negative value is zero.
func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return max(d, 0)
}
