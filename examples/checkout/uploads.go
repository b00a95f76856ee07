package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// upload is a file that was sent to us and is worked on in the background: an
// import or an image. Its bytes lie in the spool folder until that is done, its
// row in the store says how far it has come.
type upload struct {
	ID      string
	Kind    uploadKind
	Task    string // the id of the task that works on it, for its progress
	Format  string // csv, jpeg or png
	Width   int    // of the picture to make
	Weight  int64  // what decoding the picture takes, in bytes
	Size    int64
	Created time.Time
	State   uploadState
	Reason  string // why it failed

	// How far an import has come; a restart goes on from here.
	At, Line      int64 // bytes, and the number of the line that ends there
	Rows, BadRows int64
}

type uploadKind string

const (
	anImport uploadKind = "import"
	anImage  uploadKind = "image"
)

type uploadState string

const (
	uploadPending uploadState = "pending"
	uploadRunning uploadState = "running" // never stored: a live task says it
	uploadDone    uploadState = "done"
	uploadFailed  uploadState = "failed"
)

// spool is the folder of the files that are worked on.
type spool struct{ dir string }

func (s spool) path(id string) string { return filepath.Join(s.dir, id) }

// patience is how long an upload may send nothing. There is no limit on the whole:
// 500 MB may take an hour on a slow line.
const patience = 20 * time.Second

// errInterrupted ends an upload when the shop is told to stop.
var errInterrupted = &tetherhttp.Problem{
	Status: http.StatusServiceUnavailable, Detail: "the shop is restarting; send the file again", RetryAfter: 5 * time.Second,
}

// receive streams the rest of a body into the spool and returns its size. Only as
// much as a buffer is ever in memory. On an error nothing is left in the spool.
func (s spool) receive(id string, body *patientBody, most int64) (size int64, err error) {
	f, err := os.Create(s.path(id))
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("spool: %w", closeErr)
		}
		if err != nil {
			s.remove(id)
		}
	}()
	size, err = io.Copy(f, io.LimitReader(body, most+1)) // one more, to see that there is more
	if errors.Is(err, syscall.ENOSPC) {
		return 0, problemf(http.StatusInsufficientStorage, "no room for this file at the moment")
	}
	if err != nil {
		return 0, body.blame(err)
	}
	if size > most {
		return 0, &http.MaxBytesError{Limit: most}
	}
	return size, nil
}

func (s spool) remove(id string) {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Error("spool not tidied", "err", err)
	}
}

// patientBody reads a request's body for as long as something comes, and as long
// as the shop is not told to stop: an upload must not hold the drain up.
type patientBody struct {
	src     *bufio.Reader
	control *http.ResponseController
	stop    func() bool
}

func (s *shop) patient(w http.ResponseWriter, r *http.Request) *patientBody {
	b := &patientBody{
		control: http.NewResponseController(w),
		stop:    func() bool { return !s.reg.Ready() },
	}
	b.src = bufio.NewReaderSize(&deadlineReader{r.Body, b}, 256<<10)
	return b
}

func (b *patientBody) Read(p []byte) (int, error) { return b.src.Read(p) }

// deadlineReader grants each read of the connection its own time.
type deadlineReader struct {
	src  io.Reader
	body *patientBody
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	if d.body.stop() {
		return 0, errInterrupted
	}
	// Not supported by a recorder in a test, where nobody is slow.
	_ = d.body.control.SetReadDeadline(time.Now().Add(patience))
	return d.src.Read(p)
}

// blame says whose fault a failed read was.
func (b *patientBody) blame(err error) error {
	var p *tetherhttp.Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problemf(http.StatusRequestTimeout, "nothing arrived for %v", patience)
	}
	return problemf(http.StatusBadRequest, "the body broke off")
}

// take receives an upload and submits its work.
//
// The places come first, in the audit log and, as a held task, in the pool: a client
// must not send 500 MB only to hear that there is no room. Then the file, then its
// row in the store; then the task is released and the client has its 202.
func (s *shop) take(w http.ResponseWriter, r *http.Request, pool *tether.Pool, u *upload, body *patientBody, most int64) error {
	u.ID, u.State, u.Created = rand.Text(), uploadPending, time.Now()
	line, err := s.audit.note(r, addressOf(r))
	if err != nil {
		return err
	}
	task, err := pool.Go(r.Context(), string(u.Kind), s.work(u.ID, u.Kind), append(s.workOptions(u), tether.Hold())...)
	if err != nil {
		return err
	}
	u.Task = task.ID()
	if u.Size, err = s.spool.receive(u.ID, body, most); err != nil {
		task.Cancel(err)
		return err
	}
	if err := s.store.insertUpload(r.Context(), u); err != nil {
		task.Cancel(err)
		s.spool.remove(u.ID)
		return err
	}
	task.Release()
	location := uploadURL(u)
	line.URL = location
	w.Header().Set("Location", location)
	writeJSON(w, http.StatusAccepted, struct {
		ID    string      `json:"id"`
		State uploadState `json:"state"`
		URL   string      `json:"url"`
	}{u.ID, u.State, location})
	return nil
}

func uploadURL(u *upload) string { return "/" + string(u.Kind) + "s/" + u.ID }

// workOptions: one task works on an upload, and a picture weighs what it needs.
func (s *shop) workOptions(u *upload) []tether.Option {
	opts := []tether.Option{tether.Unique("upload:" + u.ID)}
	if u.Kind == anImage {
		opts = append(opts, tether.Weight(u.Weight))
	}
	return opts
}

// work is the body of an upload's task. What the drain interrupts stays pending,
// and the next start goes on with it.
func (s *shop) work(id string, kind uploadKind) tether.Func {
	return func(ctx context.Context) error {
		u, err := s.store.upload(ctx, kind, id)
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind, id, err)
		}
		if u.State != uploadPending {
			return nil
		}
		defer func() {
			if v := recover(); v != nil {
				s.endUpload(ctx, u, uploadFailed, "an internal error")
				panic(v) // tether reports it
			}
		}()
		if kind == anImport {
			err = s.importRows(ctx, u)
		} else {
			err = s.resizeImage(u)
		}
		var no *tetherhttp.Problem
		switch {
		case err == nil:
			s.endUpload(ctx, u, uploadDone, "")
			return nil
		case ctx.Err() != nil:
			return err // interrupted
		case errors.As(err, &no):
			s.endUpload(ctx, u, uploadFailed, no.Detail)
		default:
			s.endUpload(ctx, u, uploadFailed, "an internal error")
		}
		return fmt.Errorf("%s %s: %w", kind, id, err)
	}
}

// endUpload notes the end and gives the spool's room back. If it cannot be noted
// the upload stays pending, and the next start tries again.
func (s *shop) endUpload(ctx context.Context, u *upload, state uploadState, reason string) {
	ctx = context.WithoutCancel(ctx) // a drain must not make a finished work pending again
	if err := s.store.endUpload(ctx, u.ID, state, reason); err != nil {
		slog.ErrorContext(ctx, "upload stays pending", "upload", u.ID, "err", err)
		return
	}
	s.spool.remove(u.ID)
}

// uploadView is how far an upload has come.
type uploadView struct {
	ID       string      `json:"id"`
	State    uploadState `json:"state"`
	Done     bool        `json:"done"`
	Reason   string      `json:"reason,omitempty"`
	Progress progress    `json:"progress"`
	Created  time.Time   `json:"created"`
}

type progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total"`
	Message string `json:"message,omitempty"`
}

// view joins what the store knows with what the live task tells of itself. The
// registry forgets finished tasks after a while, and all of them at a restart; the
// store does not.
func (s *shop) view(u *upload) uploadView {
	v := uploadView{
		ID: u.ID, State: u.State, Reason: u.Reason, Created: u.Created.UTC(),
		Done:     u.State == uploadDone || u.State == uploadFailed,
		Progress: progress{Done: u.At, Total: u.Size},
	}
	if u.State == uploadDone {
		v.Progress.Done = u.Size
	}
	if v.Done {
		return v
	}
	task, err := s.reg.Find(u.Task)
	if err != nil {
		return v // it waits for the resumer, or has just ended
	}
	if info := task.Info(); info.State == tether.Running {
		v.State = uploadRunning
		if info.Progress.Total > 0 {
			v.Progress = progress(info.Progress)
		}
	}
	return v
}
