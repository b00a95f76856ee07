// Package browser tests the page of tetherhttp.Debug in a real browser, headless
// Chromium. It is a separate module, so that tether does not depend on the browser's driver.
//
// The tests are skipped, with a note on stderr, if there is no chromium, chromium-browser or
// google-chrome in PATH.
package browser
