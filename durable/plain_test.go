package durable

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type name string

// upper has a method that changes it.
type upper string

func (u *upper) UnmarshalText(b []byte) error { *u = upper("read " + string(b)); return nil }

type inner struct {
	N [2]int8 `json:"n,omitempty"`
	S name    `json:"s"`
}

// What is plain is what decoding gives, too.
func TestPlain(t *testing.T) {
	type of struct {
		value any
		plain bool
	}
	all := []of{
		{5, true}, {uint64(math.MaxUint64), true}, {int64(math.MinInt64), true}, {true, true}, {'x', true},
		{"", true}, {"<&>\x00\u2028ä\U0001F600", true}, {name("x"), true}, {"\xff", false},
		{1.5, true}, {math.MaxFloat64, true}, {float32(0.1), true}, {math.SmallestNonzeroFloat64, true},
		{math.NaN(), false}, {math.Inf(-1), false}, {math.Copysign(0, -1), false},
		{[3]byte{1, 2, 3}, true}, {[2]string{"a", "\xff"}, false}, {[0]int{}, true},
		{struct{}{}, true}, {inner{[2]int8{1, -1}, "x"}, true}, {struct{ A, B inner }{B: inner{S: "y"}}, true},
		{struct {
			A inner `json:"a"`
			B float64
		}{B: math.NaN()}, false},
		{struct {
			A int `json:"x"`
			B int `json:"X"`
		}{1, 2}, false},
		{struct {
			A int `json:"B"`
			B int
		}{1, 2}, false},
		{struct {
			A int `json:"-"`
		}{1}, false},
		{struct {
			A int `json:"a-b"`
		}{1}, false},
		{struct {
			A string `json:",string"`
		}{"1"}, false},
		{struct {
			A time.Duration `json:",omitzero"`
		}{1}, false},
		{struct{ a int }{1}, false}, {struct{ inner }{}, false}, {upper("x"), false}, {[1]upper{"x"}, false},
		{time.Now(), false}, {time.Second, true}, {json.Number("x"), false}, {json.RawMessage("1"), false},
		{[]int{1}, false}, {[]byte("x"), false}, {map[string]int{}, false}, {new(int), false}, {[1]any{1}, false}, {complex(1, 1), false},
		{struct{ F func() }{}, false}, {struct{ Ä int }{}, false},
	}
	for _, c := range all {
		copied := reflect.New(reflect.TypeOf(c.value))
		copied.Elem().Set(reflect.ValueOf(c.value))
		plain := plainType(copied.Type().Elem()) && isPlain(copied.Elem())
		assert.Equal(t, c.plain, plain, "%T %#v", c.value, c.value)
		if !plain {
			continue
		}
		encoded, err := json.Marshal(c.value)
		require.NoError(t, err, "%#v", c.value)
		decoded := reflect.New(copied.Type().Elem())
		require.NoError(t, json.Unmarshal(encoded, decoded.Interface()), "%#v", c.value)
		assert.Equal(t, c.value, decoded.Elem().Interface())
	}
}
