package tetherhttp

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// preferences are the preferences of a Prefer header (RFC 7240) that this package honors.
type preferences struct {
	async bool          // respond-async
	waits bool          // wait=N
	wait  time.Duration // N, at most a day
}

// parsePrefer reads the Prefer headers of a request. The first instance of a preference counts;
// unknown and malformed preferences are ignored.
func parsePrefer(h http.Header) (p preferences) {
	async, wait := false, false // seen
	for _, line := range h.Values("Prefer") {
		for item := range listItems(line) {
			name, value, ok := preference(item)
			switch {
			case !ok:
			case strings.EqualFold(name, "respond-async") && !async:
				async = true
				p.async = value == ""
			case strings.EqualFold(name, "wait") && !wait:
				wait = true
				p.wait, p.waits = delaySeconds(value)
			}
		}
	}
	return p
}

// waitUpTo returns how long to wait, at most limit, and in granted the seconds that the client
// asked for, empty if it does not get all of them.
func (p preferences) waitUpTo(limit time.Duration) (wait time.Duration, granted string) {
	if p.waits && p.wait <= limit {
		granted = strconv.Itoa(int(p.wait / time.Second))
	}
	return min(p.wait, limit), granted
}

// listItems splits a list at the commas that are not in quotes.
func listItems(line string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(line); i++ {
			switch c := line[i]; {
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case c == ',' && !quoted:
				if !yield(line[start:i]) {
					return
				}
				start = i + 1
			}
		}
		if !quoted {
			yield(line[start:])
		}
	}
}

// preference reads token [ "=" word ] and ignores parameters.
func preference(item string) (name, value string, ok bool) {
	item = strings.Trim(item, " \t")
	end := 0
	for end < len(item) && isTokenChar(item[end]) {
		end++
	}
	if end == 0 {
		return "", "", false
	}
	name, item = item[:end], strings.TrimLeft(item[end:], " \t")
	if rest, found := strings.CutPrefix(item, "="); found {
		if value, item, ok = word(strings.TrimLeft(rest, " \t")); !ok {
			return "", "", false
		}
		item = strings.TrimLeft(item, " \t")
	}
	return name, value, item == "" || item[0] == ';'
}

// word reads a token or a quoted string, and returns the rest of s.
func word(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := 0
		for end < len(s) && isTokenChar(s[end]) {
			end++
		}
		return s[:end], s[end:], end > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// delaySeconds reads a number of seconds. More than a day counts as a day.
func delaySeconds(s string) (time.Duration, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	if s == "" {
		return 0, false
	}
	const most = 24 * 60 * 60
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > most {
		n = most // the only error of digits is that there are too many
	}
	return time.Duration(n) * time.Second, true
}

// isTokenChar is RFC 9110's tchar.
func isTokenChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
