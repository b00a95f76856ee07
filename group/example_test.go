package group_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-2e639f12/tether"
	"github.com/seed-2e639f12/tether/group"
)

// A handler or a task starts several bodies, and waits for all of them. The first error
// cancels the others.
func Example() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})

	// UntilFailure is the default.
	g := group.New(ctx, reg, "load dashboard", group.Config{Until: group.UntilFailure})
	g.Go(func(ctx context.Context) error {
		select {
		case <-time.After(time.Hour):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	orders := g.Go(func(ctx context.Context) error { return errors.New("no connection") })
	fmt.Println(g.Wait())
	fmt.Println(orders.Err())
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// no connection
	// no connection
	// <nil>
}

// What the bodies return, in the order of the calls of Go.
func ExampleResults() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})

	g := group.NewResults[int](ctx, reg, "square")
	for i := range 5 {
		g.Go(func(context.Context) (int, error) { return i * i, nil })
	}
	squares, err := g.Wait()
	fmt.Println(squares, err)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// [0 1 4 9 16] <nil>
	// <nil>
}

// The first of several servers that answers.
func ExampleUntil() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	ask := func(ctx context.Context, server string) (string, error) {
		if server == "b" {
			return "answer of " + server, nil
		}
		<-ctx.Done()
		return "", context.Cause(ctx)
	}

	g := group.NewResults[string](ctx, reg, "ask", group.Config{Until: group.UntilSuccess})
	for _, server := range []string{"a", "b", "c"} {
		g.Go(func(ctx context.Context) (string, error) { return ask(ctx, server) })
	}
	answer, err := g.Wait()
	fmt.Println(answer, err)
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// [answer of b] <nil>
	// <nil>
}

// What became of each child. Those that lost have the cause ErrDecided.
func ExampleResults_Group() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	g := group.NewResults[string](ctx, reg, "ask", group.Config{Until: group.UntilSuccess})
	slow := g.Go(func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", context.Cause(ctx)
	})
	g.Group().Go(func(context.Context) error { return nil }) // it has no result, and counts
	_, err := g.Wait()
	fmt.Println(err, errors.Is(slow.Err(), group.ErrDecided))

	late := g.Group().Go(func(context.Context) error { return nil })
	fmt.Println(errors.Is(late.Err(), group.ErrEnded))
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// <nil> true
	// true
	// <nil>
}

// A task that waits for children in its own pool runs them itself if all workers are taken.
// Here there is one, which is the parent's.
func ExampleGroup_Wait() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	pool := reg.NewPool("images", tether.PoolConfig{Workers: 1, Queue: 10})

	task, err := pool.Go(ctx, "album", func(ctx context.Context) error {
		g := group.New(ctx, pool, "thumbnail")
		for i := range 3 {
			g.Go(func(context.Context) error {
				fmt.Println("thumbnail", i)
				return nil
			})
		}
		return g.Wait()
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(task.Wait(ctx))
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// thumbnail 0
	// thumbnail 1
	// thumbnail 2
	// <nil>
	// <nil>
}

// One child is waited for before the others.
func ExampleChild_Wait() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	g := group.New(ctx, reg, "load", group.Config{Until: group.UntilEnd})
	user := g.Go(func(context.Context) error { return nil })
	g.Go(func(context.Context) error { return errors.New("no avatar") })
	fmt.Println(user.Wait(ctx))
	fmt.Println(g.Wait())
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// <nil>
	// no avatar
	// <nil>
}

// The group's context is for calls between the starts of children, and is canceled with them.
func ExampleGroup_Cancel() {
	ctx := context.Background()
	reg := tether.New(tether.Config{})
	g := group.New(ctx, reg, "work")
	child := g.Go(func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	g.Cancel(errors.New("not needed"))
	fmt.Println(g.Wait(), child.Err(), context.Cause(g.Context()))
	fmt.Println(reg.Shutdown(ctx))
	// Output:
	// not needed not needed not needed
	// <nil>
}
