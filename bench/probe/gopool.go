package main

import (
	"context"

	"github.com/bytedance/gopkg/util/gopool"
)

// bytedance gopool with its default Config. It has no means to wait or to stop.
func gopoolPool() candidate {
	first := setting{
		ContainsPanics: true, HandlesPanics: true,
		New: func(workers int, onPanic func(any)) *system {
			p := gopool.NewPool("probe", int32(workers), gopool.NewConfig())
			if onPanic != nil {
				p.SetPanicHandler(func(_ context.Context, v any) { onPanic(v) })
			}
			return &system{Go: func(_ string, fn body) error {
				p.Go(func() { fn(context.Background()) })
				return nil
			}}
		},
	}
	return candidate{
		Name: "bytedance gopool", Module: "github.com/bytedance/gopkg",
		Settings: []setting{first, withHandler(first, "SetPanicHandler")},
	}
}
