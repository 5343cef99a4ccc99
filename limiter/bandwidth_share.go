package limiter

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A share is a rate that many bodies draw on. It is a token bucket whose tokens
// are bytes, and the lines of those who wait for some, one line for each class.
// It has no goroutine: while somebody waits, a timer says when the next slice is
// due, and who leaves or comes looks too.
//
// Within a line slices are granted in turn. Between lines, every slice that is
// granted is owed by the line that got it to all that want some, in proportion
// to their weights, and the line that is owed most is next: deficit round robin,
// with the deficits counted at each grant instead of each round. A line that
// nobody waits in is owed nothing, so what it leaves over is borrowed and never
// paid back.
type share struct {
	ticks int64 // slices a second that it aims at

	rate atomic.Int64 // bytes per second; 0: no limit. Changes under mu

	mu      sync.Mutex
	tokens  float64
	last    time.Time // when tokens were counted
	lines   []line
	waiting int
	armed   bool // the timer will look
	timer   *time.Timer
}

// A line is where the bodies of one class wait.
type line struct {
	weight     float64
	owed       float64   // bytes; negative: it has had more than its part
	seen       time.Time // when it last got something
	waiting    int
	head, tail *waiter
}

// A waiter is a body's wait for a slice. A body keeps one, for all its waits.
type waiter struct {
	n          int64
	granted    bool
	asleep     bool          // ready is waited for
	ready      chan struct{} // made when it is first needed
	prev, next *waiter
}

const (
	// grantsPerSecond bounds what one rate costs: a body takes at least as many
	// bytes at once as make for this many grants a second at the full rate.
	grantsPerSecond = 16000

	minSlice, maxSlice = 512, 64 << 10

	// burstsPerSecond says that a bucket holds a tenth of a second's worth: what
	// a rate may catch up on after an oversleep or a pause.
	burstsPerSecond = 10

	// expected is how long a line that just got a slice counts as wanting the
	// next: its body is busy writing. While such a line is owed something, the
	// others do not get ahead of it by more than a slice, until the bucket is
	// half full. So no byte of the rate is lost if the line turns out to want
	// less than its part.
	expected = 10 * time.Millisecond
)

// minimum is the least that a body takes from a rate at once.
func minimum(rate int64) int64 { return (rate + grantsPerSecond - 1) / grantsPerSecond }

// slice is the most that a body gets in one turn.
func slice(rate, ticks int64) int64 {
	return max(min(max(rate/ticks, minSlice), maxSlice), minimum(rate))
}

// burst is what a bucket holds.
func burst(rate, ticks int64) int64 {
	return min(max(rate/burstsPerSecond, slice(rate, ticks)), math.MaxInt32)
}

// ask says how many bytes a body takes that wants n.
func ask(n, rate, ticks int64) int64 {
	return min(max(n, minimum(rate)), slice(rate, ticks))
}

// newShare returns a share with a full bucket.
func newShare(rate, ticks int64, weights ...int64) *share {
	s := &share{ticks: ticks, last: time.Now(), lines: make([]line, max(1, len(weights)))}
	s.rate.Store(rate)
	for i, w := range weights {
		s.lines[i].weight = float64(w)
	}
	if rate > 0 {
		s.tokens = float64(burst(rate, ticks))
	}
	return s
}

// acquire takes bytes for a body of a class that wants n, and waits for them.
// turn is what is left of the body's turn, which is a slice: who has not used it
// up, because it wants little at a time, need not go to the back of the line.
// Without a limit, got is 0.
func (s *share) acquire(ctx context.Context, w *waiter, class int, n int64, turn *int64) (got int64, waited time.Duration, err error) {
	s.mu.Lock()
	rate := s.rate.Load()
	if rate == 0 {
		s.mu.Unlock()
		return 0, 0, nil
	}
	if err := ctx.Err(); err != nil {
		s.mu.Unlock()
		return 0, 0, err
	}
	now := time.Now()
	n = ask(n, rate, s.ticks)
	w.n, w.granted, w.asleep = n, false, false
	l := &s.lines[class]
	front := n <= *turn
	if !front {
		*turn += slice(rate, s.ticks)
	}
	*turn = max(0, *turn-n)
	l.push(w, front)
	s.waiting++
	if !s.armed || l.head == w {
		s.grantLocked(now)
	}
	if w.granted {
		s.mu.Unlock()
		return n, 0, nil
	}
	w.asleep = true
	if w.ready == nil {
		w.ready = make(chan struct{}, 1)
	}
	s.mu.Unlock()

	select {
	case <-w.ready:
	case <-ctx.Done():
		if s.leave(l, w) {
			return 0, time.Since(now), ctx.Err()
		}
		<-w.ready
	}
	return n, time.Since(now), nil
}

// leave takes w out of its line; false if it has been granted meanwhile.
func (s *share) leave(l *line, w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.granted {
		return false
	}
	first := l.head == w
	l.remove(w)
	s.waiting--
	if first {
		s.grantLocked(time.Now())
	}
	return true
}

// giveBack returns bytes that were acquired and not used.
func (s *share) giveBack(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rate.Load() == 0 || n <= 0 {
		return
	}
	now := time.Now()
	s.countLocked(now)
	s.tokens = min(s.tokens+float64(n), float64(burst(s.rate.Load(), s.ticks)))
	s.grantLocked(now)
}

// set changes the rate, for those who wait too.
func (s *share) set(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rate == s.rate.Load() {
		return
	}
	now := time.Now()
	s.countLocked(now)
	if s.rate.Load() == 0 { // nobody counted
		s.tokens = float64(burst(rate, s.ticks))
	}
	s.rate.Store(rate)
	if rate > 0 {
		s.tokens = min(s.tokens, float64(burst(rate, s.ticks)))
	}
	s.grantLocked(now)
}

// weigh changes the weights.
func (s *share) weigh(weights []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range weights {
		s.lines[i].weight = float64(w)
	}
}

// full reports whether the state is that of a new share.
func (s *share) full(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(now)
	return s.rate.Load() == 0 || s.waiting == 0 && s.tokens >= float64(burst(s.rate.Load(), s.ticks))
}

// waitingIn returns how many wait in the line of a class.
func (s *share) waitingIn(class int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines[class].waiting
}

func (s *share) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	s.grantLocked(time.Now())
}

func (s *share) countLocked(now time.Time) {
	if d := now.Sub(s.last); d > 0 {
		s.last = now
		s.tokens = min(s.tokens+float64(s.rate.Load())*d.Seconds(), float64(burst(s.rate.Load(), s.ticks)))
	}
}

// grantLocked grants what there is to whoever is next, and sees to it that
// somebody looks again when there is more.
func (s *share) grantLocked(now time.Time) {
	s.countLocked(now)
	for s.waiting > 0 {
		l, hold := s.nextLocked(now)
		if l == nil {
			s.armLocked(hold)
			return
		}
		w := l.head
		if s.rate.Load() > 0 {
			// A slice may be larger than the bucket if the rate was lowered.
			need := float64(min(w.n, burst(s.rate.Load(), s.ticks)))
			if s.tokens < need {
				s.armLocked(time.Duration((need - s.tokens) / float64(s.rate.Load()) * float64(time.Second)))
				return
			}
			s.tokens -= float64(w.n)
		}
		l.remove(w)
		s.waiting--
		l.seen = now
		s.oweLocked(now, l, float64(w.n))
		if w.granted = true; w.asleep {
			w.ready <- struct{}{}
		}
	}
}

func (s *share) armLocked(d time.Duration) {
	d++ // a duration is rounded down above
	s.armed = true
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.tick)
	} else {
		s.timer.Reset(d)
	}
}

// nextLocked returns the line that is next, or how long to hold back for one
// that is owed something and expected back.
func (s *share) nextLocked(now time.Time) (next *line, hold time.Duration) {
	if len(s.lines) == 1 {
		return &s.lines[0], 0
	}
	for i := range s.lines {
		if l := &s.lines[i]; l.head != nil && (next == nil || l.owed > next.owed) {
			next = l
		}
	}
	rate := float64(s.rate.Load())
	most := float64(slice(s.rate.Load(), s.ticks))
	room := float64(burst(s.rate.Load(), s.ticks))/2 - s.tokens
	if rate == 0 || room <= 0 || next.owed > -most {
		return next, 0
	}
	for i := range s.lines {
		l := &s.lines[i]
		if l.head == nil && l.owed > most {
			hold = max(hold, expected-now.Sub(l.seen))
		}
	}
	if hold > 0 {
		return nil, min(hold, time.Duration(room/rate*float64(time.Second)))
	}
	return next, 0
}

// oweLocked counts what a grant of n bytes to a line means for all.
func (s *share) oweLocked(now time.Time, to *line, n float64) {
	if len(s.lines) == 1 {
		return
	}
	to.owed -= n
	var sum, weights float64
	for i := range s.lines {
		if l := &s.lines[i]; l.wants(now) {
			sum += l.owed
			weights += l.weight
		} else {
			l.owed = 0
		}
	}
	// The sum is -n, or not, if a line has stopped wanting: then its balance is
	// everybody's.
	most := float64(max(burst(s.rate.Load(), s.ticks), 4*slice(s.rate.Load(), s.ticks)))
	for i := range s.lines {
		if l := &s.lines[i]; l.wants(now) {
			l.owed = min(max(l.owed-sum*l.weight/weights, -most), most)
		}
	}
}

// wants reports whether somebody waits, or is expected to before long.
func (l *line) wants(now time.Time) bool { return l.head != nil || now.Sub(l.seen) < expected }

func (l *line) push(w *waiter, front bool) {
	l.waiting++
	switch {
	case l.head == nil:
		l.head, l.tail = w, w
	case front:
		w.next, l.head.prev, l.head = l.head, w, w
	default:
		w.prev, l.tail.next, l.tail = l.tail, w, w
	}
}

func (l *line) remove(w *waiter) {
	l.waiting--
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.tail = w.prev
	}
	w.prev, w.next = nil, nil
}
