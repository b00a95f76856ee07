package readme

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The manifest of docs/stopping.md has only fields that Kubernetes knows, with values of
// their kinds, and gives the process more time than it takes to stop.
func TestKubernetes(t *testing.T) {
	page := "docs/stopping.md"
	var manifest map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(onlyBlock(t, page, "yaml")), &manifest))
	assert.Empty(t, unknown("", manifest, kubernetesFields(t)))

	pod := manifest["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	var config string
	for _, b := range blocksOf(t, page) {
		if strings.Contains(b.code, "PreStop:") {
			config += b.code
		}
	}
	found := regexp.MustCompile(`StopTimeout: (\d+) \* time\.Second`).FindStringSubmatch(config)
	require.NotNil(t, found)
	seconds, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	patience := time.Duration(pod["terminationGracePeriodSeconds"].(int)) * time.Second
	assert.Greater(t, patience, time.Duration(seconds+1)*time.Second, "Run returns at most one second after StopTimeout")
}

func TestUnknown(t *testing.T) {
	fields := kubernetesFields(t)
	for text, want := range map[string]string{
		"spec: {replicas: 2}":   "",
		"spec: {replicas: two}": "/spec/replicas",
		"spec: {replica: 2}":    "/spec/replica",
		"spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 80, names: b}]}]}}}": "/spec/template/spec/containers/ports/names",
		"spec: {template: {spec: {containers: {name: a}}}}":                                           "/spec/template/spec/containers",
	} {
		var manifest map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &manifest))
		assert.Equal(t, want, strings.Join(unknown("", manifest, fields), " "), text)
	}
}

// kubernetesFields returns the kinds of fields by their paths, as testdata/kubernetes has
// printed them.
func kubernetesFields(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/kubernetes/kubernetes.txt")
	require.NoError(t, err)
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		path, list, _ := strings.Cut(line, ": ")
		for _, field := range strings.Fields(list) {
			name, kind, _ := strings.Cut(field, "=")
			fields[path+name] = kind
		}
	}
	require.NotEmpty(t, fields)
	return fields
}

// unknown returns the paths of the fields that are not known, or of another kind.
func unknown(path string, object map[string]any, fields map[string]string) (wrong []string) {
	for name, value := range object {
		at := path + "/" + name
		inner := []any{value}
		kind := fmt.Sprintf("%T", value)
		switch v := value.(type) {
		case map[string]any:
			kind = "object"
		case []any:
			kind, inner = "list", v
		}
		want := fields[at]
		if kind != want && (kind != "object" || want != "map") && (want != "int-or-string" || kind != "int" && kind != "string") {
			wrong = append(wrong, at)
			continue
		}
		for _, v := range inner {
			if o, ok := v.(map[string]any); ok && want != "map" {
				wrong = append(wrong, unknown(at, o, fields)...)
			}
		}
	}
	return wrong
}
