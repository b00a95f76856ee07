package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// auditLog is a file of JSON lines, one for each POST that was answered 202: the customer
// or address, what was ordered or uploaded, and when. A client that had disconnected by
// then has a line too.
//
// A line is written after the response, so no client waits for it. Its place in the pool
// is taken before anything is accepted: a request that cannot be logged is refused.
//
// The drain writes the lines that are left. A kill -9 may lose the last few; the orders
// and uploads that they describe are in the store.
type auditLog struct {
	pool *tether.Pool // of one worker, so that this process writes one line at a time
	file *os.File     // in which other replicas write, too
}

// auditLine is one line. The handler fills it in until it returns.
type auditLine struct {
	At       time.Time `json:"at"`
	Who      string    `json:"who"` // the customer of an order, the address of an upload
	What     string    `json:"what"`
	URL      string    `json:"url"`                // of what was accepted
	Replayed bool      `json:"replayed,omitempty"` // an earlier request was accepted
	Answer   string    `json:"answer"`             // whether the 202 was sent: see tetherhttp.Delivery
}

const (
	// auditQueue is the number of lines that may wait for their response, or for the disk.
	auditQueue = 4096
	auditShown = 100
	auditBytes = 2048 // of a line; an address of 254 bytes may need six times that, escaped
)

// openAuditLog opens the file, and creates it if needed. The file only grows.
func openAuditLog(path string) (auditLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return auditLog{}, fmt.Errorf("audit log: %w", err)
	}
	return auditLog{file: file}, nil
}

// endsTorn reports whether a file ends in the middle of a line, as after a power cut or on a
// full disk.
func endsTorn(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	var last [1]byte
	_, err = file.ReadAt(last[:], info.Size()-1)
	return last[0] != '\n', err
}

func (a *auditLog) close() error {
	if a.file == nil {
		return nil // it was never opened
	}
	return errors.Join(a.file.Sync(), a.file.Close())
}

// note reserves a place for the line of a request. The handler must call it before it
// accepts anything. If the handler returns an error, the line is discarded (see handler).
func (a *auditLog) note(r *http.Request, who string) (*auditLine, error) {
	line := &auditLine{At: time.Now().UTC(), Who: who, What: r.Method + " " + r.URL.Path}
	_, err := tetherhttp.AfterOn(r.Context(), a.pool, "audit", func(ctx context.Context) error {
		line.Answer = tetherhttp.DeliveryOf(ctx).String()
		return a.write(line)
	}, tether.Retry(tether.RetryPolicy{Attempts: 5, Backoff: tether.ExponentialBackoff(100*time.Millisecond, 2*time.Second)}))
	return line, err
}

// write appends a line, in one call, so that lines of several replicas are not mixed. If the
// file ends in half a line, the new one begins with a line break, so that it is not spoiled.
func (a *auditLog) write(line *auditLine) error {
	var text bytes.Buffer
	torn, err := endsTorn(a.file)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if torn {
		text.WriteByte('\n')
	}
	if err := json.NewEncoder(&text).Encode(line); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if _, err := a.file.Write(text.Bytes()); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// last returns the last n lines, oldest first.
func (a *auditLog) last(n int) ([]json.RawMessage, error) {
	info, err := a.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	from := max(0, info.Size()-int64(n)*auditBytes)
	tail := make([]byte, info.Size()-from)
	if _, err := a.file.ReadAt(tail, from); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	lines := []json.RawMessage{}
	for line := range bytes.Lines(tail) {
		// The first may have its start cut off, and the last may be half written.
		if whole := bytes.HasSuffix(line, []byte("\n")) && json.Valid(line); whole {
			lines = append(lines, bytes.TrimSpace(line))
		}
	}
	return lines[max(0, len(lines)-n):], nil
}

// getAudit shows the last lines. They name all customers: a shop on the internet must
// authenticate its callers here.
func (s *shop) getAudit(w http.ResponseWriter, _ *http.Request) error {
	lines, err := s.audit.last(auditShown)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store") // the log grows
	writeJSON(w, http.StatusOK, struct {
		Lines []json.RawMessage `json:"lines"`
	}{lines})
	return nil
}

// addressOf returns the client's address, for requests without a customer.
func addressOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}
