package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSignature(t *testing.T) {
	s, err := newSigner(newSecret())
	require.NoError(t, err)
	now := time.Unix(1_700_000_000, 0)
	body := []byte(`{"type":"order.invoiced"}`)
	signed := func() http.Header {
		h := http.Header{}
		s.sign(h, "order-1", now, body)
		return h
	}
	require.NoError(t, s.verify(signed(), now.Add(time.Minute), body))

	t.Run("one of several", func(t *testing.T) {
		h := signed()
		h.Set("Webhook-Signature", "v1,bm90IGl0 v2,what "+h.Get("Webhook-Signature"))
		require.NoError(t, s.verify(h, now, body))
	})
	t.Run("another body", func(t *testing.T) {
		require.Error(t, s.verify(signed(), now, []byte(`{"type":"order.cancelled"}`)))
	})
	t.Run("another id", func(t *testing.T) {
		h := signed()
		h.Set("Webhook-Id", "order-2")
		require.Error(t, s.verify(h, now, body))
	})
	t.Run("another time", func(t *testing.T) {
		h := signed()
		h.Set("Webhook-Timestamp", "1700000001")
		require.Error(t, s.verify(h, now, body))
	})
	t.Run("played again later", func(t *testing.T) {
		require.Error(t, s.verify(signed(), now.Add(signatureTolerance+time.Second), body))
	})
	t.Run("another secret", func(t *testing.T) {
		other, err := newSigner(newSecret())
		require.NoError(t, err)
		require.Error(t, other.verify(signed(), now, body))
	})
	t.Run("nothing", func(t *testing.T) {
		require.Error(t, s.verify(http.Header{}, now, body))
	})
}

// The example of the Standard Webhooks specification, computed by others.
func TestSignatureIsTheStandards(t *testing.T) {
	s, err := newSigner("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	h := http.Header{}
	s.sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", h.Get("Webhook-Signature"))
}

func TestSecretMustBeOne(t *testing.T) {
	for _, bad := range []string{"", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64"} {
		_, err := newSigner(bad)
		require.Error(t, err, bad)
	}
}
