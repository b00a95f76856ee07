package tetherhttp

import (
	"net/http"
	"strings"
)

// prefersEvents reports whether a request prefers an event stream to JSON (RFC 9110,
// 12.5.1): its Accept header gives text/event-stream a higher quality, or the same by a
// more specific range. A client that accepts neither is sent JSON, as is one without the
// header.
func prefersEvents(h http.Header) bool {
	accept := parseAccept(h)
	events, eventsBy := accept.quality("text", "event-stream")
	json, jsonBy := accept.quality("application", "json")
	return events > json || events == json && events > 0 && eventsBy > jsonBy
}

// mediaRange is an element of an Accept header. Its parameters other than the weight are
// ignored, because the types offered here have none.
type mediaRange struct {
	main, sub string // in lower case; "*" stands for any
	quality   int    // in thousandths
}

// mediaRanges are the elements of a request's Accept headers.
type mediaRanges []mediaRange

// parseAccept reads the Accept headers of a request. A malformed element is ignored.
func parseAccept(h http.Header) mediaRanges {
	var all mediaRanges
	for _, line := range h.Values("Accept") {
		for item := range listItems(line) {
			if r, ok := parseMediaRange(item); ok {
				all = append(all, r)
			}
		}
	}
	return all
}

// quality returns the quality of a media type in thousandths: that of the most specific
// range that matches it, and of several equally specific ranges the highest. It is zero
// if no range matches, which means that the type is not acceptable. specificity is 2 if
// the range names the type, 1 if it names its main type, and 0 if it matches any.
func (all mediaRanges) quality(main, sub string) (quality, specificity int) {
	best := -1
	for _, r := range all {
		specific := 0
		switch {
		case r.main == main && r.sub == sub:
			specific = 2
		case r.main == main && r.sub == "*":
			specific = 1
		case r.main != "*":
			continue
		}
		if specific > best || specific == best && r.quality > quality {
			quality, best = r.quality, specific
		}
	}
	return quality, best
}

// parseMediaRange reads type "/" subtype *( OWS ";" OWS [ name "=" word ] ), in which the
// parameter q is the weight. What follows the weight is ignored, as RFC 9110 advises.
func parseMediaRange(item string) (r mediaRange, ok bool) {
	main, rest, ok := token(strings.Trim(item, " \t"))
	if !ok || !strings.HasPrefix(rest, "/") {
		return r, false
	}
	sub, rest, ok := token(rest[1:])
	if !ok || main == "*" && sub != "*" {
		return r, false
	}
	r = mediaRange{strings.ToLower(main), strings.ToLower(sub), 1000}
	for rest = strings.TrimLeft(rest, " \t"); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		if rest[0] != ';' {
			return r, false
		}
		rest = strings.TrimLeft(rest[1:], " \t")
		if rest == "" || rest[0] == ';' {
			continue // an empty parameter
		}
		var name, value string
		if name, rest, ok = token(rest); !ok || !strings.HasPrefix(rest, "=") {
			return r, false
		}
		if value, rest, ok = word(rest[1:]); !ok {
			return r, false
		}
		if strings.EqualFold(name, "q") {
			r.quality, ok = parseQuality(value)
			return r, ok
		}
	}
	return r, true
}

// parseQuality reads a qvalue (RFC 9110, 12.4.2): 0 to 1, with at most three decimals.
func parseQuality(s string) (thousandths int, ok bool) {
	whole, decimals, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || len(decimals) > 3 {
		return 0, false
	}
	for i := range 3 {
		thousandths *= 10
		if i < len(decimals) {
			if decimals[i] < '0' || decimals[i] > '9' {
				return 0, false
			}
			thousandths += int(decimals[i] - '0')
		}
	}
	if whole == "1" {
		return 1000, thousandths == 0
	}
	return thousandths, true
}

// token reads a token (RFC 9110, 5.6.2), and returns the rest of s.
func token(s string) (value, rest string, ok bool) {
	end := 0
	for end < len(s) && isTokenChar(s[end]) {
		end++
	}
	return s[:end], s[end:], end > 0
}
