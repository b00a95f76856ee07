package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func openTestStore(t *testing.T) *store {
	t.Helper()
	s, err := openStore(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.close(context.Background())) })
	return s
}

// One write that fails must not take its neighbours in the group down.
func TestStoreGroupsFailAlone(t *testing.T) {
	s := openTestStore(t)
	ctx := context.Background()
	inside, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // keeps the writer busy until the others wait together
		first := true
		_ = s.update(ctx, func(*sql.Tx) error {
			if first {
				first = false
				close(inside)
				<-goOn
			}
			return nil
		})
	})
	<-inside
	const n = 50
	broken := errors.New("broken")
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			errs[i] = s.update(ctx, func(tx *sql.Tx) error {
				if _, err := tx.Exec(`INSERT INTO products VALUES (?, 'x', 1, 1)`, fmt.Sprint("p", i)); err != nil {
					return err
				}
				if i == 7 {
					return broken
				}
				return nil
			})
		})
	}
	require.Eventually(t, func() bool { return len(s.writes) == n }, 10*time.Second, time.Millisecond)
	close(goOn)
	wg.Wait()
	var stored int
	require.NoError(t, s.read.QueryRow(`SELECT count(*) FROM products WHERE sku LIKE 'p%' AND name = 'x'`).Scan(&stored))
	require.Equal(t, n-1, stored)
	for i, err := range errs {
		if i == 7 {
			require.ErrorIs(t, err, broken)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestStoreClosed(t *testing.T) {
	s, err := openStore(t.TempDir())
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 20 { // each is stored or fails; none hangs
		wg.Go(func() {
			for {
				err := s.update(context.Background(), func(*sql.Tx) error { return nil })
				if err != nil {
					require.ErrorIs(t, err, errStoreClosed)
					return
				}
			}
		})
	}
	require.NoError(t, s.close(context.Background()))
	wg.Wait()
}

func TestStoreFolderWithOddName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "100% odd? #name")
	s, err := newShop(config{data: dir, workers: 1, queue: 1, webhookSecret: newSecret(), webhook: "http://127.0.0.1:1"})
	require.NoError(t, err)
	require.NoError(t, s.reg.Shutdown(context.Background()))
	require.NoError(t, s.close(context.Background()))
	require.FileExists(t, filepath.Join(dir, "shop.db"))
}

// The UNIQUE column prevents two orders of one click, whatever the caller does.
func TestStoreHasOneOrderPerClick(t *testing.T) {
	s := openTestStore(t)
	ctx := context.Background()
	one := &order{ID: "one", click: "sum:x", Created: time.Now()}
	require.NoError(t, s.insertOrder(ctx, one, nil))
	require.Error(t, s.insertOrder(ctx, &order{ID: "two", click: "sum:x", Created: time.Now()}, nil))
	require.NoError(t, s.insertOrder(ctx, &order{ID: "three", click: "sum:x", Created: time.Now()}, one), "the older one gives it up")
	o, err := s.orderByClick(ctx, "sum:x")
	require.NoError(t, err)
	require.Equal(t, "three", o.ID)
}

// However often the work on an order is done, the stock is touched once.
func TestStoreTakesStockOnce(t *testing.T) {
	s := openTestStore(t)
	ctx := context.Background()
	left := func(sku string) (n int64) {
		require.NoError(t, s.read.QueryRow(`SELECT quantity FROM products WHERE sku = ?`, sku).Scan(&n))
		return n
	}
	before := left("tea")
	o := &order{ID: "one", click: "c", Created: time.Now(), Lines: []line{{SKU: "tea", Quantity: 2}, {SKU: "tea", Quantity: 3}}}
	require.NoError(t, s.insertOrder(ctx, o, nil))
	for range 3 {
		reason, err := s.takeStock(ctx, o)
		require.NoError(t, err)
		require.Empty(t, reason)
	}
	require.Equal(t, before-5, left("tea"))

	t.Run("and a failure puts it back once", func(t *testing.T) {
		for range 3 {
			require.NoError(t, s.failOrder(ctx, o, "no paper"))
		}
		require.Equal(t, before, left("tea"))
	})
	t.Run("and an order that lacks one thing takes none", func(t *testing.T) {
		o := &order{ID: "two", click: "d", Created: time.Now(), Lines: []line{{SKU: "tea", Quantity: 2}, {SKU: "unicorn", Quantity: 1}}}
		require.NoError(t, s.insertOrder(ctx, o, nil))
		reason, err := s.takeStock(ctx, o)
		require.NoError(t, err)
		require.Contains(t, reason, "unicorn")
		require.Equal(t, before, left("tea"))
	})
}
