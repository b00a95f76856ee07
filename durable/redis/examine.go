package redis

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// maxSkew is the difference between two clocks above which Open warns.
const maxSkew = 10 * time.Second

// examine returns an error if Redis does not answer or would lose jobs, and warns if it might.
func (e *Engine) examine(ctx context.Context) (struct{}, error) {
	none := struct{}{}
	if err := e.redis.Ping(ctx).Err(); err != nil {
		return none, fmt.Errorf("durable: redis cannot be reached: %w", err)
	}
	// A command that is forbidden has no result.
	info, _ := e.redis.Info(ctx, "server").Result()
	if version := versionOf(info); tooOld(version) {
		return none, fmt.Errorf("durable: redis %s is too old: 6.2 or later is required", version)
	}
	ask := func(setting string) string {
		values, _ := e.redis.ConfigGet(ctx, setting).Result()
		return values[setting]
	}
	if policy := ask("maxmemory-policy"); strings.HasPrefix(policy, "allkeys-") {
		if limit := ask("maxmemory"); limit != "" && limit != "0" {
			return none, fmt.Errorf("durable: redis drops jobs when its memory is full: maxmemory is %s and maxmemory-policy is %s, but must be noeviction", limit, policy)
		}
		e.cfg.Logger.Warn("durable: redis would drop jobs if maxmemory were set: maxmemory-policy must be noeviction", "maxmemory-policy", policy)
	}
	if ask("appendonly") == "no" {
		e.cfg.Logger.Warn("durable: redis loses jobs when it restarts: appendonly is no", "queue", e.cfg.Queue)
	}
	e.compareClocks(ctx)
	return none, nil
}

// compareClocks warns if the clock of this machine differs from that of Redis. asynq uses
// the workers' clocks: a worker with a clock that is ahead takes running jobs for abandoned.
func (e *Engine) compareClocks(ctx context.Context) {
	before := e.cfg.now()
	theirs, err := e.redis.Time(ctx).Result()
	after := e.cfg.now()
	if err != nil {
		return
	}
	var skew time.Duration // at least; the command took the time between before and after
	switch {
	case theirs.After(after):
		skew = theirs.Sub(after)
	case theirs.Before(before):
		skew = theirs.Sub(before)
	}
	if skew.Abs() > maxSkew {
		e.cfg.Logger.Warn("durable: the clocks of this machine and of redis differ: jobs may be late, and long ones may run twice at once",
			"queue", e.cfg.Queue, "redis-ahead", skew.Round(time.Millisecond))
	}
}

// versionOf returns the version in the answer of INFO, or "" if there is none.
func versionOf(info string) string {
	for line := range strings.Lines(info) {
		if version, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(version)
		}
	}
	return ""
}

// tooOld reports whether version is before 6.2, where ZRANGE has no BYSCORE: asynq's script
// that archives a task would fail midway. It returns false for what is not a version.
func tooOld(version string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < 6 || major == 6 && minor < 2
}
