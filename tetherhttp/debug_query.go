package tetherhttp

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/seed-2e639f12/tether"
)

// query is what a request asks to see.
type query struct {
	Name, Pool, State string // filters; "": no filter
	Task              string
	Stack             bool // the stack of Task is wanted
	Confirm           bool // the live tasks that match are about to be canceled
	Told              told // what the request before this one did
	Live, Finished    order
}

// told is what the page tells of an action that was done.
type told struct {
	Asked string          // the task of DebugCancel
	Did   DebugActionKind // any other
	To    string          // what it was done to: a name, or the number of tasks
}

const (
	stuckState = "stuck" // a value of [query].State beside the names of the states
	noPool     = "\t"    // a value of [query].Pool; a pool's name is printable
	noTask     = "unknown"
)

const (
	lenID        = 22  // characters of a task's ID
	maxParameter = 128 // bytes of a text, as many as a name may have
)

// order is how a list is sorted, and which of its pages is shown.
type order struct {
	Column  string
	Desc    bool
	Page    int // the first is 1
	of      []column
	rows    int    // on a page
	prefix  string // of the names of its parameters
	initial string // the order if there is no parameter
}

// column is a column by which a list can be sorted.
type column struct {
	Key, Title string
	number     bool // sorted in descending order first
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

// share returns the share of a task that is done, -1 if it is unknown.
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

// parseQuery reads a query. Invalid parameters are ignored.
func parseQuery(v url.Values) query {
	q := query{
		Name: v.Get("q"), Pool: v.Get("pool"), State: v.Get("state"), Task: v.Get("task"),
		Stack: v.Get("stack") == "now", Confirm: v.Get("confirm") == "cancel", Told: parseTold(v),
		Live:     order{of: liveColumns(), rows: livePage, initial: "-age"},
		Finished: order{of: finishedColumns(), rows: endedPage, initial: "-ended", prefix: "f"},
	}
	// Every link repeats these: a long one would make the page a thousand times as long.
	if len(q.Name) > maxParameter {
		q.Name = strings.ToValidUTF8(q.Name[:maxParameter], "")
	}
	if len(q.Pool) > maxParameter {
		q.Pool = ""
	}
	if len(q.Task) > lenID {
		q.Task = noTask
	}
	if !slices.Contains(q.States(), q.State) {
		q.State = ""
	}
	q.Live.parse(v)
	q.Finished.parse(v)
	q.Confirm = q.Confirm && q.Filtered() && q.Task == ""
	q.Stack = q.Stack && q.Task != ""
	return q
}

// parseTold reads what the page is to tell.
func parseTold(v url.Values) told {
	if id := v.Get("asked"); id != "" && len(id) <= lenID {
		return told{Asked: id}
	}
	did := told{Did: DebugActionKind(v.Get("did")), To: v.Get("to")}
	switch did.Did {
	case DebugPause, DebugResume, DebugResize, DebugRun, DebugPauseSchedule, DebugResumeSchedule:
		if len(did.To) <= maxParameter {
			return did
		}
	case DebugCancelMatching:
		if n, err := strconv.ParseUint(did.To, 10, 32); err == nil {
			did.To = strconv.FormatUint(n, 10)
			return did
		}
	}
	return told{}
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

// NoPool returns the Pool that selects tasks without a pool.
func (query) NoPool() string { return noPool }

// States returns the states that can be selected.
func (query) States() []string {
	states := []string{stuckState}
	for s := tether.Held; s <= tether.Dropped; s++ {
		states = append(states, s.String())
	}
	return states
}

// values returns the parameters that differ from their defaults.
func (q query) values() url.Values {
	v := make(url.Values)
	for key, value := range map[string]string{
		"q": q.Name, "pool": q.Pool, "state": q.State, "task": q.Task, "asked": q.Told.Asked, "did": string(q.Told.Did), "to": q.Told.To,
	} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.Stack {
		v.Set("stack", "now")
	}
	if q.Confirm {
		v.Set("confirm", "cancel")
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

// apply returns the selected page of a list, or the last one if there are fewer. texts returns
// the searchText of each of infos.
func (o *order) apply(q query, infos []tether.Info, texts func() []string, show func(*tether.Info) *debugTask) *debugList {
	var matched []*tether.Info
	name := strings.ToLower(q.Name)
	var all []string
	if name != "" {
		all = texts()
	}
	for i := range infos {
		if q.selects(&infos[i]) && (name == "" || strings.Contains(all[i], name)) {
			matched = append(matched, &infos[i])
		}
	}
	if o.sort() != o.initial { // infos are in the initial order
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

// wants reports whether a task passes the filters. text is q.Name in lower case.
func (q query) wants(info *tether.Info, text string) bool {
	return q.selects(info) && (text == "" || strings.Contains(searchText(info), text))
}

// selects reports whether a task passes the filters other than the text.
func (q query) selects(info *tether.Info) bool {
	switch {
	case q.Pool == noPool && info.Pool != "", q.Pool != "" && q.Pool != noPool && info.Pool != q.Pool:
		return false
	case q.State == stuckState:
		return info.Stuck != nil && !info.State.Final()
	}
	return q.State == "" || info.State.String() == q.State
}

// searchText returns what is searched of a task, in lower case: its name, its Unique and Share
// keys and its labels, which are "key=value", a line each.
func searchText(info *tether.Info) string {
	text := info.Name
	for _, key := range []string{info.Unique, info.Share} {
		if key != "" {
			text += "\n" + key
		}
	}
	for key, value := range info.Labels {
		text += "\n" + key + "=" + value
	}
	return strings.ToLower(text)
}

// searchTexts returns the searchText of each of infos.
func searchTexts(infos []tether.Info) []string {
	texts := make([]string, len(infos))
	for i := range infos {
		texts[i] = searchText(&infos[i])
	}
	return texts
}

// The methods below are for the template. Links are relative to the path of the page.

func (q query) link() string { return "./?" + q.encode() }

// Filtered reports whether there is a filter.
func (q query) Filtered() bool { return q.Name != "" || q.Pool != "" || q.State != "" }

// Unfiltered returns a link to all tasks.
func (q query) Unfiltered() string { return q.only("", "") }

// OfState returns a link to the tasks in a state.
func (q query) OfState(state string) string { return q.only("", state) }

// OfPool returns a link to the tasks of a pool.
func (q query) OfPool(pool string) string { return q.only(pool, "") }

func (q query) only(pool, state string) string {
	q.plain()
	q.Name, q.Pool, q.State, q.Task = "", pool, state, ""
	q.Live.Page, q.Finished.Page = 1, 1
	return q.link()
}

// OfName returns a link to the tasks with a text in their name.
func (q query) OfName(name string) string {
	q.plain()
	q.Name, q.Pool, q.State, q.Task = name, "", "", ""
	q.Live.Page, q.Finished.Page = 1, 1
	return q.link()
}

// plain removes the parameters that are for one view alone.
func (q *query) plain() { q.Told, q.Confirm, q.Stack = told{}, false, false }

// Detail returns a link to one task.
func (q query) Detail(id string) string {
	q.plain()
	q.Task = id
	return q.link()
}

// StackNow returns a link to the task with its stack.
func (q query) StackNow() string {
	q.plain()
	q.Stack = true
	return q.link()
}

// AskCancel returns a link to the question whether to cancel the live tasks that match.
func (q query) AskCancel() string {
	q.plain()
	q.Confirm = true
	return q.link()
}

// Plain returns a link to the same view without a question or a notice.
func (q query) Plain() string {
	q.plain()
	return q.link()
}

// Back returns a link from a task back to the lists.
func (q query) Back() string { return q.Detail("") }

// JSON returns a link to the same as JSON.
func (q query) JSON() string {
	stack := q.Stack
	q.plain()
	q.Stack = stack
	return q.link() + "&format=json"
}

// Do returns the address of the form of an action.
func (q query) Do(kind DebugActionKind) string {
	q.plain()
	return "./" + string(kind) + "?" + q.encode()
}

// Kept returns the parameters that the filter form keeps.
func (q query) Kept() map[string]string {
	kept := make(map[string]string)
	for _, o := range []order{q.Live, q.Finished} {
		if o.sort() != o.initial {
			kept[o.prefix+"sort"] = o.sort()
		}
	}
	return kept
}

// heading is the heading of a column, with a link that sorts by it.
type heading struct{ Key, Title, Aria, Link string }

// Headings returns the headings of a list.
func (q query) Headings(prefix string) []heading {
	var all []heading
	mine := *q.list(prefix)
	for _, c := range mine.of {
		h := heading{Key: c.Key, Title: c.Title}
		to := q.list(prefix) // q is a copy
		q.plain()
		to.Column, to.Desc, to.Page = c.Key, c.number, 1
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

// PageLink returns a link to another page of a list.
func (q query) PageLink(prefix string, page int) string {
	q.plain()
	q.list(prefix).Page = page
	return q.link()
}

// list returns the list with a prefix of its parameters.
func (q *query) list(prefix string) *order {
	if prefix == q.Live.prefix {
		return &q.Live
	}
	return &q.Finished
}
