package tetherhttp

import (
	"cmp"
	"os"
	"path"
	"path/filepath"
	"runtime"
	build "runtime/debug"
	"strconv"
	"strings"
	"time"
)

// debugProcess is which process the page is about. It does not change.
type debugProcess struct {
	Title   string    `json:"title"`
	Program string    `json:"program,omitempty"` // the path of the main package
	Version string    `json:"version,omitempty"`
	Go      string    `json:"go"`
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// thisProcess describes the process. title and version are from the configuration, and may
// be empty.
func thisProcess(title, version string, now time.Time) debugProcess {
	p := debugProcess{Go: runtime.Version(), PID: os.Getpid(), Started: startOfProcess(now).UTC()}
	p.Host, _ = os.Hostname()
	p.Version = version
	name := filepath.Base(os.Args[0])
	if info, ok := build.ReadBuildInfo(); ok {
		p.Program = info.Path
		if info.Path != "" && info.Path != "command-line-arguments" {
			name = path.Base(info.Path)
		}
		p.Version = cmp.Or(version, versionOf(info))
	}
	p.Title = cmp.Or(title, strings.TrimSuffix(name, ".exe"))
	return p
}

// versionOf returns the version of the main module, or its commit.
func versionOf(info *build.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var commit, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if commit == "" {
		return info.Main.Version
	}
	return commit + dirty
}

// startOfProcess returns when the process was started, or now if the operating system does
// not say. Linux says it in ticks of 10 ms since the machine was started.
func startOfProcess(now time.Time) time.Time {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return now
	}
	boot, err := os.ReadFile("/proc/stat")
	if err != nil {
		return now
	}
	return parseStart(string(stat), string(boot), now)
}

// parseStart reads the start of a process from the contents of /proc/self/stat, whose field 22
// it is, and /proc/stat. The second field is a name in parentheses that may contain anything.
func parseStart(stat, boot string, now time.Time) time.Time {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the first one is field 3
	_, line, ok := strings.Cut(boot, "\nbtime ")
	if len(fields) < 20 || !ok {
		return now
	}
	line, _, _ = strings.Cut(line, "\n")
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	seconds, wrong := strconv.ParseInt(line, 10, 64)
	if err != nil || wrong != nil || seconds <= 0 || ticks < 0 {
		return now
	}
	if start := time.Unix(seconds, 0).Add(time.Duration(ticks) * 10 * time.Millisecond); start.Before(now) {
		return start
	}
	return now // the clock was set meanwhile
}
