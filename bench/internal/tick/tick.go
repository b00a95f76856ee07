// Package tick has timers for paces that are finer than a millisecond.
package tick
