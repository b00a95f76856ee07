// Package compat is a module of tests, and of recipes that run: package tetherhttp
// with the routers, frameworks and proxies that its users have, and frame by frame
// against HTTP/2. It is a module of its own so that tether does not depend on any of
// them. It exports nothing, and nobody imports it.
//
// There is a file for each framework. It begins with an Example, which is the recipe
// for it; the tests behind it hold the same server to what tetherhttp promises:
//
//   - a task starts when the last byte of its response has been written (HTTP/1), and
//     does not hold the response back;
//   - the response is that of the same server without tetherhttp, byte for byte;
//   - a panic drops the tasks of its request, also one that the framework recovers
//     from, if the guard is where the recipe has it.
//
// How often a task starts too early over HTTP/2, where no public hook is exact:
//
//	go test -run '^$' -bench Early -benchtime 10000x .
package compat
