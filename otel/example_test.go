package tetherotel_test

import (
	"context"
	"fmt"
	"log/slog"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/seed-2e639f12/tether"
	tetherotel "github.com/seed-2e639f12/tether/otel"
)

func Example() {
	spans := tracetest.NewInMemoryExporter() // or the OTLP exporter
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))

	o, err := tetherotel.New(tetherotel.Config{TracerProvider: tracers})
	if err != nil {
		panic(err)
	}
	reg := tether.New(tether.Config{Observer: o, Logger: slog.New(slog.DiscardHandler)})
	if _, err := o.Watch(reg); err != nil {
		panic(err)
	}

	// The span of the request ends before the task has begun.
	ctx, request := tracers.Tracer("server").Start(context.Background(), "POST /orders")
	mail, err := reg.Go(ctx, "welcome mail", func(context.Context) error {
		return fmt.Errorf("no such mailbox")
	}, tether.Hold())
	if err != nil {
		panic(err)
	}
	request.End()
	mail.Release()
	_ = mail.Wait(context.Background())

	for _, span := range spans.GetSpans() {
		fmt.Printf("%s: %v %q\n", span.Name, span.Status.Code, span.Status.Description)
		for _, link := range span.Links {
			fmt.Println("  linked to the request:", link.SpanContext.Equal(request.SpanContext()))
		}
		for _, a := range span.Attributes {
			if a.Key == "tether.task.outcome" || a.Key == "error.type" {
				fmt.Println(" ", a.Key, a.Value.AsString())
			}
		}
	}
	// Output:
	// POST /orders: Unset ""
	// welcome mail: Error "no such mailbox"
	//   linked to the request: true
	//   tether.task.outcome failed
	//   error.type *errors.errorString
}
