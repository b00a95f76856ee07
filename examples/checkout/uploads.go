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

// upload is a file that was sent for work in the background: an import or an image. The
// file is in the spool folder until the work is done. Its row in the store has the
// progress.
type upload struct {
	ID      string
	Kind    uploadKind
	Task    string // the id of the task that works on it, for its progress
	Format  string // csv, jpeg or png
	Width   int    // of the picture to make
	Weight  int64  // memory for decoding the picture, in bytes
	Size    int64
	Created time.Time
	State   uploadState
	Reason  string // why it failed

	// The progress of an import. A restart continues from here.
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
	uploadRunning uploadState = "running" // never stored: the state of the live task
	uploadDone    uploadState = "done"
	uploadFailed  uploadState = "failed"
)

// spool is the folder of the uploaded files.
type spool struct{ dir string }

func (s spool) path(id string) string { return filepath.Join(s.dir, id) }

// patience is the time for which an upload may send nothing. The whole has no limit: 500 MB
// can take an hour on a slow connection.
const patience = 20 * time.Second

// errInterrupted ends an upload when the stop begins.
var errInterrupted = &tetherhttp.Problem{
	Status: http.StatusServiceUnavailable, Detail: "the shop is restarting; send the file again", RetryAfter: 5 * time.Second,
}

// receive streams the rest of a body into the spool and returns its size. It holds one
// buffer in memory. After an error nothing is left in the spool.
func (s spool) receive(id string, body *uploadBody, most int64) (size int64, err error) {
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
	size, err = io.Copy(f, io.LimitReader(body, most+1)) // one more byte shows that the file is too large
	if errors.Is(err, syscall.ENOSPC) {
		return 0, problemf(http.StatusInsufficientStorage, "no room for this file at present")
	}
	if err != nil {
		return 0, body.readError(err)
	}
	if size > most {
		return 0, &http.MaxBytesError{Limit: most}
	}
	return size, nil
}

func (s spool) remove(id string) {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Error("file not removed from the spool", "err", err)
	}
}

// uploadBody reads the body of a request for as long as data arrives, and until the stop
// begins: an upload must not delay the drain.
type uploadBody struct {
	src     *bufio.Reader
	control *http.ResponseController
	stop    func() bool
}

func (s *shop) uploadBody(w http.ResponseWriter, r *http.Request) *uploadBody {
	b := &uploadBody{
		control: http.NewResponseController(w),
		stop:    func() bool { return !s.reg.Ready() },
	}
	b.src = bufio.NewReaderSize(&deadlineReader{r.Body, b}, 256<<10)
	return b
}

func (b *uploadBody) Read(p []byte) (int, error) { return b.src.Read(p) }

// deadlineReader sets a deadline for each read from the connection.
type deadlineReader struct {
	src  io.Reader
	body *uploadBody
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	if d.body.stop() {
		return 0, errInterrupted
	}
	// A recorder in a test does not support deadlines.
	_ = d.body.control.SetReadDeadline(time.Now().Add(patience))
	return d.src.Read(p)
}

// readError returns the problem for an error of Read.
func (b *uploadBody) readError(err error) error {
	var p *tetherhttp.Problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return problemf(http.StatusRequestTimeout, "nothing arrived for %v", patience)
	}
	return problemf(http.StatusBadRequest, "the body broke off")
}

// acceptUpload receives an upload and submits its work.
//
// First it reserves the places in the audit log and, with a held task, in the pool: a
// client must not send 500 MB to be refused afterwards. Then it stores the file and its
// row, releases the task and answers 202.
func (s *shop) acceptUpload(w http.ResponseWriter, r *http.Request, pool *tether.Pool, u *upload, body *uploadBody, most int64) error {
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
	if err := s.store.insertUpload(r.Context(), u, s.member.name); err != nil {
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

// workOptions returns the options for the task of an upload. Unique allows one task for
// each, and a picture weighs the memory that it needs.
func (s *shop) workOptions(u *upload) []tether.Option {
	opts := []tether.Option{tether.Unique("upload:" + u.ID)}
	if u.Kind == anImage {
		opts = append(opts, tether.Weight(u.Weight))
	}
	return opts
}

// work returns the body of an upload's task. An upload that the drain interrupts stays
// pending, and the next start continues it.
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

// endUpload records the end and removes the file. If the end cannot be recorded the upload
// stays pending, and the next start tries again.
func (s *shop) endUpload(ctx context.Context, u *upload, state uploadState, reason string) {
	ctx = context.WithoutCancel(ctx) // the drain must not make finished work pending again
	if err := s.store.endUpload(ctx, u.ID, state, reason); err != nil {
		slog.ErrorContext(ctx, "upload stays pending", "upload", u.ID, "err", err)
		return
	}
	s.spool.remove(u.ID)
}

// uploadView is the progress of an upload as JSON.
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

// view combines the store's row with the live task. The registry forgets finished tasks
// after a while, and all tasks at a restart; the store does not.
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
		return v // resume has not submitted it yet, or it has just ended
	}
	if info := task.Info(); info.State == tether.Running {
		v.State = uploadRunning
		if info.Progress.Total > 0 {
			v.Progress = progress(info.Progress)
		}
	}
	return v
}
