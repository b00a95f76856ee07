package readme

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The metrics that the guide names are those of package prom, and the alerts are YAML.
func TestMetrics(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "prom", "doc.go"))
	require.NoError(t, err)
	known := string(doc)
	names := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(filepath.Join(root, page))
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\btether_(?:tasks?|pool|ready|schedule)[a-z_]*`).FindAllString(string(text), -1) {
			assert.Regexp(t, `\b`+strings.TrimSuffix(name, "_bucket")+`\b`, known, page)
			names++
		}
		for _, b := range blocksOf(t, page) {
			if b.info == "yaml" {
				require.NoError(t, yaml.Unmarshal([]byte(b.code), new(map[string]any)), "%v", b)
			}
		}
	}
	assert.Positive(t, names)
}
