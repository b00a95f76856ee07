package durable_test

import (
	"context"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/durable"
)

// payments is a service that makes each payment once, however often it is asked.
type payments map[string]int

func (p payments) pay(key string, cents int) {
	if _, done := p[key]; !done {
		p[key] = cents
	}
}

// A job can run more than once. Its ID is the same in each attempt, so the service that does
// the work can tell that it was done already.
func ExampleMetaFrom() {
	service := make(payments)
	salary := durable.Define("salary", func(ctx context.Context, cents int) error {
		meta, _ := durable.MetaFrom(ctx)
		service.pay(meta.ID, cents)
		fmt.Printf("attempt %d of %d\n", meta.Attempt, meta.MaxAttempts)
		service.pay(meta.ID, cents) // as a second run would
		return nil
	}, durable.JobConfig{Timeout: 10 * time.Second, MaxAttempts: 5})

	reg := tether.New(tether.Config{})
	receipt, err := salary.Go(context.Background(), reg, engine, 320000)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(receipt.Task.Wait(context.Background()))
	fmt.Println(len(service), "payment of", service[receipt.ID])
	// Output:
	// attempt 1 of 5
	// <nil>
	// 1 payment of 320000
}

// engine stands for one that was opened by the package sqlite, postgres, redis or rabbitmq.
var engine durable.Engine = newMemory()
