package tetherotel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

// Tasks that stay in the trace of their request, with their labels as attributes.
func ExampleConfig() {
	o, err := tetherotel.New(tetherotel.Config{
		TracerProvider: sdktrace.NewTracerProvider(),
		MeterProvider:  sdkmetric.NewMeterProvider(),
		Relation:       tetherotel.AlwaysChild, // not ChildUntilEnd, the default, nor AlwaysLink
		MaxNames:       50,
		Shares:         10, // the largest of each pool, with their keys in the metrics
		Attributes: func(info tether.Info) (all []attribute.KeyValue) {
			for key, value := range info.Labels {
				all = append(all, attribute.String("app."+key, value))
			}
			return all
		},
	})
	if err != nil {
		panic(err)
	}
	reg := tether.New(tether.Config{Observer: o})
	task, err := reg.Go(context.Background(), "welcome mail", func(context.Context) error { return nil }, tether.Label("to", "ann"))
	if err != nil {
		panic(err)
	}
	fmt.Println(task.Wait(context.Background()))
	// Output: <nil>
}

// The relations, and what they do with the span of a request that has ended.
func ExampleRelation() {
	for _, r := range []tetherotel.Relation{tetherotel.ChildUntilEnd, tetherotel.AlwaysLink, tetherotel.AlwaysChild} {
		switch r {
		case tetherotel.ChildUntilEnd, tetherotel.AlwaysLink:
			fmt.Println("a new trace, with a link")
		case tetherotel.AlwaysChild:
			fmt.Println("a child in the request's trace")
		}
	}
	// Output:
	// a new trace, with a link
	// a new trace, with a link
	// a child in the request's trace
}

// The trace travels with a durable job: a worker's attempt has a link to the request.
func ExampleJobHeaders() {
	// durable.JobConfig{Headers: tetherotel.JobHeaders}
	// durable.WorkerConfig{Context: tetherotel.JobContext}
	tracers := sdktrace.NewTracerProvider()
	ctx, span := tracers.Tracer("server").Start(context.Background(), "POST /orders")
	defer span.End()
	headers := tetherotel.JobHeaders(ctx)
	inWorker := tetherotel.JobContext(context.Background(), headers)
	fmt.Println(len(headers) > 0, inWorker != context.Background())
	// Output: true true
}
