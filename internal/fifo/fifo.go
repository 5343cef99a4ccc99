// Package fifo is a bounded waiting line in front of a number of slots. It
// imports the standard library only.
package fifo

import (
	"context"
	"errors"
	"sync"
)

// ErrFull is returned where somebody would have to wait and the line is full,
// or when somebody of a better class has taken the place in a full line.
var ErrFull = errors.New("fifo: the waiting line is full")

// A Line hands out slots, and lets those wait who find none free. It is safe for
// concurrent use by multiple goroutines. It must be made by [New].
//
// Who waits belongs to a class. The best class, 0, is served first, and within a
// class whoever came first. Nobody overtakes the first of the line: where that
// one needs more slots than are free, those behind wait as well, so that heavy
// ones are not starved by light ones.
//
// The sum of the slots handed out is never larger than the number of slots, with
// two exceptions: one alone may hold more than there are, because it would wait
// for ever otherwise, and after [Line.Resize] to fewer those handed out before
// stay valid.
type Line struct {
	mu      sync.Mutex
	slots   int
	length  int // how many may wait
	inUse   int
	waiting int
	classes []queue
}

// New returns a Line with a number of slots, for length to wait at most, all
// classes together. With no slots nobody is served. It panics if slots or length
// is negative, or if there is no class.
func New(slots, length, classes int) *Line {
	if slots < 0 || length < 0 || classes < 1 {
		panic("fifo: slots and length must not be negative, and there must be a class")
	}
	return &Line{slots: slots, length: length, classes: make([]queue, classes)}
}

// TryAcquire takes n slots if that needs no waiting, and says whether it did. n
// must be positive, and class one of the line's, or it panics.
func (l *Line) TryAcquire(class, n int) bool {
	l.check(class, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tryLocked(class, n)
}

// Acquire takes n slots, and waits for them if it must. It returns an error and
// no slots if the line is full ([ErrFull], at once, or later if somebody of a
// better class took the place), or when ctx ends (its cause). n must be positive,
// and class one of the line's, or it panics.
func (l *Line) Acquire(ctx context.Context, class, n int) error {
	l.check(class, n)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.mu.Lock()
	if l.tryLocked(class, n) {
		l.mu.Unlock()
		return nil
	}
	if l.waiting >= l.length && !l.displaceLocked(class) {
		l.mu.Unlock()
		return ErrFull
	}
	w := &waiter{n: n, class: class, done: make(chan struct{})}
	l.classes[class].push(w)
	l.waiting++
	l.mu.Unlock()

	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.done:
		// Both at once. Whoever called is gone and must not have to ask.
		if w.err == nil {
			l.releaseLocked(n)
		}
	default:
		l.classes[class].remove(w)
		l.waiting--
		l.grantLocked() // it may have been the one that all others waited behind
	}
	return context.Cause(ctx)
}

// Release gives n slots back. It panics if that is more than are in use.
func (l *Line) Release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 1 || n > l.inUse {
		panic("fifo: Release of slots that are not in use")
	}
	l.releaseLocked(n)
}

// Resize changes the number of slots and how many may wait. Slots handed out
// stay valid, and so does the place of whoever waits. It panics if an argument
// is negative.
func (l *Line) Resize(slots, length int) {
	if slots < 0 || length < 0 {
		panic("fifo: slots and length must not be negative")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots, l.length = slots, length
	l.grantLocked()
}

// Stats returns how many slots are in use, and how many wait.
func (l *Line) Stats() (inUse, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inUse, l.waiting
}

func (l *Line) check(class, n int) {
	if class < 0 || class >= len(l.classes) || n < 1 {
		panic("fifo: no such class, or no slots asked for")
	}
}

func (l *Line) fitsLocked(n int) bool {
	// A subtraction, because a sum could overflow.
	return l.slots > 0 && (l.inUse == 0 || n <= l.slots-l.inUse)
}

func (l *Line) tryLocked(class, n int) bool {
	for i := range l.classes[:class+1] {
		if l.classes[i].first != nil {
			return false
		}
	}
	if !l.fitsLocked(n) {
		return false
	}
	l.inUse += n
	return true
}

func (l *Line) releaseLocked(n int) {
	l.inUse -= n
	l.grantLocked()
}

// grantLocked serves the line as far as the free slots go.
func (l *Line) grantLocked() {
	for i := range l.classes {
		for w := l.classes[i].first; w != nil; w = l.classes[i].first {
			if !l.fitsLocked(w.n) {
				return
			}
			l.inUse += w.n
			l.leaveLocked(w, nil)
		}
	}
}

// displaceLocked turns away the last of the worst class that is worse than this
// one, and says whether there was any.
func (l *Line) displaceLocked(class int) bool {
	for i := len(l.classes) - 1; i > class; i-- {
		if w := l.classes[i].last; w != nil {
			l.leaveLocked(w, ErrFull)
			return true
		}
	}
	return false
}

func (l *Line) leaveLocked(w *waiter, err error) {
	l.classes[w.class].remove(w)
	l.waiting--
	w.err = err
	close(w.done)
}

// A waiter is who waits. It is in its queue until done is closed or it leaves.
type waiter struct {
	n, class   int
	err        error // to be read after done
	done       chan struct{}
	prev, next *waiter
}

// A queue is a doubly linked list, so that whoever gives up leaves at once.
type queue struct{ first, last *waiter }

func (q *queue) push(w *waiter) {
	if w.prev = q.last; w.prev == nil {
		q.first = w
	} else {
		w.prev.next = w
	}
	q.last = w
}

func (q *queue) remove(w *waiter) {
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}
