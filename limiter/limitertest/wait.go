package limitertest

import (
	"context"
	"errors"
	"time"

	"github.com/goweir/weir/limiter"
)

var waitChecks = []check{
	{name: "wait", run: waiting},
	{name: "wait, late", run: waitTooLate},
	{name: "wait, cancelled", run: waitCancelled},
}

// wait expects that limiter.Wait returns an error at once.
func (x *trial) wait(ctx context.Context, p limiter.Policy, cost int, want error) {
	x.waitUntil(ctx, p, cost, time.Now(), 0, want)
}

// waitUntil expects that limiter.Wait returns an error when a time has passed
// since from: an instant before the Limiter or anybody else said how long it
// takes, because on a busy machine some of it has passed when Wait is called.
func (x *trial) waitUntil(ctx context.Context, p limiter.Policy, cost int, from time.Time, after time.Duration, want error) {
	err := limiter.Wait(ctx, x.l, of(p, cost))
	took := time.Since(from)
	if x.tolerance > 0 {
		x.late = max(x.late, took-after-x.tolerance)
	}
	if !errors.Is(err, want) || want == nil && err != nil {
		x.fatalf("Wait for %d = %v, want %v", cost, err, want)
	}
	if over := took - after; over < -x.slack() || over > x.slack()+x.opts.Rounding*time.Duration(cost)+after/1000 {
		x.errorf("Wait for %d = %v after %v, want it after %v", cost, err, took, after)
	}
}

// waiting are the vectors of x/time/rate for Wait: 10/s, burst 3. The first
// charge takes a whole quota, so that every algorithm is as empty as it can be.
func waiting(x *trial) {
	p := x.policy(10, x.second, 3)
	n := x.capacity(p)
	ended, cancel := context.WithCancel(x.ctx())
	cancel()
	x.wait(ended, p, 1, context.Canceled)
	x.remaining(of(p, 0), n)
	later, cancel := context.WithTimeout(x.ctx(), time.Minute) // or it may wait for ever
	defer cancel()
	x.wait(later, p, n+1, limiter.ErrNever)
	x.remaining(of(p, 0), n)
	x.wait(later, x.still("closed", 0), 1, limiter.ErrNever)

	x.align(p)
	x.wait(x.ctx(), p, n, nil)
	x.wait(x.ctx(), p, 0, nil) // nothing is there at once
	asked := time.Now()
	after := x.algorithm.turn(x.denied(of(p, 2)))
	x.waitUntil(x.ctx(), p, 2, asked, after, nil)
}

// waitTooLate waits with a deadline that the turn cannot meet, and with one
// that it can.
func waitTooLate(x *trial) {
	p := x.policy(10, x.second, 3)
	n := x.capacity(p)
	x.align(p)
	x.allowed(of(p, n))
	after := x.algorithm.turn(x.denied(of(p, n)))

	ctx, cancel := context.WithTimeout(x.ctx(), after/2)
	defer cancel()
	x.begin()
	x.wait(ctx, p, n, context.DeadlineExceeded)
	// It charged nothing.
	asked := time.Now()
	r := x.denied(of(p, n))
	if r.RetryAfter > after {
		x.errorf("after a Wait that was too late, Take of all = %+v, want RetryAfter at most %v", r, after)
	}

	after = x.algorithm.turn(r) // anew: on a slow machine it is less by now
	ctx, cancel = context.WithTimeout(x.ctx(), after+time.Microsecond+2*x.tolerance)
	defer cancel()
	x.begin()
	x.waitUntil(ctx, p, n, asked, after, nil)
}

// waitCancelled leaves while it waits: the units come back.
func waitCancelled(x *trial) {
	p := x.policy(10, 10*x.second, 3)
	n := x.capacity(p)
	if x.algorithm.windowed && x.tolerance > 0 {
		p.Window = slow // the edge between two windows may be near
	}
	x.allowed(of(p, n))
	before := x.take(of(p, 0))
	ctx, cancel := context.WithCancel(x.ctx())
	x.begin()
	time.AfterFunc(x.second/10, cancel)
	x.waitUntil(ctx, p, n, x.start, x.second/10, context.Canceled)
	if after := x.take(of(p, 0)); after.ResetAfter > before.ResetAfter {
		x.errorf("before a Wait that was cancelled the quota was whole in %v, after it in %v: it kept units", before.ResetAfter, after.ResetAfter)
	}
}
