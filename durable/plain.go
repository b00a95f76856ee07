package durable

import (
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"
)

// A value is plain if encoding it as JSON cannot fail, decoding that gives the same value,
// and a copy of it shares no memory that can be changed. So a job that runs in the process
// that submits it need not be encoded until it leaves. Most arguments are plain: structs of
// numbers, strings and structs.

var methods = []reflect.Type{
	reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
}

var fieldName = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

// plainType reports whether all values of a type are plain, but for those that isPlain
// refuses.
func plainType(t reflect.Type) bool {
	for _, m := range methods {
		if reflect.PointerTo(t).Implements(m) {
			return false
		}
	}
	switch t.Kind() {
	case reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.String:
		return t != reflect.TypeFor[json.Number]()
	case reflect.Array:
		return plainType(t.Elem())
	case reflect.Struct:
		return plainStruct(t)
	}
	return false
}

func plainStruct(t reflect.Type) bool {
	names := make(map[string]bool)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if !f.IsExported() || f.Anonymous || !fieldName.MatchString(name) || options != "" && options != "omitempty" || !plainType(f.Type) {
			return false
		}
		name = strings.ToLower(name)
		if names[name] {
			return false // one hides the other
		}
		names[name] = true
	}
	return true
}

// isPlain reports whether a value of a plainType is plain.
func isPlain(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Float32, reflect.Float64:
		f := v.Float()
		return !math.IsNaN(f) && !math.IsInf(f, 0) && !(f == 0 && math.Signbit(f)) // omitempty omits -0
	case reflect.Array:
		for i := range v.Len() {
			if !isPlain(v.Index(i)) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !isPlain(v.Field(i)) {
				return false
			}
		}
	}
	return true
}
