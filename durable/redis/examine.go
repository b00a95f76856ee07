package redis

import (
	"context"
	"fmt"
	"strings"
)

// examine fails if Redis does not answer or would lose jobs, and warns if it could.
func (e *Engine) examine(ctx context.Context) (struct{}, error) {
	none := struct{}{}
	if err := e.redis.Ping(ctx).Err(); err != nil {
		return none, fmt.Errorf("durable: redis cannot be reached: %w", err)
	}
	// What must not be asked for has no value.
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
			return none, fmt.Errorf("durable: redis drops jobs when its memory is full: maxmemory is %s and maxmemory-policy %s, which must be noeviction", limit, policy)
		}
		e.cfg.Logger.Warn("durable: redis would drop jobs if maxmemory were set: maxmemory-policy must be noeviction", "maxmemory-policy", policy)
	}
	if ask("appendonly") == "no" {
		e.cfg.Logger.Warn("durable: redis loses jobs when it restarts: appendonly is no", "queue", e.cfg.Queue)
	}
	return none, nil
}

// versionOf returns the version in what INFO answers; "" if it is not there.
func versionOf(info string) string {
	for line := range strings.Lines(info) {
		if version, ok := strings.CutPrefix(line, "redis_version:"); ok {
			return strings.TrimSpace(version)
		}
	}
	return ""
}

// tooOld tells of a version before 6.2, where ZRANGE has no BYSCORE: asynq's script that
// archives a task would fail midway. What is no version is not too old.
func tooOld(version string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < 6 || major == 6 && minor < 2
}
