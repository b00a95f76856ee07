package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

func TestLive(t *testing.T) {
	v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{Title: "shop"})
	v.open("")
	v.until(`document.querySelector('#live .none')?.textContent === 'There are no live tasks.'`)
	eval[int](v, `window.same = 1`)
	// An idle page has no large empty boxes.
	assert.Less(t, eval[float64](v, `Math.max(...[...document.querySelectorAll('#band section, #live, #finished')].map(e => e.offsetHeight))`), 160.0)
	const bars = `document.querySelector('svg.succeeded path')?.getAttribute('d')`

	first, second := v.hold("first"), v.hold("second")
	v.shows("live", "first", "second")
	assert.Equal(t, "2", eval[string](v, `document.querySelectorAll('#counts b')[2].textContent`), "held")
	first.Release()
	v.shows("live", "second")
	v.shows("finished", "first")
	v.until(bars)
	second.Cancel(nil)
	v.shows("live")
	v.until(`document.querySelector('svg.canceled path')?.getAttribute('d') !== ''`)
	v.ended("breaks", func(context.Context) error { return errors.New("out of cheese") })
	v.until(`document.querySelector('#alarms summary')?.innerText.includes('out of cheese')`)

	go func() { _ = v.reg.Shutdown(context.Background()) }()
	v.until(`document.getElementById('state').textContent === 'drained'`)
	v.until(`document.title.startsWith('shop: drained') && document.querySelector('#drain h2')`)
	assert.Equal(t, 1, eval[int](v, `window.same`), "it was never loaded anew")
}

func TestFilterSortAndPages(t *testing.T) {
	v := newViewer(t, tether.Config{})
	for i := range 120 {
		v.hold(fmt.Sprintf("row %03d", i))
	}
	v.hold("needle", tether.Label("a", "b"))
	v.open("")
	eval[int](v, `window.same = 1`)
	count := func(n int) { t.Helper(); v.until(fmt.Sprintf("%s.length === %d", names("live"), n)) }
	count(100)

	v.do(chromedp.SendKeys(chromedp.CSS(`#filter [name=q]`), "NEED"))
	v.shows("live", "needle")
	assert.Equal(t, "?q=NEED", eval[string](v, `location.search`))
	assert.True(t, eval[bool](v, `document.activeElement.name === 'q' && document.activeElement.value === 'NEED'`))
	v.do(chromedp.Click(chromedp.CSS(`#filter a`)))
	count(100)
	v.until(`document.querySelector('#filter [name=q]').value === ''`)

	v.do(chromedp.Click(chromedp.CSS(`#live .c-name a`)))
	v.until(names("live") + `[0] === 'needle' && document.querySelector('#live .c-name').ariaSort === 'ascending'`)
	v.do(chromedp.Click(chromedp.CSS(`#live .c-name a`)))
	v.until(names("live") + `[0] === 'row 119' && document.querySelector('#live .c-name').ariaSort === 'descending'`)
	v.do(chromedp.Click(chromedp.CSS(`#live .pager a:last-child`)))
	count(21)
	v.until(names("live") + `[20] === 'needle'`)
	assert.Equal(t, "?page=2&sort=-name", eval[string](v, `location.search`))
	v.updated(1)
	count(21)
	v.do(chromedp.NavigateBack())
	count(100)
	v.until(names("live") + `[0] === 'row 119'`)
	assert.Equal(t, 1, eval[int](v, `window.same`), "it was never loaded anew")

	eval[any](v, `(s => { s.value = 'running'; s.dispatchEvent(new Event('input', {bubbles: true})); })(document.querySelector('#filter [name=state]'))`)
	v.until(`document.querySelector('#live .none')?.textContent === 'No live task matches the filter.'`)
}

func TestCancel(t *testing.T) {
	t.Run("a button does it", func(t *testing.T) {
		v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true})
		task := v.run("victim", untilCanceled)
		v.hold("other")
		v.open("sort=name&q=victim")
		v.do(chromedp.Click(chromedp.CSS(`#live td button`)))
		<-task.Done()
		assert.ErrorIs(t, task.Err(), tetherhttp.ErrCanceled)
		v.until(`document.getElementById('notice').textContent === '“victim” has ended: canceled.'`)
		assert.Equal(t, "?q=victim&sort=name", eval[string](v, `location.search`), "what it was before")
		v.updated(2)
		assert.NotEmpty(t, eval[string](v, `document.getElementById('notice').textContent`), "it can be read")
		eval[any](v, `until = 0`)
		v.until(`document.getElementById('notice').textContent === ''`)
		v.do(chromedp.MouseClickXY(5, 5)) // away from the table
		v.until(`document.querySelector('#live .none')`)
	})
	t.Run("is not taken back by an update, nor by going on", func(t *testing.T) {
		v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true})
		task := v.run("victim", untilCanceled)
		v.hold("other")
		v.open("q=victim&sort=name")
		v.shows("live", "victim")
		posted, release := make(chan context.Context, 1), make(chan struct{})
		free := sync.OnceFunc(func() { close(release) })
		defer free()
		v.before(func(r *http.Request) {
			if r.Method == http.MethodPost {
				r.Body = io.NopCloser(bytes.NewReader(must(io.ReadAll(r.Body)))) // r's context ends with the connection from now on
				posted <- r.Context()
				<-release
			}
		})
		v.do(chromedp.Click(chromedp.CSS(`#live td button`)))
		ctx := <-posted
		eval[any](v, `document.dispatchEvent(new Event('visibilitychange'))`)
		v.do(chromedp.Click(chromedp.CSS(`#filter a`)))
		v.shows("live", "other", "victim")
		v.updated(1)
		assert.NoError(t, ctx.Err())
		free()
		<-task.Done()
		assert.ErrorIs(t, task.Err(), tetherhttp.ErrCanceled)
		v.updated(1)
		assert.Equal(t, "?sort=name", eval[string](v, `location.search`), "where the user has gone since")
	})
	t.Run("on plain HTTP, where a browser sends less", func(t *testing.T) {
		for _, script := range []bool{true, false} {
			v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true, Hosts: []string{"debug.test"}})
			v.srv.URL = strings.Replace(v.srv.URL, "127.0.0.1", "debug.test", 1)
			task := v.run("victim", untilCanceled)
			v.scripts(script)
			v.open("")
			require.False(t, eval[bool](v, `isSecureContext`))
			v.do(chromedp.Click(chromedp.CSS(`#live td button`)))
			<-task.Done()
			assert.ErrorIs(t, task.Err(), tetherhttp.ErrCanceled)
		}
	})
	t.Run("not without permission", func(t *testing.T) {
		v := newViewer(t, tether.Config{})
		v.allowed = []string{"405"}
		task := v.run("victim", untilCanceled)
		v.open("")
		v.shows("live", "victim")
		assert.Equal(t, 0, eval[int](v, `document.querySelectorAll('form[method=post], td button').length`))
		v.open("task=" + task.ID())
		assert.Equal(t, 0, eval[int](v, `document.querySelectorAll('form[method=post]').length`))
		status := eval[int](v, `fetch('cancel', {method: 'POST', body: new URLSearchParams({task: '`+task.ID()+`'})}).then(r => r.status)`)
		assert.Equal(t, http.StatusMethodNotAllowed, status)
		assert.Equal(t, tether.Running, task.State())
	})
	t.Run("not for another site", func(t *testing.T) {
		v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true, Hosts: []string{"debug.test"}})
		v.allowed = []string{"403"}
		task := v.run("victim", untilCanceled)
		for _, host := range []string{"127.0.0.1", "debug.test"} {
			evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				_, _ = fmt.Fprintf(w, `<form method="post" action="%s%scancel"><input name="task" value="%s"><button>x</button></form>`,
					strings.Replace(v.srv.URL, "127.0.0.1", host, 1), path, task.ID())
			}))
			v.do(chromedp.Navigate(strings.Replace(evil.URL, "127.0.0.1", "evil.test", 1)))
			v.do(chromedp.Click(chromedp.CSS(`button`)))
			v.until(`document.body.innerText.includes('"status":403')`)
			assert.Equal(t, tether.Running, task.State())
			evil.Close()
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// scripts says whether pages have JavaScript.
func (v *viewer) scripts(on bool) {
	v.t.Helper()
	_, err := chromedp.Call(v.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
	require.NoError(v.t, err)
}

// hostile is what must stay text.
const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>`

// busy gives a registry one of everything, with a hostile name. It returns tasks to look
// at: one that lives, one that has failed, and one that has panicked.
func (v *viewer) busy() []*tether.Task {
	pool := v.reg.NewPool(hostile, tether.PoolConfig{Workers: 1, Queue: 5, Capacity: 10, Overflow: tether.OverflowBlock})
	live, err := pool.Go(context.Background(), hostile, func(ctx context.Context) error {
		if _, err := v.reg.Go(ctx, "child", untilCanceled); err != nil {
			return err
		}
		tether.ReportProgress(ctx, tether.Progress{Done: 1, Total: 3, Message: hostile})
		return untilCanceled(ctx)
	}, tether.Label(hostile, hostile), tether.Unique(hostile))
	require.NoError(v.t, err)
	for live.Info().Progress.Total == 0 {
		time.Sleep(time.Millisecond)
	}
	failed := v.ended(hostile, func(context.Context) error { return errors.New(hostile) })
	panicked := v.ended(strings.Repeat("a long name ", 10), func(context.Context) error { panic(hostile) })
	for live.Info().Stuck == nil {
		time.Sleep(time.Millisecond)
	}
	return []*tether.Task{live, failed, panicked}
}

// cutOff is an expression: the numbers, and the names of pools, that are not to be seen whole.
const cutOff = `[...document.querySelectorAll('.n, time, #pools th, #names th')].filter(e => {
	const b = e.getBoundingClientRect();
	if (!b.width || e.closest('thead, summary, .hidden') || e.closest('.line')) return false;
	for (let p = e; p && p !== document.body; p = p.parentElement) {
		const c = p.getBoundingClientRect(), x = getComputedStyle(p).overflowX;
		if (x !== 'visible' && (b.right > c.left + p.clientLeft + p.clientWidth + 1 || b.left < c.left - 1)) return true;
	}
	return e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline';
}).map(e => e.outerHTML.slice(0, 200))`

func TestEveryView(t *testing.T) {
	v := newViewer(t, tether.Config{StuckAfter: 20 * time.Millisecond}, tetherhttp.DebugConfig{AllowCancel: true, AllowControl: true, Title: hostile})
	tasks := v.busy()
	// Numbers that need much room.
	huge := v.reg.NewPool("a-pool-with-a-rather-long-name", tether.PoolConfig{Workers: 1_000_000, Queue: 1_000_000_000, Capacity: 1_000_000_000_000})
	huge.Pause()
	for range 3 {
		_, err := huge.Go(context.Background(), "heavy", func(context.Context) error { return nil }, tether.Weight(1_000_000))
		require.NoError(t, err)
	}
	queries := []string{"", "q=nothing", "state=stuck&sort=name&confirm=cancel", "page=7&fpage=7"}
	for _, task := range tasks {
		queries = append(queries, "stack=now&task="+task.ID())
	}
	look := func() {
		for _, query := range queries {
			v.open(query)
			for _, width := range []int64{320, 375, 800, 1185, 1280, 1920} {
				v.screen(width, 900)
				over := eval[int](v, `document.documentElement.scrollWidth - document.documentElement.clientWidth`)
				assert.LessOrEqual(t, over, 0, "pixels beyond the edge of %d, of %q", width, query)
				assert.Empty(t, eval[[]string](v, cutOff), "numbers that are cut off at %d, of %q", width, query)
			}
			eval[any](v, `for (const d of document.querySelectorAll('details')) d.open = true`)
			assert.Equal(t, 1, eval[int](v, `document.scripts.length`))
			assert.Equal(t, 0, eval[int](v, `document.querySelectorAll('img, [onerror], [style]:not(.scroll, .box)').length`))
			assert.Equal(t, 0, eval[int](v, `[...document.querySelectorAll('[id]')].filter((e, i, all) => all.some((o, j) => j < i && o.id === e.id)).length`), "ids that are there twice")
			assert.Equal(t, 0, eval[int](v, `document.querySelectorAll('section [role=region], [aria-disabled]:not([role])').length`), "a landmark in its like, and disabled things that are nothing")
			assert.Equal(t, 0, eval[int](v, `document.querySelectorAll('thead th:not([scope=col]), tbody th:not([scope=row]), table:not(:has(caption))').length`))
			assert.Equal(t, 0, eval[int](v, `[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, [role=group], svg')].filter(e => !(e.innerText?.trim() || e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby'))).length`), "things without a name")
			v.updated(1)
		}
	}
	look()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	release := make(chan struct{})
	defer close(release)
	v.run(hostile, func(context.Context) error { <-release; return nil })
	require.Error(t, v.reg.Shutdown(ctx))
	queries = []string{""}
	look()
	v.until(`document.getElementById('drain')?.innerText.includes('<script>alert(1)</script>')`)
}

// What the user does is not undone by an update.
func TestUpdateLeavesAlone(t *testing.T) {
	v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true})
	v.screen(1280, 700)
	for i := range 60 {
		v.hold(fmt.Sprintf("row %02d", i))
	}
	v.ended("breaks", func(context.Context) error { return errors.New("first line\nsecond line") })
	v.open("")
	t.Run("what is typed and where", func(t *testing.T) {
		v.do(chromedp.SendKeys(chromedp.CSS(`#filter [name=q]`), "row"))
		v.until(`location.search === '?q=row'`)
		eval[any](v, `document.activeElement.setSelectionRange(1, 2)`)
		v.updated(2)
		assert.Equal(t, "q row 1 2", eval[string](v, `(e => [e.name, e.value, e.selectionStart, e.selectionEnd].join(' '))(document.activeElement)`))
	})
	t.Run("what has the focus, when rows come and go", func(t *testing.T) {
		rows := v.reg.Tasks()
		eval[any](v, `document.querySelectorAll('#live tbody button')[5].focus()`)
		id := eval[string](v, `document.activeElement.form.elements.task.value`)
		for task := range rows {
			if task.Name() < "row 05" {
				task.Cancel(nil)
			}
		}
		v.until(`document.querySelectorAll('#live tr[data-left]').length === 5`)
		v.updated(1)
		assert.Equal(t, id, eval[string](v, `document.activeElement.form?.elements.task.value`))
		eval[any](v, `document.activeElement.blur()`)
		v.until(`document.querySelectorAll('#live tr[data-left]').length === 0`)
	})
	t.Run("the focus stays near when what had it goes", func(t *testing.T) {
		eval[any](v, `document.querySelector('#live .pager').insertAdjacentHTML('beforeend', '<button id=gone>x</button>'); document.getElementById('gone').focus()`)
		v.until(`!document.getElementById('gone')`)
		assert.Equal(t, "Table of live tasks", eval[string](v, `document.activeElement.ariaLabel`))
	})
	t.Run("what is open, selected and scrolled", func(t *testing.T) {
		eval[any](v, `document.querySelector('#alarms details').open = true`)
		eval[any](v, `document.querySelector('#live .scroll').scrollTop = 200; scrollTo(0, 150)`)
		eval[any](v, `getSelection().selectAllChildren(document.querySelectorAll('#live tbody tr')[8])`)
		was := eval[string](v, `getSelection().toString()`)
		require.Contains(t, was, "row")
		v.ended("breaks", func(context.Context) error { return errors.New("another") })
		v.until(`document.querySelectorAll('#alarms details').length === 2`)
		v.updated(1)
		assert.Equal(t, "true 200 150", eval[string](v, `[document.querySelectorAll('#alarms details')[1].open, document.querySelector('#live .scroll').scrollTop, scrollY].join(' ')`))
		assert.Equal(t, was, eval[string](v, `getSelection().toString()`))
		for i := range 25 {
			v.ended("breaks", func(context.Context) error { return fmt.Errorf("error %d", i) })
		}
		v.until(`document.querySelector('#alarms li[data-left] details')?.open`)
	})
	t.Run("rows under the pointer", func(t *testing.T) {
		eval[any](v, `getSelection().removeAllRanges(); document.activeElement.blur(); scrollTo(0, 0); document.querySelector('#live .scroll').scrollTop = 0; document.querySelector('#alarms details[open]').open = false`)
		v.do(chromedp.ScrollIntoView(chromedp.CSS(`#live tbody tr:nth-child(3)`)))
		const place = `(e => { const b = e.getBoundingClientRect(); return [b.x + 20, b.y + 5]; })(document.querySelectorAll('#live tbody tr')[2])`
		at := eval[[]float64](v, place)
		v.do(chromedp.MouseEvent("mouseMoved", at[0], at[1]))
		v.until(`document.querySelector('#live tbody').matches(':hover')`)
		name := eval[string](v, `document.querySelectorAll('#live tbody th')[2].innerText`)
		for task := range v.reg.Tasks() {
			if task.Name() < name {
				task.Cancel(nil)
			}
		}
		v.hold("new")
		v.until(`document.querySelectorAll('#live tr[data-left]').length === 2`)
		v.updated(1)
		assert.Equal(t, at, eval[[]float64](v, place))
		assert.Equal(t, name, eval[string](v, `document.querySelectorAll('#live tbody th')[2].innerText`))
		v.do(chromedp.MouseEvent("mouseMoved", 2, 2))
		v.until(names("live") + `[0] === '` + name + `' && !document.querySelector('#live tr[data-left]')`)
	})
}

func TestNothingJumps(t *testing.T) {
	v := newViewer(t, tether.Config{})
	v.screen(1280, 1400)
	next := make(chan int64)
	v.reg.NewPool("pool", tether.PoolConfig{Workers: 1, Overflow: tether.OverflowBlock})
	v.run("works", func(ctx context.Context) error {
		for n := range next {
			tether.ReportProgress(ctx, tether.Progress{Done: n, Total: 1000, Message: strings.Repeat("x", int(n%50))})
		}
		return nil
	})
	defer close(next)
	var held []*tether.Task
	for range 40 {
		held = append(held, v.hold("comes last"))
		v.ended("breaks", func(context.Context) error { return errors.New("error") })
	}
	v.open("")
	const places = `[...document.querySelectorAll('section, h1, h2, thead, #state, #controls, #filter, svg')].map(e => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.height].join(); }).join(' ')`
	v.updated(1)
	was := eval[string](v, places)
	for i := range int64(3) {
		next <- 1 + 300*i
		v.hold("comes last")
		v.ended("breaks", func(context.Context) error { return fmt.Errorf("error %d", i) })
		v.updated(1)
	}
	v.until(`document.querySelectorAll('#alarms li').length === 4`)
	assert.Equal(t, was, eval[string](v, places), "sections stay where they are when there is more in them")
	for _, task := range held {
		task.Cancel(nil)
	}
	v.until(`document.querySelectorAll('#live tbody tr').length === 4`)
	assert.Equal(t, was, eval[string](v, places), "and when there is less")
}

func TestKeyboard(t *testing.T) {
	v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true})
	task := v.run("victim", untilCanceled)
	v.ended("breaks", func(context.Context) error { return errors.New("x") })
	v.open("")
	v.until(`!document.getElementById('pause').hidden`)
	eval[any](v, `document.activeElement.blur()`)
	var reached []string
	for range 60 {
		v.do(chromedp.KeyEvent(kb.Tab))
		at := eval[string](v, `(e => e === document.body ? '' : e.id || e.name || e.innerText?.split('\n')[0].trim() || e.tagName)(document.activeElement)`)
		if at == "" {
			break
		}
		assert.NotEqual(t, "none", eval[string](v, `getComputedStyle(document.activeElement).outlineStyle`), "of %s", at)
		reached = append(reached, at)
	}
	text := strings.Join(reached, "|")
	assert.Equal(t, "Skip to the live tasks", reached[0])
	for _, what := range []string{"pause", "JSON", "q", "pool", "state", "apply", "Clear", "Name", "Age", "victim", "Cancel", "Took", "breaks"} {
		assert.Contains(t, "|"+text+"|", "|"+what+"|")
	}
	eval[any](v, `document.querySelector('.skip').focus()`)
	v.do(chromedp.KeyEvent(kb.Enter))
	v.until(`document.activeElement.id === 'live'`)
	v.do(chromedp.KeyEvent(kb.Tab))
	assert.Equal(t, "Table of live tasks", eval[string](v, `document.activeElement.ariaLabel`))
	eval[any](v, `document.querySelector('#live .c-name a').focus()`)
	v.do(chromedp.KeyEvent(kb.Enter))
	v.until(`document.querySelector('#live .c-name').ariaSort === 'ascending'`)
	assert.Equal(t, "Name", eval[string](v, `document.activeElement.innerText`), "the focus stays for another press")
	eval[any](v, `document.querySelector('#alarms summary').focus()`)
	v.do(chromedp.KeyEvent(kb.Enter))
	v.until(`document.querySelector('#alarms details').open`)
	eval[any](v, `document.querySelector('#live td button').focus()`)
	v.do(chromedp.KeyEvent(kb.Enter))
	<-task.Done()
}

// What operators do.
func TestControl(t *testing.T) {
	t.Run("with the script", func(t *testing.T) { testControl(t, true) })
	t.Run("without", func(t *testing.T) { testControl(t, false) })
}

func testControl(t *testing.T, script bool) {
	v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true, AllowControl: true})
	v.scripts(script)
	v.screen(1280, 1400)
	pool := v.reg.NewPool("mail", tether.PoolConfig{Workers: 3, Queue: 10})
	victim, other := v.run("victim", untilCanceled, tether.Label("order", "A-17")), v.run("other", untilCanceled)
	v.open("")
	// The page clicks: chromedp looks for a node in the document before the last redirect.
	click := func(selector string) {
		t.Helper()
		v.until(fmt.Sprintf(`document.readyState === 'complete' && !!document.querySelector(%q)`, selector))
		eval[any](v, fmt.Sprintf(`document.querySelector(%q).click()`, selector))
	}
	notice := func(text string) {
		t.Helper()
		v.until(fmt.Sprintf(`document.readyState === 'complete' && document.getElementById('notice').textContent === %q`, text))
	}
	click(`[aria-label="Pause mail"]`)
	notice("“mail” starts no further task.")
	assert.True(t, pool.Stats().Paused)
	click(`[aria-label="Resume mail"]`)
	notice("“mail” starts tasks again.")
	eval[any](v, `document.querySelector('[aria-label="Workers of mail"]').select()`)
	v.do(chromedp.KeyEvent("12"))
	if script {
		eval[any](v, `document.querySelector('[aria-label="Resize mail"]').focus()`)
		v.updated(1) // which leaves alone what was typed, on the way to the button
	}
	click(`[aria-label="Resize mail"]`)
	notice("“mail” has been resized.")
	assert.Equal(t, 12, pool.Stats().Workers)

	v.open("q=order%3Da")
	v.shows("live", "victim")
	click(`#ask`)
	v.until(`document.querySelector('#confirm h2')?.textContent === 'Cancel 1 live task?'`)
	click(`#confirm button`)
	<-victim.Done()
	notice("1 task is being canceled; it ends when its body returns.")
	assert.False(t, eval[bool](v, `!!document.getElementById('confirm')`))
	assert.Equal(t, tether.Running, other.State())

	v.open("")
	eval[any](v, `document.querySelector('#filter [name=q]').focus()`)
	v.do(chromedp.KeyEvent(other.ID() + kb.Enter))
	v.until(`document.querySelector('#task h2')?.textContent === 'other'`)
	click(`#task a[href*="stack=now"]`)
	v.until(`document.querySelector('[aria-label="Stack now"]')?.textContent.includes('untilCanceled')`)
}

func TestPause(t *testing.T) {
	v := newViewer(t, tether.Config{})
	v.open("")
	v.do(chromedp.Click(chromedp.CSS(`#pause`)))
	v.until(`document.getElementById('pause').textContent === 'Resume'`)
	assert.False(t, eval[bool](v, `document.getElementById('pause').hasAttribute('aria-pressed')`), "the text says it")
	v.hold("row")
	asked := make(chan struct{}, 100)
	v.before(func(*http.Request) { asked <- struct{}{} })
	// The page's own clock tells that its next update would have come.
	eval[any](v, `new Promise(done => setTimeout(done, 2 * every))`)
	assert.Empty(t, asked)
	assert.Empty(t, eval[[]string](v, names("live")))
	v.do(chromedp.Click(chromedp.CSS(`#pause`)))
	v.shows("live", "row")
	assert.NotEmpty(t, asked)
}

func TestNoConnection(t *testing.T) {
	v := newViewer(t, tether.Config{})
	v.allowed = []string{"ERR_", "Failed to load resource"}
	v.hold("row")
	v.open("")
	v.shows("live", "row")
	v.srv.Listener.Close() // first, or the page may make another connection
	v.srv.CloseClientConnections()
	v.until(`document.getElementById('note').textContent === 'No connection'`)
	assert.Equal(t, []string{"row"}, eval[[]string](v, names("live")), "what was seen last")
}

func TestNoAnswer(t *testing.T) {
	v := newViewer(t, tether.Config{})
	v.hold("row")
	v.open("")
	v.shows("live", "row")
	release := make(chan struct{})
	v.before(func(*http.Request) { <-release })
	eval[any](v, `(timeout => { AbortSignal.timeout = ms => timeout.call(AbortSignal, ms / 20); })(AbortSignal.timeout)`) // lest this take so long
	v.until(`document.getElementById('note').textContent === 'No connection'`)
	close(release)
	v.until(`document.getElementById('note').textContent === ''`)
}

// The pool that is asked for is the one of the option, whatever its name.
func TestPoolsOfAnyName(t *testing.T) {
	v := newViewer(t, tether.Config{})
	v.ended("own", func(context.Context) error { return nil })
	for _, name := range []string{"-", "a  b", " x "} {
		task, err := v.reg.NewPool(name, tether.PoolConfig{Overflow: tether.OverflowBlock}).Go(context.Background(), "in "+name, func(context.Context) error { return nil })
		require.NoError(t, err)
		<-task.Done()
	}
	for _, script := range []bool{true, false} {
		v.scripts(script)
		for i, want := range []string{"in -", "in a  b", "in  x ", "own"} {
			v.open("")
			eval[any](v, fmt.Sprintf(`(s => { s.selectedIndex = %d; })(document.querySelector('#filter [name=pool]'))`, i+1))
			v.do(chromedp.Click(chromedp.CSS(`#apply`)))
			v.until(fmt.Sprintf(`[...document.querySelectorAll('#finished tbody th')].map(th => th.textContent).join() === %q`, want))
			assert.Equal(t, i+1, eval[int](v, `document.querySelector('#filter [name=pool]').selectedIndex`), want)
		}
	}
}

func TestWithoutJavaScript(t *testing.T) {
	v := newViewer(t, tether.Config{}, tetherhttp.DebugConfig{AllowCancel: true})
	v.scripts(false)
	v.screen(1280, 1400)
	for i := range 130 {
		v.hold(fmt.Sprintf("row %03d", i))
	}
	task := v.run("victim", untilCanceled)
	v.ended("breaks", func(context.Context) error { return errors.New("out of cheese") })
	v.open("")
	v.until(names("live") + `.length === 100`)
	assert.False(t, eval[bool](v, `document.getElementById('pause').checkVisibility({visibilityProperty: true})`), "nothing is to be paused")
	v.do(chromedp.Click(chromedp.CSS(`#live .c-name a`)))
	v.until(names("live") + `[0] === 'row 000' && location.search === '?sort=name'`)
	v.do(chromedp.Click(chromedp.CSS(`#live .pager a:last-child`)))
	v.until(names("live") + `.length === 31`)
	v.do(chromedp.SendKeys(chromedp.CSS(`#filter [name=q]`), "victim"), chromedp.Click(chromedp.CSS(`#apply`)))
	v.shows("live", "victim")
	assert.Equal(t, "name", eval[string](v, `new URLSearchParams(location.search).get('sort')`), "the order is kept")
	v.do(chromedp.Click(chromedp.CSS(`#live th[scope=row] a`)))
	v.until(`document.querySelector('#task h2')?.innerText === 'victim'`)
	v.do(chromedp.Click(chromedp.CSS(`#task button`)))
	<-task.Done()
	v.until(`document.getElementById('notice').innerText.startsWith('“victim” ')`)
	v.do(chromedp.Click(chromedp.CSS(`main > nav a`)))
	v.until(`document.querySelector('#filter [name=q]').value === 'victim'`)
	v.do(chromedp.Click(chromedp.CSS(`#alarms summary`)))
	v.until(`document.querySelector('#alarms details[open] pre').innerText === 'out of cheese'`)
}

func TestManyTasks(t *testing.T) {
	v := newViewer(t, tether.Config{})
	for i := range 3_000 {
		v.hold(fmt.Sprintf("row %05d", i))
	}
	v.open("")
	v.until(`document.querySelector('#live h2').innerText.includes('3,000')`)
	t.Logf("load event after %.0f ms, %.0f bytes of HTML, %d elements",
		eval[float64](v, `performance.getEntriesByType('navigation')[0].loadEventEnd`),
		eval[float64](v, `performance.getEntriesByType('navigation')[0].decodedBodySize`),
		eval[int](v, `document.querySelectorAll('*').length`))
	v.do(chromedp.SendKeys(chromedp.CSS(`#filter [name=q]`), "row 02999"))
	v.shows("live", "row 02999")
	v.open("sort=name&page=30")
	v.until(names("live") + `[99] === 'row 02999'`)
	v.updated(1)
}
