package redislimiter

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/limiter"
)

//go:embed slots.lua
var slotsText string

var slotsScript = newScript(clockText, slotsText)

// leasedSlots are the leases of one process. A goroutine keeps them while there are
// any: it renews what is held, and gives back what is not.
//
// It asks the server by Take and Refund of [limiter.Limiter], so that package
// failover can stand in front of it. A charge's Key is the id of a holder, a
// colon and the caller's key; its Cost is the number of slots.
type leasedSlots struct {
	limiter.Limiter // nil: nothing else is ever called
	server          *Limiter
	policy          limiter.Policy // names the slots
	total, perKey   int            // how many there are, and of a key; 0: no matter
	lease           time.Duration
	observer        limiter.Observer // nil: nobody

	process string // begins the ids of this process, so that no two are the same
	last    atomic.Uint64

	mu      sync.Mutex
	held    map[string]holder // by Key
	freed   map[string]freed
	kept    time.Time     // when all that was held had been renewed
	running bool          // the goroutine
	wake    chan struct{} // with room for one
	free    chan struct{} // closed and made anew when something was given back
}

type holder struct {
	charge limiter.Charge
	known  bool // the server may know of it
}

type freed struct {
	charge limiter.Charge
	since  time.Time
}

func newLeasedSlots(server *Limiter, name string, total, perKey int, lease time.Duration) *leasedSlots {
	return &leasedSlots{
		server:  server,
		policy:  limiter.Policy{Name: name, Limit: 1, Window: time.Hour},
		total:   total,
		perKey:  perKey,
		lease:   lease,
		process: rand.Text()[:16],
		held:    make(map[string]holder),
		freed:   make(map[string]freed),
		wake:    make(chan struct{}, 1),
		free:    make(chan struct{}),
	}
}

// charge returns the charge of a new holder.
func (s *leasedSlots) charge(key string, n int) limiter.Charge {
	id := s.process + strconv.FormatUint(s.last.Add(1), 36)
	return limiter.Charge{Policy: s.policy, Key: id + ":" + key, Cost: n}
}

// member returns how the server knows the holder.
func member(c *limiter.Charge) string {
	id, _, _ := strings.Cut(c.Key, ":")
	if c.Cost > 1 {
		id += ":" + strconv.Itoa(c.Cost)
	}
	return id
}

// sets appends the keys of the sets that c's holder is in, and how many slots
// each has. All share what a cluster looks at.
func (s *leasedSlots) sets(keys []string, sizes []int, c *limiter.Charge) ([]string, []int) {
	l := s.server
	all := l.keyOf(&limiter.Policy{Name: s.policy.Name, Algorithm: allSlots}, "")
	if s.total > 0 {
		keys, sizes = append(keys, all), append(sizes, s.total)
	}
	if _, key, _ := strings.Cut(c.Key, ":"); s.perKey > 0 && key != "" {
		own := l.keyOf(&limiter.Policy{Name: s.policy.Name, Algorithm: slotsOfKey}, key)
		keys, sizes = append(keys, all+own[len(l.before):len(own)-len(l.after)]), append(sizes, s.perKey)
	}
	return keys, sizes
}

// What is hashed into the names of sets in an Algorithm's place.
const (
	allSlots limiter.Algorithm = 128 + iota
	slotsOfKey
)

// Take implements a part of [limiter.Limiter]: it asks for the slots of a
// charge. In a refusal Limit is the number of those that were too few, and
// Remaining says which: 0 all, 1 those of the key.
func (s *leasedSlots) Take(ctx context.Context, c limiter.Charge) (limiter.Result, error) {
	var keyArray [2]string
	var sizeArray [2]int
	keys, sizes := s.sets(keyArray[:0], sizeArray[:0], &c)
	args := append(s.question("take", keys, 1+len(keys)), member(&c))
	for _, n := range sizes {
		args = append(args, n)
	}
	answer, err := s.server.evaluate(ctx, &slotsScript, false, len(keys), args)
	if err == nil && (len(answer) != 1 || answer[0] < 0 || answer[0] > int64(len(keys))) {
		err = explain(errServerAnswer(len(answer), 1), true)
	}
	if err != nil {
		if errors.Is(err, ErrUnknown) {
			s.giveBack(c) // they may have been taken
		}
		return limiter.Result{}, err
	}
	had := int(answer[0])
	if had == len(keys) {
		return limiter.Result{Allowed: true, Source: limiter.SourceRedis, Receipt: limiter.Receipt{Paid: int64(c.Cost)}}, nil
	}
	r := limiter.Result{Source: limiter.SourceRedis, Limit: sizes[had]}
	if had > 0 || s.total == 0 {
		r.Remaining = 1
	}
	return r, nil
}

// Refund implements a part of [limiter.Limiter]: the goroutine will give back
// the slots of a charge. It does not wait for that.
func (s *leasedSlots) Refund(_ context.Context, c limiter.Charge, r *limiter.Result) error {
	r.Receipt = limiter.Receipt{}
	s.giveBack(c)
	return nil
}

// question begins the arguments of a call, with room for more of them.
func (s *leasedSlots) question(what string, keys []string, more int) []any {
	args := make([]any, 3, 6+len(keys)+more)
	for _, k := range keys {
		args = append(args, k)
	}
	return append(args, s.server.clock(), s.lease.Microseconds(), what)
}

// hold has the goroutine renew the lease of c. known says whether the server has
// heard of it; if not, it will.
func (s *leasedSlots) hold(c limiter.Charge, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[c.Key] = holder{c, known}
	s.runLocked()
}

// giveBack has the goroutine give back the slots of c, held or not.
func (s *leasedSlots) giveBack(c limiter.Charge) {
	s.mu.Lock()
	h, held := s.held[c.Key]
	delete(s.held, c.Key)
	if held && !h.known {
		s.mu.Unlock()
		return // or an outage would gather all that came and went in it
	}
	s.freed[c.Key] = freed{c, time.Now()}
	s.runLocked()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *leasedSlots) runLocked() {
	if !s.running {
		s.running, s.kept = true, time.Now()
		go s.run()
	}
}

// flush waits until the server has heard of what is freed now, or it has ended by
// itself.
func (s *leasedSlots) flush(ctx context.Context) error {
	s.mu.Lock()
	for left := slices.Collect(maps.Keys(s.freed)); ; s.mu.Lock() {
		left = slices.DeleteFunc(left, func(key string) bool { _, ok := s.freed[key]; return !ok })
		changed := s.free
		s.mu.Unlock()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// changed returns what is closed when slots of this process have been given back.
func (s *leasedSlots) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}

const (
	// renewals is how often a lease is renewed in its time: two may fail.
	renewals = 3

	// retryFree is when what could not be given back is tried again.
	retryFree = 500 * time.Millisecond

	// holdersAtOnce is how many holders one call of the script is about.
	holdersAtOnce = 500
)

// run keeps the leases until there are none.
func (s *leasedSlots) run() {
	every := s.lease / renewals
	timer := time.NewTimer(every)
	defer timer.Stop()
	wake := s.wake
	for {
		select {
		case <-wake:
		case <-timer.C:
		}

		s.mu.Lock()
		now := time.Now()
		var back []limiter.Charge
		ended := false
		for key, f := range s.freed {
			if now.Sub(f.since) > s.lease {
				delete(s.freed, key) // it has ended by itself
				ended = true
				continue
			}
			back = append(back, f.charge)
		}
		if ended {
			s.tellFreeLocked()
		}
		var keep []limiter.Charge
		if now.Sub(s.kept) >= every {
			for key, h := range s.held {
				keep = append(keep, h.charge)
				h.known = true
				s.held[key] = h
			}
			s.kept = now
		}
		if len(s.held) == 0 && len(back) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		next := every - now.Sub(s.kept)
		s.mu.Unlock()

		wake = s.wake
		if !s.giveBackNow(back) {
			next = min(next, retryFree)
			wake = nil // not for each that is given back meanwhile
		}
		if !s.forEach("keep", keep, s.tellLapse) {
			next = min(next, every/2)
			s.mu.Lock()
			s.kept = s.kept.Add(-every / 2) // sooner than usual
			s.mu.Unlock()
		}
		timer.Reset(next)
	}
}

// giveBackNow reports whether the server has heard of all.
func (s *leasedSlots) giveBackNow(back []limiter.Charge) bool {
	return s.forEach("free", back, func(done []limiter.Charge, _ int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range done {
			delete(s.freed, done[i].Key)
		}
		s.tellFreeLocked()
	})
}

// tellFreeLocked wakes those who wait for slots, and for the server to know.
func (s *leasedSlots) tellFreeLocked() {
	close(s.free)
	s.free = make(chan struct{})
}

// tellLapse tells the Observer how many leases had ended before they were renewed.
func (s *leasedSlots) tellLapse(_ []limiter.Charge, n int) {
	if n > 0 && s.observer != nil {
		s.observer.Observe(context.Background(), limiter.Event{
			Kind: limiter.EventLapse, Policy: s.policy.Name, Source: limiter.SourceRedis, Start: time.Now(), N: n,
		})
	}
}

// forEach tells the server what to do about holders, some at a time, and done of
// those that it has been told of and of its answer. It reports whether these were
// all.
func (s *leasedSlots) forEach(what string, cs []limiter.Charge, done func(some []limiter.Charge, answer int)) bool {
	for some := range slices.Chunk(cs, holdersAtOnce) {
		var keys places
		var rest []any
		var keyArray [2]string
		var sizeArray [2]int
		for i := range some {
			m := member(&some[i])
			sets, _ := s.sets(keyArray[:0], sizeArray[:0], &some[i])
			for _, k := range sets {
				rest = append(rest, keys.place(k), m)
			}
		}
		args := append(s.question(what, keys.all, len(rest)), rest...)
		ctx, cancel := context.WithTimeout(context.Background(), min(time.Second, s.lease/renewals/2))
		start := time.Now()
		answer, err := s.server.evaluate(ctx, &slotsScript, false, len(keys.all), args)
		cancel()
		if err == nil && len(answer) != 1 {
			err = explain(errServerAnswer(len(answer), 1), true)
		}
		if err != nil {
			if s.observer != nil {
				s.observer.Observe(context.Background(), limiter.Event{
					Kind: limiter.EventFailure, Policy: s.policy.Name, Source: limiter.SourceRedis,
					Start: start, Duration: time.Since(start), N: 1, Err: err,
				})
			}
			return false
		}
		done(some, int(answer[0]))
	}
	return true
}
