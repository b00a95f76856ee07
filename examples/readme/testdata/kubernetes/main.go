// Command kubernetes prints the fields of a manifest's objects, as Kubernetes declares
// them: one line for each object, with the names and kinds of all its fields. It writes
// kubernetes.txt, with which the manifest of docs/stopping.md is checked. In a module of
// its own that requires k8s.io/api, k8s.io/apimachinery and sigs.k8s.io/yaml:
//
//	go run . <deployment.yaml >kubernetes.txt
package main

import (
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

func main() {
	manifest, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(manifest, new(appsv1.Deployment)); err != nil {
		log.Fatal(err)
	}
	var object map[string]any
	if err := yaml.Unmarshal(manifest, &object); err != nil {
		log.Fatal(err)
	}
	lines := map[string]string{}
	walk("", object, reflect.TypeFor[appsv1.Deployment](), lines)
	for _, path := range slices.Sorted(maps.Keys(lines)) {
		fmt.Printf("%s: %s\n", path, lines[path])
	}
}

// walk adds a line for each object at the path and below it.
func walk(path string, value any, typ reflect.Type, lines map[string]string) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch v := value.(type) {
	case map[string]any:
		if typ.Kind() != reflect.Struct {
			return
		}
		all := fields(typ)
		var kinds []string
		for _, name := range slices.Sorted(maps.Keys(all)) {
			kinds = append(kinds, name+"="+kind(all[name]))
		}
		lines[path+"/"] = strings.Join(kinds, " ")
		for name, inner := range v {
			walk(path+"/"+name, inner, all[name], lines)
		}
	case []any:
		for _, inner := range v {
			walk(path, inner, typ.Elem(), lines)
		}
	}
}

func fields(typ reflect.Type) map[string]reflect.Type {
	all := map[string]reflect.Type{}
	for f := range typ.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if strings.Contains(options, "inline") || f.Anonymous && name == "" {
			inner := f.Type
			maps.Copy(all, fields(inner))
		} else if name != "" && name != "-" {
			all[name] = f.Type
		}
	}
	return all
}

func kind(typ reflect.Type) string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ {
	case reflect.TypeFor[intstr.IntOrString]():
		return "int-or-string"
	case reflect.TypeFor[metav1.Time]():
		return "string"
	}
	switch typ.Kind() {
	case reflect.Struct:
		return "object"
	case reflect.Slice:
		return "list"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "int"
	default:
		return typ.Kind().String()
	}
}
