package tetherhttp

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-2e639f12/tether"
)

// query is what a request wants to see.
type query struct {
	Name, Pool, State string // filters; "": no filter
	Task              string
	Asked             string // the task whose cancellation this page answers
	Live, Finished    order
}

const (
	stuckState = "stuck" // of [query].State: beside the states there are
	noPool     = "\t"    // of [query].Pool: a pool's name is printable
	noTask     = "unknown"
)

const lenID = 22 // of a task's ID

// order is how a list is sorted, and which page of it is wanted.
type order struct {
	Column  string
	Desc    bool
	Page    int // from 1 on
	of      []column
	rows    int    // of a page
	prefix  string // of the parameters
	initial string // the order without a parameter
}

// column is what a list can be sorted by.
type column struct {
	Key, Title string
	number     bool // its first order is the largest first
	compare    func(a, b *tether.Info) int
}

var (
	byName  = column{"name", "Name", false, func(a, b *tether.Info) int { return strings.Compare(a.Name, b.Name) }}
	byPool  = column{"pool", "Pool", false, func(a, b *tether.Info) int { return strings.Compare(a.Pool, b.Pool) }}
	byState = column{"state", "State", false, func(a, b *tether.Info) int { return cmp.Compare(a.State, b.State) }}
)

func liveColumns() []column {
	return []column{byName, byPool, byState,
		{"age", "Age", true, func(a, b *tether.Info) int { return b.Submitted.Compare(a.Submitted) }},
		{"running", "Running", true, func(a, b *tether.Info) int {
			if a.Started.IsZero() || b.Started.IsZero() {
				return a.Started.Compare(b.Started)
			}
			return b.Started.Compare(a.Started)
		}},
		{"progress", "Progress", true, func(a, b *tether.Info) int { return cmp.Compare(share(a), share(b)) }},
		{"parent", "Parent", false, func(a, b *tether.Info) int { return strings.Compare(a.Parent, b.Parent) }},
	}
}

func finishedColumns() []column {
	return []column{byName, byPool, byState,
		{"ended", "Ended", true, func(a, b *tether.Info) int { return a.Finished.Compare(b.Finished) }},
		{"took", "Took", true, func(a, b *tether.Info) int { return cmp.Compare(took(a), took(b)) }},
		{"attempt", "Attempts", true, func(a, b *tether.Info) int { return cmp.Compare(a.Attempt, b.Attempt) }},
	}
}

// share is how much of a task is done; -1 if nobody knows.
func share(info *tether.Info) float64 {
	if info.Progress.Total <= 0 {
		return -1
	}
	return float64(info.Progress.Done) / float64(info.Progress.Total)
}

func took(info *tether.Info) int64 {
	if info.Started.IsZero() {
		return -1
	}
	return int64(info.Finished.Sub(info.Started))
}

// parseQuery reads a query. What makes no sense is left out.
func parseQuery(v url.Values) query {
	q := query{
		Name: v.Get("q"), Pool: v.Get("pool"), State: v.Get("state"), Task: v.Get("task"), Asked: v.Get("asked"),
		Live:     order{of: liveColumns(), rows: livePage, initial: "-age"},
		Finished: order{of: finishedColumns(), rows: endedPage, initial: "-ended", prefix: "f"},
	}
	if len(q.Name) > 128 { // no task's name is longer
		q.Name = strings.ToValidUTF8(q.Name[:128], "")
	}
	// Every link has them again: a long one would make a page that is a thousand times as long.
	if len(q.Pool) > 128 {
		q.Pool = ""
	}
	if len(q.Task) > lenID {
		q.Task = noTask
	}
	if len(q.Asked) > lenID {
		q.Asked = ""
	}
	if !slices.Contains(q.States(), q.State) {
		q.State = ""
	}
	q.Live.parse(v)
	q.Finished.parse(v)
	return q
}

func (o *order) parse(v url.Values) {
	key, desc := strings.CutPrefix(v.Get(o.prefix+"sort"), "-")
	if !slices.ContainsFunc(o.of, func(c column) bool { return c.Key == key }) {
		key, desc = strings.CutPrefix(o.initial, "-")
	}
	o.Column, o.Desc = key, desc
	o.Page, _ = strconv.Atoi(v.Get(o.prefix + "page"))
	o.Page = max(o.Page, 1)
}

// NoPool is the Pool that asks for tasks of none.
func (query) NoPool() string { return noPool }

// States returns the states that can be asked for.
func (query) States() []string {
	states := []string{stuckState}
	for s := tether.Held; s <= tether.Dropped; s++ {
		states = append(states, s.String())
	}
	return states
}

// values returns the parameters that differ from what is the default.
func (q query) values() url.Values {
	v := make(url.Values)
	for key, value := range map[string]string{"q": q.Name, "pool": q.Pool, "state": q.State, "task": q.Task, "asked": q.Asked} {
		if value != "" {
			v.Set(key, value)
		}
	}
	for _, o := range []order{q.Live, q.Finished} {
		if o.sort() != o.initial {
			v.Set(o.prefix+"sort", o.sort())
		}
		if o.Page > 1 {
			v.Set(o.prefix+"page", strconv.Itoa(o.Page))
		}
	}
	return v
}

func (q query) encode() string { return q.values().Encode() }

func (o *order) sort() string {
	if o.Desc {
		return "-" + o.Column
	}
	return o.Column
}

// apply returns the page of a list that is wanted, or the last one.
func (o *order) apply(q query, infos []tether.Info, show func(*tether.Info) *debugTask) *debugList {
	var matched []*tether.Info
	name := strings.ToLower(q.Name)
	for i := range infos {
		if q.wants(&infos[i], name) {
			matched = append(matched, &infos[i])
		}
	}
	if o.sort() != o.initial { // they are in that order
		by := o.of[slices.IndexFunc(o.of, func(c column) bool { return c.Key == o.Column })].compare
		if o.Desc {
			asc := by
			by = func(a, b *tether.Info) int { return asc(b, a) }
		}
		slices.SortStableFunc(matched, by)
	}
	l := &debugList{Total: len(infos), Matched: len(matched), Sort: o.sort(), Tasks: []*debugTask{}}
	l.Pages = max(1, (len(matched)+o.rows-1)/o.rows)
	l.Page = min(o.Page, l.Pages)
	begin := (l.Page - 1) * o.rows
	for _, info := range matched[begin:min(begin+o.rows, len(matched))] {
		l.Tasks = append(l.Tasks, show(info))
	}
	return l
}

// wants reports whether a task passes the filters; name is the one for names, in lower case.
func (q query) wants(info *tether.Info, name string) bool {
	switch {
	case q.Pool == noPool && info.Pool != "", q.Pool != "" && q.Pool != noPool && info.Pool != q.Pool:
		return false
	case q.State == stuckState:
		if info.Stuck == nil || info.State.Final() {
			return false
		}
	case q.State != "" && info.State.String() != q.State:
		return false
	}
	return name == "" || strings.Contains(strings.ToLower(info.Name), name)
}

// What follows is for the page: its links are relative to where it is mounted.

func (q query) link() string { return "./?" + q.encode() }

// Filtered reports whether there is a filter.
func (q query) Filtered() bool { return q.Name != "" || q.Pool != "" || q.State != "" }

// Unfiltered is a link to all tasks.
func (q query) Unfiltered() string { return q.only("", "") }

// OfState is a link to the tasks in a state.
func (q query) OfState(state string) string { return q.only("", state) }

// OfPool is a link to the tasks of a pool.
func (q query) OfPool(pool string) string { return q.only(pool, "") }

func (q query) only(pool, state string) string {
	q.Name, q.Pool, q.State, q.Task, q.Asked = "", pool, state, "", ""
	q.Live.Page, q.Finished.Page = 1, 1
	return q.link()
}

// Detail is a link to one task.
func (q query) Detail(id string) string {
	q.Task, q.Asked = id, ""
	return q.link()
}

// Back is a link to the tasks as they were before one was looked at.
func (q query) Back() string { return q.Detail("") }

// JSON is a link to the same for a machine.
func (q query) JSON() string { return q.link() + "&format=json" }

// Cancel is where a task's cancellation is sent.
func (q query) Cancel() string {
	q.Asked = ""
	return "./cancel?" + q.encode()
}

// Kept returns the parameters that a change of the filters does not change.
func (q query) Kept() map[string]string {
	kept := make(map[string]string)
	for _, o := range []order{q.Live, q.Finished} {
		if o.sort() != o.initial {
			kept[o.prefix+"sort"] = o.sort()
		}
	}
	return kept
}

// heading is a column's, with a link that sorts by it.
type heading struct{ Key, Title, Aria, Link string }

// Headings returns those of a list's columns.
func (q query) Headings(prefix string) []heading {
	var all []heading
	mine := *q.list(prefix)
	for _, c := range mine.of {
		h := heading{Key: c.Key, Title: c.Title}
		to := q.list(prefix) // of this call's copy
		to.Column, to.Desc, to.Page, q.Asked = c.Key, c.number, 1, ""
		if c.Key == mine.Column {
			if h.Aria = "ascending"; mine.Desc {
				h.Aria = "descending"
			}
			to.Desc = !mine.Desc
		}
		h.Link = q.link()
		all = append(all, h)
	}
	return all
}

// Turn is a link to another page of a list.
func (q query) Turn(prefix string, page int) string {
	q.list(prefix).Page, q.Asked = page, ""
	return q.link()
}

// list is the list whose parameters have this prefix.
func (q *query) list(prefix string) *order {
	if prefix == q.Live.prefix {
		return &q.Live
	}
	return &q.Finished
}
