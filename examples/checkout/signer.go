package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// signer signs webhooks and verifies their signatures, according to the Standard Webhooks
// specification: an HMAC-SHA256 of "id.timestamp.body" with a shared secret. The timestamp
// is signed, so that a recorded request cannot be replayed later.
type signer struct{ key []byte }

const (
	secretPrefix       = "whsec_"
	signatureTolerance = 5 * time.Minute
)

// newSigner parses a secret: "whsec_" and the key in base64.
func newSigner(secret string) (signer, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err != nil || len(key) < 24 {
		return signer{}, errors.New(`webhook secret: must be "whsec_" and at least 24 bytes in base64`)
	}
	return signer{key}, nil
}

// newSecret returns a random secret.
func newSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand documents it
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// sign sets the three headers of a signed webhook.
func (s signer) sign(h http.Header, id string, at time.Time, body []byte) {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", timestamp)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(s.mac(id, timestamp, body)))
}

// verify returns an error if the signature of a webhook is missing, old or wrong.
func (s signer) verify(h http.Header, now time.Time, body []byte) error {
	id, timestamp := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil {
		return errors.New("webhook-id or webhook-timestamp is missing")
	}
	if age := now.Sub(time.Unix(seconds, 0)).Abs(); age > signatureTolerance {
		return fmt.Errorf("webhook-timestamp is %v away from now", age.Round(time.Second))
	}
	want := s.mac(id, timestamp, body)
	// There may be several signatures while a secret is being rotated.
	for candidate := range strings.FieldsSeq(h.Get("Webhook-Signature")) {
		text, ok := strings.CutPrefix(candidate, "v1,")
		if !ok {
			continue
		}
		got, err := base64.StdEncoding.DecodeString(text)
		if err == nil && hmac.Equal(got, want) { // in constant time
			return nil
		}
	}
	return errors.New("webhook-signature does not match")
}

func (s signer) mac(id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	_, _ = h.Write([]byte(id + "." + timestamp + ".")) // a hash never fails to write
	_, _ = h.Write(body)
	return h.Sum(nil)
}
