package tetherhttp

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/livepage.md has each field of the JSON, each parameter and each action.
func TestDebugIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/livepage.md")
	require.NoError(t, err)
	seen := make(map[reflect.Type]bool)
	var check func(t0 reflect.Type)
	check = func(t0 reflect.Type) {
		for t0.Kind() == reflect.Pointer || t0.Kind() == reflect.Slice {
			t0 = t0.Elem()
		}
		if t0.Kind() != reflect.Struct || seen[t0] || !strings.HasSuffix(t0.PkgPath(), "tetherhttp") {
			return
		}
		seen[t0] = true
		for f := range fields(t0) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && name != "-" {
				assert.Contains(t, string(text), "`"+name+"`", "%v.%s", t0, f.Name)
			}
			if f.Anonymous || name != "" && name != "-" {
				check(f.Type)
			}
		}
	}
	check(reflect.TypeFor[debugPage]())
	assert.Greater(t, len(seen), 15)
	for _, kind := range []DebugActionKind{DebugCancel, DebugCancelMatching, DebugPause, DebugResume, DebugResize, DebugRun, DebugPauseSchedule, DebugResumeSchedule} {
		assert.Regexp(t, "`"+string(kind)+"[`?]", string(text))
	}
	for _, column := range append(liveColumns(), finishedColumns()...) {
		assert.Contains(t, string(text), "`"+column.Key+"`")
	}
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
