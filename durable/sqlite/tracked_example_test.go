package sqlite_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
	"github.com/seed-2e639f12/tether/durable/sqlite"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// ReportArgs and Report are what a report is made from, and what a client gets.
type (
	ReportArgs struct{ Month string }
	Report     struct{ Orders int }
)

// MakeReport has a result, and says how far it is.
var MakeReport = durable.DefineResult("report", func(ctx context.Context, args ReportArgs) (Report, error) {
	for day := range int64(30) {
		tether.ReportProgress(ctx, tether.Progress{Done: day + 1, Total: 30})
	}
	return Report{Orders: 1200}, nil
}, durable.JobConfig{Timeout: time.Minute})

// A handler that enqueues a job and answers 202. The job is done by a worker, which could be in
// another process, and any replica of the service serves its status and result.
func Example_status() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	engine, err := sqlite.Open(filepath.Join(dir, "jobs.db"))
	if err != nil {
		log.Fatal(err)
	}
	shared := tetherhttp.NewStore("shop", engine.Store())
	reg := tether.New(tether.Config{})

	mux := http.NewServeMux()
	mux.Handle("POST /reports", tetherhttp.AsyncJob("report", func(ctx context.Context, r *http.Request) (string, error) {
		receipt, err := MakeReport.Enqueue(ctx, engine, ReportArgs{Month: r.FormValue("month")},
			durable.Tracked(shared.Tracker()), durable.Label("tenant", "acme"))
		return receipt.ID, err
	}, tetherhttp.AsyncConfig{Store: shared}))
	mux.Handle("/tasks/", tetherhttp.Tasks(reg, tetherhttp.TasksConfig{
		Store: shared, AllowCancel: true,
		Authorize: func(_ *http.Request, t tether.Info) bool { return t.Labels["tenant"] == "acme" },
	}))
	srv := httptest.NewServer(mux)
	defer srv.Close()

	accepted, err := http.Post(srv.URL+"/reports?month=May", "", nil)
	if err != nil {
		log.Fatal(err)
	}
	_ = accepted.Body.Close()
	fmt.Println(accepted.Status)

	worker, err := durable.NewWorker(engine, durable.WorkerConfig{Registry: reg, Tracker: shared.Tracker()}, MakeReport)
	if err != nil {
		log.Fatal(err)
	}
	if err := worker.Start(ctx); err != nil {
		log.Fatal(err)
	}
	at := srv.URL + accepted.Header.Get("Location")
	wait, err := http.NewRequest(http.MethodGet, at, nil)
	if err != nil {
		log.Fatal(err)
	}
	wait.Header.Set("Prefer", "wait=30")
	status, err := http.DefaultClient.Do(wait)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = status.Body.Close() }()
	var shown struct{ State string }
	if err := json.NewDecoder(status.Body).Decode(&shown); err != nil {
		log.Fatal(err)
	}
	fmt.Println(shown.State)

	result, err := http.Get(at + "/result")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = result.Body.Close() }()
	body, err := io.ReadAll(result.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", body)

	// In a service reg.Run does it on SIGTERM, with these as its Closers, in this order.
	if err := worker.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	if err := shared.Close(ctx); err != nil {
		log.Fatal(err)
	}
	if err := engine.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 202 Accepted
	// succeeded
	// {"Orders":1200}
}

// The status of a job by the ID of its receipt, without HTTP.
func Example_find() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	engine, err := sqlite.Open(filepath.Join(dir, "jobs.db"))
	if err != nil {
		log.Fatal(err)
	}
	shared := tetherhttp.NewStore("shop", engine.Store())

	// The order, the job and its status are stored together, or none of them is.
	tx, err := engine.DB().BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := sqlite.EnqueueTx(ctx, engine, tx, MakeReport, ReportArgs{Month: "May"},
		durable.Tracked(shared.Tracker()), durable.RunAt(time.Now().Add(time.Hour)))
	if err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}

	job, err := shared.Find(ctx, receipt.ID) // tether.ErrNotFound if the transaction was rolled back
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.Info.Name, job.Info.State, job.Info.Attempt, time.Until(job.Info.NextAttempt) > 0)

	// No worker begins it any more.
	job, err = shared.Cancel(ctx, receipt.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.Info.State, job.Problem.Title)
	fmt.Println(shared.Close(ctx), engine.Close())
	// Output:
	// report queued 0 true
	// canceled Canceled
	// <nil> <nil>
}
