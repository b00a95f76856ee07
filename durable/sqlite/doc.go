// Package sqlite is the engine of package durable that needs no server: one file, which
// River (github.com/riverqueue/river) keeps on SQLite, in Go alone. It is for one machine:
// any number of processes may enqueue to the file and work on it, but the file, and the
// lock file beside it, must be on a local disk.
//
// Every Enqueue is on disk when it returns (synchronous=FULL). Many at once share a commit:
// a few thousand a second, instead of some hundred.
package sqlite
