// Package browser tests the page of tetherhttp.Debug in a real browser, headless
// Chromium. It is a module of its own, so that nobody else depends on what drives it.
//
// Without a browser in PATH (chromium, chromium-browser or google-chrome) its tests are
// skipped, and say so on stderr.
package browser
