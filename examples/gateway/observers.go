package main

import (
	"context"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// limiterObservers are told in their order.
type limiterObservers []limiter.Observer

func (os limiterObservers) Observe(ctx context.Context, e limiter.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

// captureObservers are told in their order.
type captureObservers []capture.Observer

func (os captureObservers) Observe(ctx context.Context, e capture.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}

// proxyObservers are told in their order.
type proxyObservers []proxy.Observer

func (os proxyObservers) Observe(ctx context.Context, e proxy.Event) {
	for _, o := range os {
		o.Observe(ctx, e)
	}
}
