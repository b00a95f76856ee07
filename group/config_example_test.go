package group_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/group"
)

// Two mirrors are asked, and the first answer is enough.
func ExampleConfig() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	// UntilFailure, the default, would end the others at the first error.
	g := group.New(ctx, reg, "ask mirrors", group.Config{Until: group.UntilSuccess})
	slow := g.Go(func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
	g.Go(func(context.Context) error { return nil })
	fmt.Println(g.Wait(), errors.Is(slow.Err(), group.ErrDecided))

	late := g.Go(func(context.Context) error { return nil })
	fmt.Println(errors.Is(late.Err(), group.ErrEnded), group.UntilFailure == group.Until(0))

	prices := group.NewResults[int](ctx, reg, "ask shops")
	prices.Go(func(context.Context) (int, error) { return 42, nil })
	prices.Group().Go(func(context.Context) error { return nil }) // a child without a result
	fmt.Println(prices.Wait())
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// <nil> true
	// true true
	// [42] <nil>
	// <nil>
}
