package proxy

import (
	"sync"
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
	limits [3]time.Duration // by side; 0: none
	x      *exchange        // whose expire is called

	mu      sync.Mutex
	waits   [2]side // by track
	moved   time.Time
	end     time.Time // when it ends in any case; zero: never
	timer   *time.Timer
	due     time.Time // when timer fires
	stopped bool
}

// await says that something has moved on a track, and who is to move it next.
func (w *watch) await(t track, s side) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.waits[t] = s
	w.moved = time.Now()
	w.scheduleLocked()
}

// bound ends the exchange after d, however well it moves.
func (w *watch) bound(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = time.Now().Add(d)
	w.scheduleLocked()
}

// nextLocked returns whose time is up next if nothing moves, and how long that
// is after something has. A limit of 0: nobody's ever is.
//
// While the client is to take a part of the answer, it is all that counts. An
// upstream that talks both ways takes no more of the request then either, and
// the handler is in a call that only the client's expiry ends.
func (w *watch) nextLocked() (t track, s side, limit time.Duration) {
	t, s = answerTrack, w.waits[answerTrack]
	limit = w.limits[s]
	if s == clientSide {
		return t, s, limit
	}
	r := w.waits[requestTrack]
	if d := w.limits[r]; d > 0 && (limit == 0 || d <= limit) {
		return requestTrack, r, d
	}
	return t, s, limit
}

// scheduleLocked sees to it that the timer fires no later than the next
// deadline.
func (w *watch) scheduleLocked() {
	next := w.end
	if _, _, limit := w.nextLocked(); limit > 0 {
		if until := w.moved.Add(limit); next.IsZero() || until.Before(next) {
			next = until
		}
	}
	if next.IsZero() || !w.due.IsZero() && !next.Before(w.due) {
		return
	}
	w.due = next
	if d := time.Until(next); w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
	} else {
		w.timer.Reset(d)
	}
}

func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.due = time.Time{}
	// What expires does so with mu held, so that it never runs after stop.
	if t, s, limit := w.nextLocked(); limit > 0 && time.Since(w.moved) >= limit {
		w.stopped = true
		w.x.expire(t, s)
	} else if !w.end.IsZero() && !time.Now().Before(w.end) {
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
	if w.timer != nil {
		w.timer.Stop()
	}
}
