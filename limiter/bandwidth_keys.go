package limiter

import (
	"sync"
	"time"
)

// sharers are the shares of keys, as many as there are at work and a few that
// have not yet refilled.
type sharers struct {
	max  int
	rest *share // of the keys that there was no room for

	mu    sync.Mutex
	rate  func(key string) int64
	byKey map[string]*sharer
	// Those that nobody uses, in the order in which they were left. They are
	// forgotten when they are as good as new, and not before: or a client that
	// comes back would find its bucket full each time.
	idle, idleTail *sharer
}

// A sharer is the share of one key.
type sharer struct {
	*share
	key        string
	users      int
	prev, next *sharer
}

// ticksOfKey are fewer than those of the shares that everybody draws on: there
// are many keys, and few bodies each.
const ticksOfKey = 50

func newSharers(most int, rate func(string) int64) *sharers {
	return &sharers{max: most, rate: rate, rest: newShare(rate(""), ticksOfKey), byKey: make(map[string]*sharer)}
}

// enter returns the share of key.
func (s *sharers) enter(key string) *sharer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(time.Now())
	k := s.byKey[key]
	switch {
	case k != nil && k.users == 0:
		s.unlinkLocked(k)
	case k != nil:
	case len(s.byKey) >= s.max:
		return &sharer{share: s.rest}
	default:
		k = &sharer{share: newShare(s.rate(key), ticksOfKey), key: key}
		s.byKey[key] = k
	}
	k.users++
	return k
}

// exit ends a use of k.
func (s *sharers) exit(k *sharer) {
	if k.share == s.rest {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.users--; k.users > 0 {
		return
	}
	if k.prev = s.idleTail; k.prev != nil {
		k.prev.next = k
	} else {
		s.idle = k
	}
	s.idleTail = k
}

// sweepLocked forgets what is idle and full. What it meets last was left last:
// none is asked twice in vain but the first.
func (s *sharers) sweepLocked(now time.Time) {
	for s.idle != nil && s.idle.full(now) {
		k := s.idle
		s.unlinkLocked(k)
		delete(s.byKey, k.key)
	}
}

func (s *sharers) unlinkLocked(k *sharer) {
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		s.idle = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		s.idleTail = k.prev
	}
	k.prev, k.next = nil, nil
}

// set changes the rates.
func (s *sharers) set(rate func(key string) int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate = rate
	s.rest.set(rate(""))
	for _, k := range s.byKey {
		k.set(rate(k.key))
	}
}

// count returns how many shares there are.
func (s *sharers) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked(time.Now())
	return len(s.byKey)
}
