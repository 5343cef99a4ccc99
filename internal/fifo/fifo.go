// Package fifo is a bounded waiting line in front of a number of slots. It
// imports the standard library only.
package fifo

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrFull is returned where somebody would have to wait and the line is
	// full, or when somebody of a better class has taken the place in a full
	// line.
	ErrFull = errors.New("fifo: the waiting line is full")

	// ErrKeyFull is ErrFull where the slots or the places of the key were used
	// up, and not those of all.
	ErrKeyFull = errors.New("fifo: the waiting line of the key is full")

	// ErrWaited is returned to who has waited for as long as it would.
	ErrWaited = errors.New("fifo: waited in vain")
)

// A Size is the number of slots and of places to wait in. Nothing may be
// negative.
type Size struct {
	Slots  int // with none, nobody is served
	Length int // how many may wait, all classes and keys together

	PerKey       int // slots for those with the same key; 0: as many as there are
	LengthPerKey int // of those, how many may wait; 0: Length
}

// A Request asks for slots.
type Request struct {
	Key   string // "": none, so only the slots of all count
	Class int    // from 0, the best
	N     int    // slots, 1 or more

	Wait time.Duration // for how long at most; 0: until the context ends
}

// Held is what a request got: to be released once.
type Held struct {
	n   int
	key *key
}

// A Line hands out slots, and lets those wait who find none free. It is safe for
// concurrent use by multiple goroutines. It must be made by [New].
//
// Who waits belongs to a class. The best class, 0, is served first, and within a
// class whoever came first. Nobody overtakes the first of the line: where that
// one needs more slots than are free, those behind wait as well, so that heavy
// ones are not starved by light ones.
//
// Who finds the slots of its key used up stands aside, so that nobody with
// another key waits behind it, and has nothing of the slots of all. It joins the
// line of its class, at the end, when its key has slots for it: those of one key
// get there by class and arrival. So a key never has more in the line than it
// could be served at once, however many of it wait.
//
// The sum of the slots handed out is never larger than the number of slots, in
// all and for each key, with two exceptions: one alone may hold more than there
// are, because it would wait for ever otherwise, and after [Line.Resize] to fewer
// those handed out before stay valid.
//
// The time that a call takes does not grow with the number of those who wait,
// except for Resize.
// What is known of a key is forgotten when nobody holds its slots or waits.
type Line struct {
	mu      sync.Mutex
	size    Size
	inUse   int
	waiting int
	ready   []queue // of each class: who needs nothing but slots
	all     []queue // of each class: who waits, by arrival
	keys    keys
}

// New returns a Line for a number of classes. It panics if there is none, or if
// something in size is negative.
func New(size Size, classes int) *Line {
	if classes < 1 {
		panic("fifo: there must be a class")
	}
	size.check()
	return &Line{size: size, ready: make([]queue, classes), all: make([]queue, classes)}
}

func (s Size) check() {
	if s.Slots < 0 || s.Length < 0 || s.PerKey < 0 || s.LengthPerKey < 0 {
		panic("fifo: a size must not be negative")
	}
}

// TryAcquire takes slots if that needs no waiting, and says whether it did. It
// panics if r has no slots or a class that the line has not.
func (l *Line) TryAcquire(r Request) (Held, bool) {
	l.check(&r)
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.tryLocked(&r)
	return h, err == nil
}

// Acquire takes slots, and waits for them if it must. It returns an error and no
// slots if the line is full ([ErrFull] or [ErrKeyFull], at once, or later if
// somebody of a better class took the place), when r.Wait has passed ([ErrWaited])
// or when ctx ends (its cause). It panics if r has no slots or a class that the
// line has not.
func (l *Line) Acquire(ctx context.Context, r Request) (Held, error) {
	l.check(&r)
	if ctx.Err() != nil {
		return Held{}, context.Cause(ctx)
	}
	l.mu.Lock()
	h, err := l.tryLocked(&r)
	if err == nil {
		l.mu.Unlock()
		return h, nil
	}
	w, err := l.enterLocked(&r, err)
	l.mu.Unlock()
	if err != nil {
		return Held{}, err
	}
	var tooLong <-chan time.Time
	if r.Wait > 0 {
		timer := time.NewTimer(r.Wait)
		defer timer.Stop()
		tooLong = timer.C
	}
	gone := false
	select {
	case <-w.done:
		return w.held()
	case <-ctx.Done():
		gone = true
	case <-tooLong:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.done: // both at once
		h, err := w.held()
		if err != nil || !gone {
			return h, err
		}
		// Whoever called is gone and must not have to ask.
		l.releaseLocked(h)
	default:
		l.leaveLocked(w)
		// It may have been the one that all others waited behind.
		l.settleLocked(w.key)
		l.grantLocked()
		l.keys.forget(w.key)
	}
	if gone {
		return Held{}, context.Cause(ctx)
	}
	return Held{}, ErrWaited
}

// Release gives slots back. It panics if that is more than are in use.
func (l *Line) Release(h Held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.n < 1 || h.n > l.inUse || h.key != nil && h.n > h.key.inUse {
		panic("fifo: Release of slots that are not in use")
	}
	l.releaseLocked(h)
}

// Resize changes the size. Slots handed out stay valid, and so does the place of
// whoever waits. It panics if something is negative.
func (l *Line) Resize(size Size) {
	size.check()
	l.mu.Lock()
	defer l.mu.Unlock()
	settle := size.PerKey != l.size.PerKey
	l.size = size
	if settle {
		for _, k := range l.keys.byName {
			l.trimLocked(k)
		}
		// In the order of arrival of the first of each key.
		for i := range l.all {
			for w := l.all[i].first; w != nil; w = w.links[inAll].next {
				if w.key != nil && !w.claims {
					l.settleLocked(w.key)
				}
			}
		}
	}
	l.grantLocked()
}

// SetSlots is Resize for nothing but the number of slots.
func (l *Line) SetSlots(n int) {
	Size{Slots: n}.check()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size.Slots = n
	l.grantLocked()
}

// Stats are the state of a [Line] at one moment.
type Stats struct {
	Slots   int // that there are
	InUse   int
	Waiting int // requests
	Keys    int // with slots, or waiting
}

// Stats returns the state.
func (l *Line) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{l.size.Slots, l.inUse, l.waiting, len(l.keys.byName)}
}

func (l *Line) check(r *Request) {
	if r.Class < 0 || r.Class >= len(l.ready) || r.N < 1 {
		panic("fifo: no such class, or no slots asked for")
	}
}

// fits reports whether n more than taken are within size. It is a subtraction,
// because a sum could overflow.
func fits(n, taken, size int) bool { return taken == 0 || n <= size-taken }

func (l *Line) fitsLocked(n int) bool { return l.size.Slots > 0 && fits(n, l.inUse, l.size.Slots) }

// tryLocked takes slots if nobody has to wait for that; or else it says whose
// are used up.
func (l *Line) tryLocked(r *Request) (Held, error) {
	keyed := r.Key != "" && l.size.PerKey > 0
	var k *key
	if keyed {
		k = l.keys.byName[r.Key]
		if k != nil && !k.fits(r.N, r.Class, l.size.PerKey) {
			return Held{}, ErrKeyFull
		}
	}
	for i := range l.ready[:r.Class+1] {
		if l.ready[i].first != nil {
			return Held{}, ErrFull
		}
	}
	if !l.fitsLocked(r.N) {
		return Held{}, ErrFull
	}
	l.inUse += r.N
	if keyed {
		if k == nil {
			k = l.keys.add(r.Key)
		}
		k.inUse += r.N
		if k.waiting > 0 {
			l.settleLocked(k)
			l.grantLocked() // who had to stand aside may have been in the way of others
		}
	}
	return Held{r.N, k}, nil
}

// enterLocked makes r wait; full is the error if it cannot.
func (l *Line) enterLocked(r *Request, full error) (*waiter, error) {
	var k *key
	if r.Key != "" && l.size.PerKey > 0 {
		k = l.keys.byName[r.Key]
	}
	places := l.size.LengthPerKey
	switch {
	case k != nil && places > 0 && k.waiting >= places:
		if !l.displaceLocked(k.worst(r.Class), ErrKeyFull) {
			return nil, ErrKeyFull
		}
	case l.waiting >= l.size.Length:
		if !l.displaceLocked(l.worst(r.Class), ErrFull) {
			return nil, full
		}
	}
	w := &waiter{n: r.N, class: r.Class, done: make(chan struct{})}
	l.all[w.class].push(w, inAll)
	l.waiting++
	if r.Key == "" || l.size.PerKey == 0 {
		l.ready[w.class].push(w, inReady)
	} else {
		// Looked up again: who was displaced may have been the last of its key.
		if k = l.keys.byName[r.Key]; k == nil {
			k = l.keys.add(r.Key)
		}
		w.key = k
		k.waiting++
		k.line(w.class, len(l.ready)).aside.push(w, inKey)
		l.settleLocked(k)
	}
	l.grantLocked()
	return w, nil
}

func (l *Line) releaseLocked(h Held) {
	l.inUse -= h.n
	if h.key != nil {
		h.key.inUse -= h.n
		l.settleLocked(h.key)
	}
	l.grantLocked()
	l.keys.forget(h.key)
}

// grantLocked serves the line as far as the free slots go.
func (l *Line) grantLocked() {
	for i := range l.ready {
		for w := l.ready[i].first; w != nil; w = l.ready[i].first {
			if !l.fitsLocked(w.n) {
				return
			}
			l.inUse += w.n
			l.leaveLocked(w)
			if w.key != nil {
				w.key.inUse += w.n
			}
			close(w.done)
		}
	}
}

// worst returns the last of the worst class that is worse than this one.
func (l *Line) worst(class int) *waiter {
	for i := len(l.all) - 1; i > class; i-- {
		if w := l.all[i].last; w != nil {
			return w
		}
	}
	return nil
}

// displaceLocked turns w away, and says whether there is any.
func (l *Line) displaceLocked(w *waiter, err error) bool {
	if w == nil {
		return false
	}
	l.leaveLocked(w)
	w.err = err
	close(w.done)
	l.settleLocked(w.key)
	l.keys.forget(w.key)
	return true
}

// leaveLocked takes w out of all queues.
func (l *Line) leaveLocked(w *waiter) {
	l.all[w.class].remove(w, inAll)
	l.waiting--
	if k := w.key; k == nil {
		l.ready[w.class].remove(w, inReady)
	} else {
		if line := &k.lines[w.class]; w.claims {
			l.unclaimLocked(w)
		} else {
			line.aside.remove(w, inKey)
		}
		k.waiting--
	}
}

// A waiter is who waits. It is in its queues until done is closed or it leaves.
type waiter struct {
	n, class int
	key      *key // nil: none
	claims   bool // it is in the line, and its slots are set aside among those of its key
	err      error
	done     chan struct{} // key and err are to be read after it is closed
	links    [3]links
}

func (w *waiter) held() (Held, error) {
	if w.err != nil {
		return Held{}, w.err
	}
	return Held{w.n, w.key}, nil
}

// A queue is a doubly linked list, so that whoever gives up leaves at once.
type queue struct{ first, last *waiter }

type links struct{ prev, next *waiter }

// Which of a waiter's links a queue uses.
const (
	inAll = iota
	inReady
	inKey
)

func (q *queue) push(w *waiter, in int) {
	w.links[in] = links{prev: q.last}
	if q.last == nil {
		q.first = w
	} else {
		q.last.links[in].next = w
	}
	q.last = w
}

func (q *queue) pushFront(w *waiter, in int) {
	w.links[in] = links{next: q.first}
	if q.first == nil {
		q.last = w
	} else {
		q.first.links[in].prev = w
	}
	q.first = w
}

func (q *queue) remove(w *waiter, in int) {
	at := &w.links[in]
	if at.prev == nil {
		q.first = at.next
	} else {
		at.prev.links[in].next = at.next
	}
	if at.next == nil {
		q.last = at.prev
	} else {
		at.next.links[in].prev = at.prev
	}
	*at = links{}
}
