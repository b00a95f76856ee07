package durable_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

func TestMessage(t *testing.T) {
	t.Run("what is stored is what a foreign program would write", func(t *testing.T) {
		encoded, err := json.Marshal(durable.Message{
			ID: "a", Name: "invoice", Args: json.RawMessage(`{"order":5}`), RunAt: time.Now(),
		})
		require.NoError(t, err)
		assert.Equal(t, `{"id":"a","name":"invoice","args":{"order":5}}`, string(encoded))
	})
	t.Run("is decoded as it was", func(t *testing.T) {
		m := durable.Message{ID: "a", Name: "rechnung ü", Args: json.RawMessage(`{"order":5,"text":"<\u0000>"}`), Unique: "k\x00ü", Used: 3}
		encoded, err := json.Marshal(m)
		require.NoError(t, err)
		decoded, err := durable.Decode(encoded)
		require.NoError(t, err)
		assert.JSONEq(t, string(m.Args), string(decoded.Args))
		m.Args, decoded.Args = nil, nil
		assert.Equal(t, m, decoded)
	})
	t.Run("without args it has null", func(t *testing.T) {
		for _, text := range []string{`{"id":"a","name":"b"}`, `{"id":"a","name":"b","args":null}`} {
			m, err := durable.Decode([]byte(text))
			require.NoError(t, err, text)
			assert.Equal(t, "null", string(m.Args), text)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        ``,
		"no JSON":        `invoice`,
		"null":           `null`,
		"a list":         `[]`,
		"two":            `{"id":"a","name":"b"}{"id":"a","name":"b"}`,
		"no id":          `{"name":"b"}`,
		"no name":        `{"id":"a"}`,
		"a name of none": `{"id":"a","name":"b\u0007"}`,
		"a long name":    `{"id":"a","name":"` + strings.Repeat("b", 129) + `"}`,
		"negative used":  `{"id":"a","name":"b","used":-1}`,
		"fractions used": `{"id":"a","name":"b","used":1.5}`,
	} {
		t.Run(name, func(t *testing.T) {
			m, err := durable.Decode([]byte(text))
			require.ErrorIs(t, err, durable.ErrInvalid)
			assert.Zero(t, m)
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","name":"invoice","args":{"order":5}}`, `{"id":"a","name":"b","args":null,"unique":"k","used":24}`,
		`{"id":"a","name":"b","used":9223372036854775807}`, `{"ID":"a","NAME":"b","args":[1e999]}`, `null`, `{}`, `{"id":"a"`,
		"{\"id\":\"a\",\"name\":\"\xff\",\"args\":\"\xff\"}", `{"id":"a","name":"b","args":"<\u2028\ud800>"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		m, err := durable.Decode(encoded)
		if err != nil {
			require.ErrorIs(t, err, durable.ErrInvalid)
			require.Zero(t, m)
			return
		}
		require.NotEmpty(t, m.ID)
		require.NoError(t, tether.CheckName(m.Name))
		require.True(t, json.Valid(m.Args))
		require.True(t, m.Used >= 0 && m.Used <= math.MaxInt)
		again, err := json.Marshal(m)
		require.NoError(t, err)
		same, err := durable.Decode(again)
		require.NoError(t, err)
		compact, err := json.Marshal(m.Args)
		require.NoError(t, err)
		require.Equal(t, string(compact), string(same.Args))
		m.Args, same.Args = nil, nil
		require.Equal(t, m, same)
	})
}
