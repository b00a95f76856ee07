package redis

import (
	"context"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/seed-2e639f12/tether/tetherhttp/store"
)

// Store is a store for the status of tasks and for Idempotency-Keys, on the engine's connection:
// see tetherhttp.NewStore. Its keys begin with "tether:{store}:", whatever the engine's queue is,
// and expire by themselves; in a cluster they are in one slot.
//
// A failover of Redis may lose the last changes, as it may lose jobs; Config.Replicas does not
// apply to the store. What a replica of the service is at work on it stores again. The
// Idempotency-Key of a request may be forgotten, so that a repetition runs again.
type Store struct{ engine *Engine }

var _ store.Backend = Store{}

// Store returns the store. It cannot be used after [Engine.Close].
func (e *Engine) Store() Store { return Store{e} }

const storePrefix = "tether:{store}:"

// The record of a key is a hash of the tag t, the owner o, whether it is asked a, the version v
// and the data d. The lease of an owner is a key that expires. The keys of what an owner is asked
// are in a set, which may also have keys that no longer are.

// getScript returns of each record its fields, and whether its owner has a lease.
var getScript = goredis.NewScript(`
local found = {}
for i, key in ipairs(KEYS) do
	local r = redis.call("HMGET", key, "t", "o", "a", "v", "d")
	if r[1] then
		r[6] = 0
		if r[2] ~= "" and redis.call("EXISTS", ARGV[1] .. "lease:" .. r[2]) == 0 then r[6] = 1 end
	else
		r = {}
	end
	found[i] = r
end
return found`)

// swapScript replaces a record, or deletes it if it is given no other.
var swapScript = goredis.NewScript(`
local prefix, key, was = ARGV[1], ARGV[2], ARGV[3]
local now = redis.call("HMGET", KEYS[1], "t", "o", "a")
if (now[1] or "") ~= was then return 0 end
if now[3] == "1" then redis.call("SREM", prefix .. "asked:" .. now[2], key) end
redis.call("DEL", KEYS[1])
if #ARGV == 3 then return 1 end
local tag, owner, asked, version, data, keep = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
redis.call("HSET", KEYS[1], "t", tag, "o", owner, "a", asked, "v", version, "d", data)
redis.call("PEXPIRE", KEYS[1], keep)
if asked == "1" and owner ~= "" then
	local all = prefix .. "asked:" .. owner
	redis.call("SADD", all, key)
	if redis.call("PTTL", all) < tonumber(keep) then redis.call("PEXPIRE", all, keep) end
end
return 1`)

// renewScript renews a lease, and returns the keys that the owner is asked for.
var renewScript = goredis.NewScript(`
redis.call("SET", KEYS[1], "1", "PX", ARGV[2])
local keys = {}
for _, key in ipairs(redis.call("SMEMBERS", KEYS[2])) do
	if redis.call("EXISTS", ARGV[1] .. "record:" .. key) == 1 then
		keys[#keys + 1] = key
	else
		redis.call("SREM", KEYS[2], key)
	end
end
return keys`)

func recordKey(key string) string { return storePrefix + "record:" + key }

// milliseconds rounds up, because a time of zero is refused.
func milliseconds(d time.Duration) int64 { return max(1, (d + time.Millisecond - 1).Milliseconds()) }

// Get implements [store.Backend].
func (s Store) Get(ctx context.Context, keys ...string) ([]store.Record, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = recordKey(key)
	}
	return call(ctx, s.engine, func(ctx context.Context) ([]store.Record, error) {
		rows, err := getScript.Run(ctx, s.engine.redis, names, storePrefix).Slice()
		if err != nil {
			return nil, err
		}
		var found []store.Record
		for i, row := range rows {
			fields, _ := row.([]any)
			if len(fields) == 0 || i >= len(keys) {
				continue
			}
			r, err := parseRecord(keys[i], fields)
			if err != nil {
				return nil, err
			}
			found = append(found, r)
		}
		return found, nil
	})
}

// parseRecord reads what getScript returns of a record.
func parseRecord(key string, fields []any) (r store.Record, err error) {
	bad := fmt.Errorf("redis: the record %q is malformed", key)
	if len(fields) != 6 {
		return r, bad
	}
	text := make([]string, 5)
	for i := range text {
		var ok bool
		if text[i], ok = fields[i].(string); !ok {
			return r, bad
		}
	}
	r = store.Record{Key: key, Tag: text[0], Owner: text[1], Asked: text[2] == "1", Data: []byte(text[4]), Orphaned: fields[5] == int64(1)}
	if _, err := fmt.Sscan(text[3], &r.Version); err != nil {
		return r, bad
	}
	return r, nil
}

// Swap implements [store.Backend].
func (s Store) Swap(ctx context.Context, was string, r store.Record) error {
	asked := 0
	if r.Asked {
		asked = 1
	}
	return s.swap(ctx, r.Key, was, r.Tag, r.Owner, asked, r.Version, r.Data, milliseconds(r.Keep))
}

// Delete implements [store.Backend].
func (s Store) Delete(ctx context.Context, key, was string) error {
	if was == "" {
		return store.ErrConflict // to the script it would be a record that does not exist
	}
	return s.swap(ctx, key, was)
}

func (s Store) swap(ctx context.Context, key, was string, record ...any) error {
	done, err := call(ctx, s.engine, func(ctx context.Context) (int, error) {
		return swapScript.Run(ctx, s.engine.redis, []string{recordKey(key)}, append([]any{storePrefix, key, was}, record...)...).Int()
	})
	if err == nil && done == 0 {
		return store.ErrConflict
	}
	return err
}

// Renew implements [store.Backend].
func (s Store) Renew(ctx context.Context, owner string, lease time.Duration) ([]string, error) {
	return call(ctx, s.engine, func(ctx context.Context) ([]string, error) {
		keys := []string{storePrefix + "lease:" + owner, storePrefix + "asked:" + owner}
		return renewScript.Run(ctx, s.engine.redis, keys, storePrefix, milliseconds(lease)).StringSlice()
	})
}
