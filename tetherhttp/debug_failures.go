package tetherhttp

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Numbers of groups that are shown.
const (
	maxGroups   = 20
	maxRefusals = 5
)

// debugFailures are the retained failures, grouped. A group of panics is never left out for
// one of failures.
type debugFailures struct {
	Panics   []*failureGroup `json:"panics,omitempty"`
	Failures []*failureGroup `json:"failures,omitempty"`
	Refusals []*failureGroup `json:"refusals,omitempty"`
	Omitted  int             `json:"failure_groups_omitted,omitempty"` // groups of all three kinds
}

// failureGroup is the failures of one name, state and first line of the error.
type failureGroup struct {
	Name  string     `json:"name"`
	State string     `json:"state"`
	Error string     `json:"error"` // the first line
	Count int        `json:"count"`
	First time.Time  `json:"first"`
	Last  time.Time  `json:"last"`
	Task  *debugTask `json:"task"` // the newest
	ID    string     `json:"-"`    // of the group, for as long as the process runs

	newest *tether.Info
}

// groupFailures groups the failures among finished tasks, of which each list has the newest
// first and the second is older than the first. It calls methods of the tasks' errors.
func groupFailures(finished, older []tether.Info) debugFailures {
	type key struct {
		name, text string
		state      tether.State
		refused    bool
	}
	groups := make(map[key]*failureGroup)
	var d debugFailures
	add := func(info *tether.Info) {
		if !failing(info) {
			return
		}
		text := first(shortError(info.Err))
		k := key{info.Name, text, info.State, refused(info)}
		g := groups[k]
		if g == nil {
			sum := hashOf(fmt.Sprint(k.name, "\n", k.state, k.refused, k.text))
			g = &failureGroup{Name: info.Name, State: info.State.String(), Error: text, Last: info.Finished.UTC(), ID: hex.EncodeToString(sum[:8]), newest: info}
			groups[k] = g
			list := &d.Failures
			switch {
			case k.refused:
				list = &d.Refusals
			case info.State == tether.Panicked:
				list = &d.Panics
			}
			*list = append(*list, g)
		}
		g.Count++
		g.First = info.Finished.UTC()
	}
	for _, infos := range [][]tether.Info{finished, older} {
		for i := range infos {
			add(&infos[i])
		}
	}
	for _, list := range []*[]*failureGroup{&d.Panics, &d.Failures, &d.Refusals} {
		most := maxGroups
		if list == &d.Refusals {
			most = maxRefusals
		}
		if more := len(*list) - most; more > 0 {
			*list = slices.Clip((*list)[:most])
			d.Omitted += more
		}
	}
	return d
}

// with returns the groups with their newest tasks as the page shows them.
func (d debugFailures) with(show func(*tether.Info) *debugTask) debugFailures {
	for _, list := range []*[]*failureGroup{&d.Panics, &d.Failures, &d.Refusals} {
		*list = slices.Clone(*list)
		for i, g := range *list {
			shown := *g
			shown.Task = show(g.newest)
			(*list)[i] = &shown
		}
	}
	return d
}

// failing is info.Failing, except that it reports false if a method of the error panics.
func failing(info *tether.Info) bool {
	is, _ := guarded(info.Failing)
	return is
}

// refused reports whether a task failed because something was refused, and not because
// something is broken: a submission of its own to a registry or a pool that was full or
// closed, or a request with a mistake of its client, as a [Problem] of a status 4xx says.
func refused(info *tether.Info) bool {
	if info.State != tether.Failed {
		return false
	}
	if errorIs(info.Err, tether.ErrFull) || errorIs(info.Err, tether.ErrClosed) {
		return true
	}
	p, ok := errorAs[*Problem](info.Err)
	return ok && p.Status >= http.StatusBadRequest && p.Status < http.StatusInternalServerError
}
