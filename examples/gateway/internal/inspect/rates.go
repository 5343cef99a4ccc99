package inspect

import (
	"sync"
	"time"
)

// history is how many seconds are counted one by one.
const history = 60

// rates count all exchanges, by second and by what the client got.
type rates struct {
	mu      sync.Mutex
	seconds [history]second
	total   int64
	thinned int64 // refusals of which there is no record
}

type second struct {
	at     int64 // Unix time
	counts [classes]int
}

// The classes of answers.
const (
	classOK      = iota // below 400
	classClient         // 4xx
	classRefused        // 429
	classServer         // 5xx, and none
	classes
)

func classOf(status int) int {
	switch {
	case status == 429:
		return classRefused
	case status >= 500 || status == 0:
		return classServer
	case status >= 400:
		return classClient
	}
	return classOK
}

func (r *rates) count(now time.Time, status int, thinned bool) {
	at := now.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.seconds[at%history]
	if s.at != at {
		*s = second{at: at}
	}
	s.counts[classOf(status)]++
	r.total++
	if thinned {
		r.thinned++
	}
}

// past returns the counts of the last seconds, the oldest first, without the one
// that has just begun.
func (r *rates) past(now time.Time) (seconds [][classes]int, total, thinned int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := now.Unix() - history + 1; at < now.Unix(); at++ {
		var c [classes]int
		if s := r.seconds[at%history]; s.at == at {
			c = s.counts
		}
		seconds = append(seconds, c)
	}
	return seconds, r.total, r.thinned
}
