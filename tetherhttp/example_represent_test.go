package tetherhttp_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/tetherhttp"
)

// An API in the manner of Google's, whose methods return a google.longrunning.Operation:
// https://google.aip.dev/151, in the JSON of
// https://github.com/googleapis/googleapis/blob/master/google/longrunning/operations.proto.
func ExampleTasksConfig_aip151() {
	type (
		rpcStatus struct {
			Code    int    `json:"code"` // google.rpc.Code
			Message string `json:"message"`
		}
		metadata struct {
			Type       string    `json:"@type"`
			CreateTime time.Time `json:"createTime,omitzero"`
			Done       int64     `json:"progressDone"`
			Total      int64     `json:"progressTotal"`
		}
		operation struct {
			Name     string     `json:"name"`
			Metadata metadata   `json:"metadata"`
			Done     bool       `json:"done,omitempty"`
			Error    *rpcStatus `json:"error,omitempty"` // Error or Response, once it is done
			Response any        `json:"response,omitempty"`
		}
	)
	code := func(s tetherhttp.Status) int {
		switch s.Problem.Status {
		case http.StatusBadRequest, http.StatusUnprocessableEntity:
			return 3 // INVALID_ARGUMENT
		case http.StatusGatewayTimeout:
			return 4 // DEADLINE_EXCEEDED
		case http.StatusServiceUnavailable:
			return 14 // UNAVAILABLE
		}
		if s.Info.State == tether.Canceled || s.Info.State == tether.Dropped {
			return 1 // CANCELLED
		}
		return 13 // INTERNAL
	}
	represent := func(_ http.Header, _ *http.Request, s tetherhttp.Status) any {
		op := operation{
			Name:     "operations/" + s.Info.ID,
			Metadata: metadata{Type: "type.example.com/ReportMetadata", Done: s.Info.Progress.Done, Total: s.Info.Progress.Total},
			Done:     s.Info.State.Final(),
			Response: s.Result,
		}
		if s.Problem != nil {
			op.Error = &rpcStatus{code(s), cmp.Or(s.Problem.Detail, s.Problem.Title)}
		}
		return op
	}

	type report struct {
		Type  string `json:"@type"`
		Pages int    `json:"pages"`
	}
	api := newReportAPI(func(ctx context.Context, r *http.Request) (report, error) {
		if r.PathValue("year") == "0" {
			return report{}, &tetherhttp.Problem{Status: http.StatusUnprocessableEntity, Detail: "there was no year 0"}
		}
		return report{"type.example.com/Report", 7}, nil
	}, tetherhttp.AsyncConfig{
		Always202: true, // every answer is an operation, also that of one that is done
		StatusAt:  "/v1/operations",
		Represent: represent,
	}, tetherhttp.TasksConfig{Represent: represent})

	api.show(http.MethodPost, "/reports/1999")
	api.show(http.MethodGet, api.location)
	api.show(http.MethodPost, "/reports/0")
	api.show(http.MethodGet, api.location)
	api.close()
	// Output:
	// POST 202 {"name":"operations/ID","metadata":{"@type":"type.example.com/ReportMetadata","progressDone":0,"progressTotal":0}}
	// GET 200 {"name":"operations/ID","metadata":{"@type":"type.example.com/ReportMetadata","progressDone":1,"progressTotal":1},"done":true,"response":{"@type":"type.example.com/Report","pages":7}}
	// POST 202 {"name":"operations/ID","metadata":{"@type":"type.example.com/ReportMetadata","progressDone":0,"progressTotal":0}}
	// GET 200 {"name":"operations/ID","metadata":{"@type":"type.example.com/ReportMetadata","progressDone":1,"progressTotal":1},"done":true,"error":{"code":3,"message":"there was no year 0"}}
}

// An API in the manner of Azure's, with a status monitor at Operation-Location:
// https://github.com/microsoft/api-guidelines/blob/vNext/azure/Guidelines.md, "Long-Running
// Operations & Jobs".
func ExampleTasksConfig_azure() {
	type (
		fault struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		monitor struct {
			ID     string `json:"id"`
			Kind   string `json:"kind"`
			Status string `json:"status"`
			Error  *fault `json:"error,omitempty"`
			Result any    `json:"result,omitempty"`
		}
	)
	represent := func(h http.Header, r *http.Request, s tetherhttp.Status) any {
		if r.Method == http.MethodPost { // the answer that starts the operation
			h.Set("Operation-Location", "https://"+r.Host+s.URL)
		}
		m := monitor{ID: s.Info.ID, Kind: s.Info.Name, Status: "NotStarted", Result: s.Result}
		switch s.Info.State {
		case tether.Running:
			m.Status = "Running"
		case tether.Succeeded:
			m.Status = "Succeeded"
		case tether.Canceled, tether.Dropped:
			m.Status = "Canceled"
		case tether.Failed, tether.Panicked:
			m.Status = "Failed"
		}
		if s.Problem != nil {
			m.Error = &fault{s.Problem.Title, s.Problem.Detail}
		}
		return m
	}

	api := newReportAPI(func(ctx context.Context, r *http.Request) (map[string]int, error) {
		if r.PathValue("year") == "0" {
			return nil, &tetherhttp.Problem{Status: http.StatusUnprocessableEntity, Title: "InvalidYear", Detail: "there was no year 0"}
		}
		return map[string]int{"pages": 7}, nil
	}, tetherhttp.AsyncConfig{
		Always202: true,
		StatusAt:  "/v1/operations",
		PollAfter: func(tether.Info) time.Duration { return 10 * time.Second }, // the service's choice
		Represent: represent,
	}, tetherhttp.TasksConfig{Represent: represent})

	api.show(http.MethodPost, "/reports/1999", "Operation-Location", "Retry-After")
	api.show(http.MethodGet, api.location)
	api.show(http.MethodPost, "/reports/0", "Operation-Location", "Retry-After")
	api.show(http.MethodGet, api.location)
	api.close()
	// Output:
	// POST 202 {"id":"ID","kind":"report","status":"NotStarted"}
	//     Operation-Location: https://example.com/v1/operations/ID
	//     Retry-After: 10
	// GET 200 {"id":"ID","kind":"report","status":"Succeeded","result":{"pages":7}}
	// POST 202 {"id":"ID","kind":"report","status":"NotStarted"}
	//     Operation-Location: https://example.com/v1/operations/ID
	//     Retry-After: 10
	// GET 200 {"id":"ID","kind":"report","status":"Failed","error":{"code":"InvalidYear","message":"there was no year 0"}}
}

// reportAPI is the rest of these examples: POST /reports/{year}, whose tasks start when their
// request has been answered.
type reportAPI struct {
	reg      *tether.Registry
	handler  http.Handler
	location string // of the last 202
}

func newReportAPI[T any](makeReport func(context.Context, *http.Request) (T, error), async tetherhttp.AsyncConfig, tasks tetherhttp.TasksConfig) *reportAPI {
	reg := tether.New(tether.Config{Logger: slog.New(slog.DiscardHandler)})
	async.TaskOptions = []tether.Option{tether.Hold()}
	mux := http.NewServeMux()
	mux.Handle("POST /reports/{year}", tetherhttp.Async(reg, "report", func(ctx context.Context, r *http.Request) (T, error) {
		tether.ReportProgress(ctx, tether.Progress{Done: 1, Total: 1})
		return makeReport(ctx, r)
	}, async))
	mux.Handle("/v1/operations/", tetherhttp.Tasks(reg, tasks))
	return &reportAPI{reg: reg, handler: mux}
}

// show makes a request and prints the answer, with some of its header. A GET waits for the end
// of the task.
func (api *reportAPI) show(method, path string, header ...string) {
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Prefer", "wait=20")
	w := httptest.NewRecorder()
	api.handler.ServeHTTP(w, r)
	if at := w.Header().Get("Location"); at != "" {
		api.location = at
	}
	id := api.location[strings.LastIndexByte(api.location, '/')+1:]
	fmt.Print(method, " ", w.Code, " ", strings.ReplaceAll(w.Body.String(), id, "ID"))
	for _, name := range header {
		fmt.Printf("    %s: %s\n", name, strings.ReplaceAll(w.Header().Get(name), id, "ID"))
	}
	if task, err := api.reg.Find(id); err == nil {
		task.Release()
	}
}

func (api *reportAPI) close() {
	if err := api.reg.Shutdown(context.Background()); err != nil {
		panic(err)
	}
}
