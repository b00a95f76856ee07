// Package compat tests package tetherhttp with routers, frameworks and proxies, and frame by
// frame against HTTP/2. It is a separate module, so that tether depends on none of them. It
// exports nothing.
//
// There is one file for each framework. It begins with an Example, which is the recipe for the
// framework. The tests after it verify that, with the same server,
//
//   - a task starts when the last byte of its response has been written (HTTP/1), and does not
//     delay the response;
//   - the response is the same, byte for byte, as that of the server without tetherhttp;
//   - a panic drops the tasks of its request, even if the framework recovers from it, provided
//     that the second middleware is mounted as in the recipe.
//
// A benchmark counts how often a task starts too early over HTTP/2, where no public hook is
// exact:
//
//	go test -run '^$' -bench Early -benchtime 10000x .
package compat
