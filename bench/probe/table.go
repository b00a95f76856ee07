package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// table renders the verdicts: a row for each candidate, and notes for details and for
// other settings with different verdicts.
func table(rows []candidate, all results, how effort) string {
	var b strings.Builder
	b.WriteString("# When tasks go wrong and processes stop\n\n")
	fmt.Fprintf(&b, "`go run ./bench/probe` writes this file. Each cell shows what happened in a process of its own, "+
		"with the library used as its documentation recommends; `bench/probe/probes.go` documents what was done and what counts. "+
		"**Bold** marks undesirable behavior, a dash a feature that the library lacks. (n/m) means n of m runs; 0 means that it was not seen, not that it cannot happen. "+
		"A call hangs if it has not returned within %v.\n\n", how.Patience)
	fmt.Fprintf(&b, "%s, %s/%s, GOMAXPROCS %d. Versions: %s.\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.GOMAXPROCS(0), strings.Join(versions(rows), ", "))

	b.WriteString("| |")
	for _, p := range probes {
		b.WriteString(" " + p.Question + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(probes)) + "\n")
	var notes []string
	for c, row := range rows {
		b.WriteString("| " + row.Name + " |")
		for _, p := range probes {
			b.WriteString(" " + cell(row, func(setting int) (verdict, bool) {
				v, ok := all[job{p, c, setting}.key()]
				return v, ok
			}, &notes) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	var calls []string
	for _, row := range rows {
		if set := row.Settings[0]; set.DrainName != "" {
			names := set.DrainName
			if set.WaitName != "" {
				names = set.WaitName + " and " + names
			}
			calls = append(calls, row.Name+": "+names)
		}
	}
	fmt.Fprintf(&b, "The calls that wait and that stop, by library (one call may be both): %s.\n\n", strings.Join(calls, "; "))
	for i, note := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, note)
	}
	return b.String()
}

// cell renders the verdict on the first setting, and adds a note to notes if there are
// details or other settings with other verdicts.
func cell(row candidate, of func(setting int) (verdict, bool), notes *[]string) string {
	v, ok := of(0)
	if !ok {
		return ""
	}
	text := v.Text
	if v.Bad {
		text = "**" + text + "**"
	}
	more := v.Notes
	for i, set := range row.Settings[1:] {
		other, ok := of(i + 1)
		if !ok || other.Text == v.Text && slices.Equal(other.Notes, v.Notes) {
			continue
		}
		more = append(more, strings.TrimSpace(fmt.Sprintf("With %s: %s. %s", set.Name, other.Text, strings.Join(other.Notes, " "))))
	}
	if len(more) == 0 {
		return text
	}
	note := strings.Join(more, " ")
	i := slices.Index(*notes, note)
	if i < 0 {
		i = len(*notes)
		*notes = append(*notes, note)
	}
	return fmt.Sprintf("%s <sup>%d</sup>", text, i+1)
}

// versions returns the versions of the candidates' modules in this program.
func versions(rows []candidate) []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return []string{"unknown"}
	}
	var found []string
	for _, row := range rows {
		for _, m := range info.Deps {
			if m.Path != row.Module {
				continue
			}
			version := m.Version
			if m.Replace != nil || version == "" || version == "(devel)" {
				version = "(this tree)"
			}
			if text := m.Path + " " + version; !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
	}
	return found
}
