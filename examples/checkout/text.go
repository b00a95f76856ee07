package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkText returns what is wrong with a name that a client has sent, or "".
//
// A name is up to most bytes of UTF-8. It is checked for what it must not have, not for
// what it may have: names in Persian and Hindi have joiners, French ones have no-break
// spaces, emoji have joiners, selectors and tags, and next year's Unicode has letters
// that this program does not know.
func checkText(s string, most int) (wrong string) {
	if !utf8.ValidString(s) {
		return "not UTF-8"
	}
	if len(s) > most {
		return fmt.Sprintf("longer than %d bytes", most)
	}
	blank := true
	for i, r := range s {
		if forbidden(r) {
			return fmt.Sprintf("the character %U at byte %d is not allowed", r, i)
		}
		blank = blank && (unicode.IsSpace(r) || invisible(r))
	}
	if blank {
		return "empty"
	}
	return ""
}

// forbidden reports whether r is a control character, a line's or a paragraph's end, or
// one of those that turn the direction of all the text that follows: a name with these
// makes other text on the same page read as something else.
func forbidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) ||
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// invisible reports whether r draws nothing of its own: joiners, direction marks, soft
// hyphens, selectors and tags.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Variation_Selector)
}

// withoutInvisible is for a medium that can do nothing with such characters.
func withoutInvisible(s string) string {
	return strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return r
	}, s)
}

// checkSKU is checkText for the key of an article. Keys that look the same must be the
// same, so only printable characters and the plain space are allowed in one.
func checkSKU(s string) (wrong string) {
	if wrong := checkText(s, skuBytes); wrong != "" {
		return wrong
	}
	for i, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("the character %U at byte %d is not printable", r, i)
		}
	}
	return ""
}
