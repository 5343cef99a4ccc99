package capture

import (
	"sync"
	"time"
)

const defaultRefusals = 100

// refusals admits at most limit records in any second, which a counter that
// starts anew with each second would not around its edge.
type refusals struct {
	limit int

	mu     sync.Mutex
	last   []time.Time // when the last limit records were admitted
	oldest int         // its index, once last is full
}

func (r *refusals) admit() bool {
	if r.limit <= 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case len(r.last) < r.limit:
		r.last = append(r.last, now)
	case now.Sub(r.last[r.oldest]) < time.Second:
		return false
	default:
		r.last[r.oldest] = now
		r.oldest = (r.oldest + 1) % r.limit
	}
	return true
}
