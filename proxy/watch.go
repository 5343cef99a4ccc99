package proxy

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A side is who is waited for.
type side uint8

const (
	nobody side = iota
	upstreamSide
	clientSide
)

// A track is a body, and with it the direction in which something is to move.
type track uint8

const (
	requestTrack track = iota
	answerTrack
)

// A watch ends an exchange in which nothing moves any more. Whatever moves on
// one track keeps the other alive too: an upstream may stay silent while it
// takes a long upload, and a client while it reads a long answer.
//
// One timer serves both tracks and is not touched when something moves: when it
// fires it looks how long ago that was.
type watch struct {
	x *exchange // whose expire is called

	mu      sync.Mutex
	waits   [2]side // by track
	stopped bool
	end     time.Duration // when it ends in any case, as due; 0: never
	moved   time.Duration // since the Proxy was made, as due
	due     time.Duration // when alarm fires; 0: it does not
	alarm   *alarm        // nil until it is needed
}

// await says that something has moved on a track, and who is to move it next.
func (w *watch) await(t track, s side) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.waits[t] = s
	w.moved = w.now()
	w.scheduleLocked()
}

// turn says who is to move a track next, though nothing has moved: but for spent,
// for which another was waited for, the time since something has goes on.
func (w *watch) turn(t track, s side, spent time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.waits[t] = s
	w.moved = min(w.moved+spent, w.now())
	w.scheduleLocked()
}

func (w *watch) now() time.Duration { return time.Since(w.x.proxy.born) }

// bound ends the exchange after d, however well it moves.
func (w *watch) bound(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = w.now() + d
	w.scheduleLocked()
}

// limit is for how long s may be waited for; 0: for ever.
func (w *watch) limit(s side) time.Duration {
	switch s {
	case upstreamSide:
		return w.x.proxy.cfg.Timeouts.UpstreamIdle
	case clientSide:
		return w.x.proxy.cfg.Timeouts.ClientIdle
	}
	return 0
}

// nextLocked returns whose time is up next if nothing moves, and how long that
// is after something has. A limit of 0: nobody's ever is.
//
// While the client is to take a part of the answer, it is all that counts. An
// upstream that talks both ways takes no more of the request then either, and
// the handler is in a call that only the client's expiry ends.
func (w *watch) nextLocked() (t track, s side, limit time.Duration) {
	t, s = answerTrack, w.waits[answerTrack]
	limit = w.limit(s)
	if s == clientSide {
		return t, s, limit
	}
	r := w.waits[requestTrack]
	if d := w.limit(r); d > 0 && (limit == 0 || d <= limit) {
		return requestTrack, r, d
	}
	return t, s, limit
}

// scheduleLocked sees to it that the timer fires no later than the next
// deadline.
func (w *watch) scheduleLocked() {
	next := w.end
	if _, _, limit := w.nextLocked(); limit > 0 {
		if until := w.moved + limit; next == 0 || until < next {
			next = until
		}
	}
	if next == 0 || w.due != 0 && next >= w.due {
		return
	}
	w.due = next
	if w.alarm == nil {
		w.alarm = w.x.proxy.alarm(w)
		if due := w.alarm.due; due > w.now() && due <= next {
			w.due = due // soon enough, and it has not fired
			return
		}
	}
	w.alarm.timer.Reset(next - w.now())
}

// fire may be called at any time.
func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.due = 0
	// What expires does so with mu held, so that it never runs after stop.
	if t, s, limit := w.nextLocked(); limit > 0 && w.now()-w.moved >= limit {
		w.stopped = true
		w.x.expire(t, s)
	} else if w.end != 0 && w.now() >= w.end {
		w.stopped = true
		w.x.expireTotal(w.waits)
	} else {
		w.scheduleLocked()
	}
}

// renew forgets what was awaited, and calls f with mu held, so that it does not
// run while expire does. It is not called if the watch has ended.
func (w *watch) renew(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return false
	}
	w.waits = [2]side{}
	f()
	return true
}

// stop ends the watch. When it has returned, expire has too or never runs.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if a := w.alarm; a != nil {
		w.alarm = nil
		a.due = w.due
		a.watch.Store(nil)
		w.x.proxy.alarms.Put(a)
	}
}

// An alarm is a timer that serves one watch after the other, and is left to run
// in between: to make and to stop one for each request costs more than all the
// rest of a watch. So it may fire for a watch that has not set it, which is as if
// something had moved in the meantime.
type alarm struct {
	timer *time.Timer
	due   time.Duration // when it fires, as the watch before has left it; 0: it does not
	watch atomic.Pointer[watch]
}

func (p *Proxy) alarm(w *watch) *alarm {
	a, ok := p.alarms.Get().(*alarm)
	if !ok {
		a = &alarm{}
		a.timer = time.AfterFunc(math.MaxInt64, a.fire)
	}
	a.watch.Store(w) // before anybody looks whether it has fired
	return a
}

func (a *alarm) fire() {
	if w := a.watch.Load(); w != nil {
		w.fire()
	}
}
