package tetherhttp

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-2e639f12/tether"
)

// IdempotencyConfig configures the Idempotency-Key of [AsyncConfig]. The zero value suits
// services that know their users by the Authorization header.
//
// All requests with the same key, principal, method and path are one task, however often they
// are sent. They must have the same query, Content-Type and body, byte for byte; a multipart
// form that a browser encodes again has another boundary, and so another body.
//
// A repetition is answered as the first request was, or would be now, with
// Idempotency-Replayed: true: with the final answer, or 202 and the same Location. While the
// first request waits for its task, a repetition is answered 409 with Retry-After, unless Join
// is set. With another query or body it is answered 422, and a malformed key 400. A request
// that is not admitted, or whose task is dropped before it runs, does not consume its key.
//
// A task with a key is not canceled when its client disconnects, because the client will
// repeat the request.
//
// The header is that of the IETF draft draft-ietf-httpapi-idempotency-key-header-07, which has
// expired and is not an RFC. Keys are kept in the memory of this process, or in the Store of
// [AsyncConfig], where the replicas of a service share them: a key that is sent to all of them at
// once is one run. While the Store is away, a request with a key is answered 503 before anything
// runs. If the replica ends while it serves the first request or runs its task, the key stays
// used, and a repetition is answered with a problem of the type [ProblemTaskLost], since a part
// of the work may have been done. A task that a client has forgotten by DELETE is answered 410.
type IdempotencyConfig struct {
	// Required makes the handler answer 400 to requests without a key.
	Required bool
	// Join makes a repetition wait together with the first request instead of being
	// answered 409.
	Join bool
	// RetainFor is how long a key is remembered after its first request; it is always
	// remembered until its task has ended. The task's result is retained as long. Zero means
	// 1 hour.
	RetainFor time.Duration
	// MaxKeys is how many keys are remembered. Beyond it the oldest keys whose tasks have
	// ended are forgotten. Zero means 10,000. It has no effect with a Store.
	MaxKeys int
	// Principal returns a string that identifies the user or tenant that a request is from.
	// Each principal has its own keys, so that no user receives the answer of another. It
	// should return the same string for all tries of a request: the ID that an authentication
	// middleware has found, for example, rather than an access token, which may be renewed
	// between two tries, so that the task runs again:
	//
	//	Principal: func(r *http.Request) string { return userID(r.Context()) },
	//
	// If nil, the Authorization header and the client's TLS certificate identify the user. A
	// request with neither but with a Cookie is then answered 500 and logged, because its user
	// is not known. Principal must be set if users are known by a cookie, by another header or
	// by the host. A service without users returns "".
	Principal func(*http.Request) string
}

// newKeys returns the memory of a handler with a configuration.
func newKeys(cfg IdempotencyConfig) *keys {
	if cfg.RetainFor < 0 || cfg.MaxKeys < 0 {
		panic("tetherhttp: an IdempotencyConfig has a negative setting")
	}
	if cfg.RetainFor == 0 {
		cfg.RetainFor = time.Hour
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 10_000
	}
	return &keys{cfg: cfg, known: make(map[hash]*key)}
}

// IdempotencyKey returns the Idempotency-Key in the headers of a request, "" if there is none.
// A malformed key is a [*Problem] with status 400. A key has 1 to 255 characters. It is a
// quoted string, as in the draft (RFC 8941, 3.3.3; parameters are ignored), or visible ASCII
// without quotes and commas, as many clients send it. A request has one key.
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
	return "", newProblem(ProblemKeyMalformed, `Idempotency-Key: give one, of 1 to 255 visible ASCII characters, in quotes ("…") or without`)
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

// sfString reads a string of RFC 8941 (4.2.5), in which only a quote and a backslash can be
// escaped, and returns the rest of s.
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

// keys are the Idempotency-Keys that a handler remembers.
type keys struct {
	cfg IdempotencyConfig

	mu    sync.Mutex
	known map[hash]*key // guarded by mu
	order list.List     // of *key: the oldest first, except live ones that were passed over; guarded by mu
	armed bool          // a timer is set that calls sweep; guarded by mu
}

type hash [sha256.Size]byte

// hashOf hashes fields. The length of each is hashed too, so that no two lists of fields are
// hashed alike.
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
	id        hash // of principal, method, path and key
	print     hash // of query, Content-Type and body
	firstSeen time.Time
	ready     chan struct{} // closed when the task is admitted or refused

	task     *handle       // nil if it was refused; written before ready is closed
	answered bool          // a request with it was answered, or its client has gone; guarded by keys.mu
	element  *list.Element // of keys.order, nil when it is forgotten; guarded by keys.mu
}

// use is one request's use of a key.
type use struct {
	of        *keys
	id, print hash
	key       *key // found or made by lookup
}

// read returns a request's use of a key, nil if it has none.
func (k *keys) read(r *http.Request, body []byte) (*use, error) {
	key, err := IdempotencyKey(r.Header)
	if err != nil {
		return nil, err
	}
	if key == "" {
		if k.cfg.Required {
			return nil, newProblem(ProblemKeyMissing, "this request needs an Idempotency-Key")
		}
		return nil, nil
	}
	principal, err := k.principal(r)
	if err != nil {
		return nil, err
	}
	return &use{
		of: k,
		id: hashOf(principal, r.Method, r.URL.EscapedPath(), key),
		// If a middleware has read the form, the body is empty.
		print: hashOf(r.URL.RawQuery, r.Header.Get("Content-Type"), string(body), r.PostForm.Encode()),
	}, nil
}

// principal returns what identifies the user of a request.
func (k *keys) principal(r *http.Request) (string, error) {
	if k.cfg.Principal != nil {
		return k.cfg.Principal(r), nil
	}
	known := slices.Clone(r.Header.Values("Authorization"))
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		known = append(known, string(r.TLS.PeerCertificates[0].Raw))
	}
	if len(known) == 0 && r.Header.Get("Cookie") != "" {
		// A cookie may or may not identify the user, and it may change between two tries.
		logf(r, "tetherhttp: %s %q: a request with a Cookie and an Idempotency-Key needs IdempotencyConfig.Principal", r.Method, r.URL.Path)
		return "", newProblem(ProblemFailed, "")
	}
	return strings.Join(known, "\n"), nil
}

// once returns a finder for a request with a key: it calls find for the first request, and
// returns the task of the first request for all others.
func (u *use) once(client context.Context, w http.ResponseWriter, find finder) finder {
	return func() (*handle, bool, error) {
		for {
			first, err := u.lookup()
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
			// The first request was refused. This one may be admitted.
		}
	}
}

// lookup finds the request's key, or makes it and reports that the request is the first.
func (u *use) lookup() (first bool, err error) {
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
		return false, newProblem(ProblemKeyReused, "this Idempotency-Key was used for another request; use a new key for a new request")
	case !known.answered && !k.cfg.Join:
		return false, newProblem(ProblemKeyInUse, "the first request with this Idempotency-Key is being served").after(time.Second)
	}
	u.key = known
	return false, nil
}

// start submits the task of a key that was made for this request.
func (u *use) start(find finder) (t *handle, isNew bool, err error) {
	defer func() { // deferred, because an observer may end the goroutine
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

// answered records that the request has ended.
func (u *use) answered() {
	if u.key == nil {
		return
	}
	u.of.mu.Lock()
	defer u.of.mu.Unlock()
	u.key.answered = true
}

// finished reports whether the key's task has ended. The caller holds the lock.
func (k *key) finished() bool { return k.task != nil && k.task.State().Final() }

// unused reports whether a key can be used for a new request: it has expired, or its task has
// never run. The caller holds the lock.
func (k *keys) unused(old *key, now time.Time) bool {
	return old.finished() && (now.Sub(old.firstSeen) >= k.cfg.RetainFor || old.task.State() == tether.Dropped)
}

// add makes a key. If there are MaxKeys already, it forgets up to two, so that their number
// shrinks again after live keys have exceeded the limit. The caller holds the lock.
func (k *keys) add(u *use, now time.Time) *key {
	for range 2 {
		front := k.order.Front()
		if len(k.known) < k.cfg.MaxKeys || front == nil {
			break
		}
		if oldest := front.Value.(*key); oldest.finished() {
			k.forget(oldest)
		} else {
			k.order.MoveToBack(front)
		}
	}
	added := &key{id: u.id, print: u.print, firstSeen: now, ready: make(chan struct{})}
	k.known[u.id], added.element = added, k.order.PushBack(added)
	k.arm(k.cfg.RetainFor)
	return added
}

// arm sets a timer that calls sweep, unless one is set. The caller holds the lock.
func (k *keys) arm(in time.Duration) {
	if !k.armed {
		k.armed = true
		time.AfterFunc(in, k.sweep)
	}
}

// sweep forgets the keys that have expired, and so their results.
func (k *keys) sweep() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, soonest := time.Now(), k.cfg.RetainFor
	for _, old := range k.known {
		if k.unused(old, now) {
			k.forget(old)
		} else if left := k.cfg.RetainFor - now.Sub(old.firstSeen); left > 0 { // otherwise its task is still live
			soonest = min(soonest, left)
		}
	}
	if k.armed = false; len(k.known) > 0 {
		k.arm(max(soonest, k.cfg.RetainFor/10)) // a sweep visits every key: do not run one for each
	}
}

// forget removes a key. The caller holds the lock.
func (k *keys) forget(old *key) {
	if old.element != nil {
		k.order.Remove(old.element)
		old.element = nil
		delete(k.known, old.id)
	}
}
