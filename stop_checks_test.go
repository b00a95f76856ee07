package tether_test

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
)

// life is what the samples say of a task. Done was open at live, and closed at ended. The
// zero ended means that Done was open in every sample.
type life struct{ live, ended time.Time }

// admitted records that a task was admitted.
func (c *cell) admitted(task *tether.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lives[task] == nil {
		c.lives[task] = new(life)
	}
}

// sample records which tasks are live, again and again until done is closed.
func (c *cell) sample(done <-chan struct{}) {
	ticker := time.NewTicker(c.unit / 8)
	defer ticker.Stop()
	for {
		for task := range c.r.Tasks() {
			c.admitted(task)
		}
		c.mu.Lock()
		now := time.Now()
		for task, l := range c.lives {
			switch {
			case !l.ended.IsZero():
			case task.State().Final() && hasEnded(task):
				l.ended = now
			default:
				l.live = now
			}
		}
		c.mu.Unlock()
		select {
		case <-ticker.C:
		case <-done:
			return
		}
	}
}

// hasEnded reports whether the Done of a task is closed. It does not await the outcome, so
// that a failure is logged all the same.
func hasEnded(task *tether.Task) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for info := range task.Watch(ended) {
		return info.State.Final()
	}
	return false
}

// checkSteps checks that every step was taken once, in order, and in time.
func (c *cell) checkSteps() {
	c.mu.Lock()
	took := time.Since(c.stopBegan)
	c.mu.Unlock()
	assert.LessOrEqual(c.t, took, c.cfg.StopTimeout+time.Second, "Run returned too late")
	steps := c.steps.read()
	if len(steps) > 2 {
		slices.Sort(steps[:2]) // they stop at once
	}
	assert.Equal(c.t, []string{"stop other", "stop public", "database", "broker", "telemetry", "stop admin"}, steps)
}

// checkReport checks that the report has each admitted task exactly once. The samples bound
// how many of the tasks in no list were live in the drain. All tasks must have ended.
func (c *cell) checkReport(report *tether.Report) {
	require.NotNil(c.t, report)
	listed := make(map[string]string)
	for what, list := range map[string][]tether.Info{
		"canceled": report.Canceled, "handed over": report.HandedOver,
		"never started": report.NeverStarted, "abandoned": report.Abandoned,
	} {
		for _, info := range list {
			assert.Empty(c.t, listed[info.ID], "%s is also %s", info.Name, what)
			listed[info.ID] = what
		}
	}
	least, most, all := 0, 0, 0
	for task := range c.r.Finished() {
		all++
		if listed[task.ID()] != "" {
			delete(listed, task.ID())
			continue
		}
		submitted, _, finished := task.Times()
		l := cmp.Or(c.lives[task], &life{submitted, finished})
		assert.False(c.t, l.live.After(report.Ended), "%s (%v) was live at the end, and is missing", task.Name(), task.State())
		if l.live.After(report.Began) {
			least++
		}
		if l.ended.IsZero() || !l.ended.Before(report.Began) {
			most++
		}
	}
	assert.EqualValues(c.t, c.r.Stats().Submitted, all, "tasks that cannot be found")
	assert.Empty(c.t, listed, "tasks that were not admitted")
	assert.Zero(c.t, report.Omitted)
	assert.True(c.t, least <= report.Finished && report.Finished <= most, "%d to %d have finished, want %d", least, most, report.Finished)
}

// checkError checks that the error of Run names what did not return, panicked or failed.
// It calls no method of the errors in the log, which may not return yet.
func (c *cell) checkError(err error, report *tether.Report) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	kind := c.fault.kind
	switch {
	case c.site.step != "":
		switch {
		case c.site.name == "Pending":
			assert.Contains(c.t, text, c.site.step, "Stop did not return")
		case kind == hangs || kind == breaks || kind == exits:
			assert.Contains(c.t, text, c.site.step)
		case (kind == errs || kind == mutes) && (!strings.HasSuffix(c.site.name, "Serve") || c.when == beforeSignal):
			assert.Contains(c.t, text, c.site.step) // what Serve returns once the stop has begun is no error
		}
		if kind == breaks && c.site.name != "Pending" {
			assert.Contains(c.t, text, "panic")
		}
	case strings.HasPrefix(c.site.name, "log"):
		if kind != hangs && kind != mutes && kind != callsBack { // the records that hang may be those of tasks
			assert.NoError(c.t, err)
		}
	case kind == hangs:
		c.checkStragglers(text, report)
	case kind == errs:
		assert.NoError(c.t, err)
	}
}

// checkLog checks that panics and slow steps were logged.
func (c *cell) checkLog() {
	kind := c.fault.kind
	switch {
	case c.site.name == "Pending":
		assert.NotEmpty(c.t, c.log.about("stop: slow step"), "whatever Pending does, the record says which step is slow")
		if kind == breaks || kind == errs || kind == mutes {
			assert.NotEmpty(c.t, c.log.about("Pending of"), "the panic was not logged")
		}
	case strings.HasPrefix(c.site.name, "log"):
	case kind == breaks:
		assert.NotEmpty(c.t, c.log.about("panic"), "the panic was not logged")
	case (kind == errs || kind == mutes) && c.site.panics:
		assert.NotEmpty(c.t, c.log.about("panic"), "the panic was not logged")
	}
}

// checkStragglers checks that the report has the task whose call does not return.
func (c *cell) checkStragglers(text string, report *tether.Report) {
	want := "culprit"
	switch c.site.name {
	case "TaskStuck":
		assert.Contains(c.t, text, "stuck task")
		return
	case "TaskRefused", "OnDuplicate": // no task of their own: the submitter hangs
		if want = "parent"; !c.child {
			return
		}
	}
	if assert.NotNil(c.t, report) {
		assert.Contains(c.t, names(report.Abandoned), want)
		assert.Contains(c.t, text, report.Abandoned[0].Name) // and not more than ten
	}
}

// checkBystanders checks what became of the background load, unless the fault concerns
// that too: calls into the registry do, and an observer is called for all tasks.
func (c *cell) checkBystanders() {
	kind := c.fault.kind
	if kind == callsBack || c.site.observer && kind != breaks && kind != errs && kind != lies {
		return
	}
	want := map[string]tether.State{
		"normal": tether.Succeeded, "unique": tether.Succeeded, "busy": tether.Succeeded, "queued": tether.Succeeded,
		"loop": tether.Canceled, "consumer": tether.Succeeded, "retrying": tether.Canceled,
		"held": tether.Dropped, "delayed": tether.Dropped,
	}
	for task := range c.r.Finished() {
		if state, ok := want[task.Name()]; ok {
			assert.Equal(c.t, state, task.State(), task.Name())
		}
		if task.Name() == "queued to be dropped" {
			assert.True(c.t, task.Info().HandedOver, "%v in a pool with AtStopDrop", task)
		}
	}
}
