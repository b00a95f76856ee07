package tetherhttp

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// Idempotency sets [Idempotent] up. The zero Idempotency is a good one for services
// that tell their users apart by the Authorization header.
type Idempotency struct {
	// Required has requests without a key refused with 400.
	Required bool
	// Join has a request whose first instance is being worked on wait with it, instead
	// of being answered 409.
	Join bool
	// Keep is how long a key is known after its first request, and always until its
	// task has ended. 0: 1 hour. As long, its task's result stays in memory.
	Keep time.Duration
	// Most is how many keys are known: beyond it the oldest whose tasks have ended are
	// forgotten. 0: 10,000.
	Most int
	// Principal tells users apart: two of them may have the same key. nil: by the
	// Authorization header. A service that knows its users by a cookie, or its tenants by
	// the host, must set it.
	Principal func(*http.Request) string
}

// Idempotent has requests with the same Idempotency-Key be one task, however often
// they are sent: the key of the same principal, method and path, with the same query,
// content type and body, byte for byte. (A multipart form that a browser encodes again has another
// boundary, and is another body.)
//
// A repetition is answered as the first request was or would be now, with
// Idempotency-Replayed: true: the final answer, or 202 with the same Location. While
// the first waits for its answer still, a repetition is answered 409 with Retry-After
// (or see Join). With another query or body it is 422. A malformed key is 400. A request that
// was not admitted, or whose task was dropped before it ran, has not used its key.
//
// A task with a key is not cancelled when its client goes: the client will ask again.
//
// The header is that of the IETF draft draft-ietf-httpapi-idempotency-key-header-07,
// which has expired and is no RFC. Keys live in this process's memory.
func Idempotent(cfg Idempotency) AsyncOption {
	if cfg.Keep <= 0 {
		cfg.Keep = time.Hour
	}
	if cfg.Most <= 0 {
		cfg.Most = 10_000
	}
	if cfg.Principal == nil {
		cfg.Principal = func(r *http.Request) string { return strings.Join(r.Header.Values("Authorization"), "\n") }
	}
	return asyncOption(func(a *async) { a.keys = &keys{cfg: cfg, known: make(map[hash]*key)} })
}

// IdempotencyKey returns the Idempotency-Key of a request, "" if it has none, or a
// [*Problem] (400). A key is a string in quotes, as the draft has it (RFC 8941, 3.3.3;
// parameters are ignored), or plain visible ASCII without quotes and commas, as many
// clients have it; 1 to 255 characters, one per request.
func IdempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) == 1 {
		if key, ok := idempotencyKey(strings.Trim(values[0], " \t")); ok {
			return key, nil
		}
	}
	return "", &Problem{Status: http.StatusBadRequest, Detail: `Idempotency-Key: give one, of 1 to 255 visible ASCII characters, in quotes ("…") or without`}
}

func idempotencyKey(s string) (key string, ok bool) {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return "", false
		}
	}
	if strings.HasPrefix(s, `"`) {
		if key, s, ok = sfString(s); !ok || s != "" && s[0] != ';' {
			return "", false
		}
	} else if key = s; strings.ContainsAny(key, `", `) {
		return "", false
	}
	return key, 1 <= len(key) && len(key) <= 255
}

// sfString reads a string of RFC 8941 (4.2.5), in which only a quote and a backslash
// can be escaped, and returns what follows.
func sfString(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// keys is the memory of an Idempotent handler.
type keys struct {
	cfg Idempotency

	mu    sync.Mutex
	known map[hash]*key // guarded by mu
	order list.List     // of *key: the oldest first, but for live ones that were passed over; guarded by mu
	armed bool          // a timer will run sweep; guarded by mu
}

type hash [sha256.Size]byte

// hashOf hashes fields; none of them can pass for a part of its neighbour.
func hashOf(fields ...string) (sum hash) {
	h := sha256.New()
	var size [8]byte
	for _, f := range fields {
		binary.BigEndian.PutUint64(size[:], uint64(len(f)))
		h.Write(size[:])
		h.Write([]byte(f))
	}
	h.Sum(sum[:0])
	return sum
}

// key is a key that has been used.
type key struct {
	id    hash // of principal, method, path and key
	print hash // of what was asked for
	came  time.Time
	ready chan struct{} // closed when the task is admitted, or refused

	task  *tether.Task  // nil if it was refused; written before ready is closed
	told  bool          // a request with it was answered, or its client has gone; guarded by keys.mu
	place *list.Element // nil when it is forgotten; guarded by keys.mu
}

// use is a request that uses a key.
type use struct {
	of        *keys
	id, print hash
	key       *key // what it has found or made
}

// read returns a request's use of a key, nil if it has none.
func (k *keys) read(r *http.Request, body []byte) (*use, error) {
	key, err := IdempotencyKey(r.Header)
	if err != nil {
		return nil, err
	}
	if key == "" {
		if k.cfg.Required {
			return nil, &Problem{Status: http.StatusBadRequest, Detail: "this request needs an Idempotency-Key"}
		}
		return nil, nil
	}
	return &use{
		of: k,
		id: hashOf(k.cfg.Principal(r), r.Method, r.URL.EscapedPath(), key),
		// If the form has been read further out, the body is empty.
		print: hashOf(r.URL.RawQuery, r.Header.Get("Content-Type"), string(body), r.PostForm.Encode()),
	}, nil
}

// once returns a finder for a request with a key: it starts a task by find, or finds
// the one that an earlier request has started.
func (u *use) once(client context.Context, w http.ResponseWriter, find finder) finder {
	return func() (*tether.Task, bool, error) {
		for {
			first, err := u.enter()
			if err != nil {
				return nil, false, err
			}
			if first {
				return u.start(find)
			}
			select {
			case <-u.key.ready:
			case <-client.Done():
				return nil, false, ErrClientGone
			}
			if u.key.task != nil {
				w.Header().Set("Idempotency-Replayed", "true")
				return u.key.task, false, nil
			}
			// The first one was refused. This one may fare better.
		}
	}
}

// enter finds the request's key, or makes it, and reports which.
func (u *use) enter() (first bool, err error) {
	k := u.of
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	known := k.known[u.id]
	if known != nil && k.unused(known, now) {
		k.forget(known)
		known = nil
	}
	switch {
	case known == nil:
		u.key = k.add(u, now)
		return true, nil
	case known.print != u.print:
		return false, &Problem{Status: http.StatusUnprocessableEntity, Detail: "this Idempotency-Key was used for another request; use a new key for a new request"}
	case !known.told && !k.cfg.Join:
		return false, &Problem{Status: http.StatusConflict, Detail: "the first request with this Idempotency-Key is being worked on", RetryAfter: time.Second}
	}
	u.key = known
	return false, nil
}

// start submits the task of a key that was made for this request.
func (u *use) start(find finder) (t *tether.Task, isNew bool, err error) {
	defer func() { // also if an observer ends the goroutine
		k := u.of
		k.mu.Lock()
		defer k.mu.Unlock()
		if u.key.task = t; t == nil {
			k.forget(u.key)
		}
		close(u.key.ready)
	}()
	return find()
}

// answered notes that the request is over.
func (u *use) answered() {
	if u.key == nil {
		return
	}
	u.of.mu.Lock()
	defer u.of.mu.Unlock()
	u.key.told = true
}

// over reports whether the key's task has ended. The caller holds the lock.
func (k *key) over() bool { return k.task != nil && k.task.State().Final() }

// unused reports whether a key may be used for something new: its time is over, or its
// task has never run. The caller holds the lock.
func (k *keys) unused(old *key, now time.Time) bool {
	return old.over() && (now.Sub(old.came) >= k.cfg.Keep || old.task.State() == tether.Dropped)
}

// add makes a key. Beyond the most there may be, it makes room: by two, if it can, so
// that they get fewer again. The caller holds the lock.
func (k *keys) add(u *use, now time.Time) *key {
	for range 2 {
		front := k.order.Front()
		if len(k.known) < k.cfg.Most || front == nil {
			break
		}
		if oldest := front.Value.(*key); oldest.over() {
			k.forget(oldest)
		} else {
			k.order.MoveToBack(front)
		}
	}
	added := &key{id: u.id, print: u.print, came: now, ready: make(chan struct{})}
	k.known[u.id], added.place = added, k.order.PushBack(added)
	k.arm(k.cfg.Keep)
	return added
}

// arm has sweep run, if it is not to run already. The caller holds the lock.
func (k *keys) arm(in time.Duration) {
	if !k.armed {
		k.armed = true
		time.AfterFunc(in, k.sweep)
	}
}

// sweep forgets the keys whose time is over, and their results with them.
func (k *keys) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, soonest := time.Now(), k.cfg.Keep
	for _, old := range k.known {
		if k.unused(old, now) {
			k.forget(old)
		} else if left := k.cfg.Keep - now.Sub(old.came); left > 0 { // else its task is live still
			soonest = min(soonest, left)
		}
	}
	if k.armed = false; len(k.known) > 0 {
		k.arm(max(soonest, k.cfg.Keep/10)) // not for each of many
	}
}

// forget removes a key. The caller holds the lock.
func (k *keys) forget(old *key) {
	if old.place != nil {
		k.order.Remove(old.place)
		old.place = nil
		delete(k.known, old.id)
	}
}
