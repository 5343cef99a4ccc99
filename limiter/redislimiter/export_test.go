package redislimiter

import (
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/limiter"
)

// SetNow replaces the client's clock.
func (l *Limiter) SetNow(now func() time.Time) { l.now = now }

// KeyOf returns the key of a quota at the server.
func (l *Limiter) KeyOf(c limiter.Charge) string { return l.keyOf(&c.Policy, c.Key) }

// SlotOf returns its slot.
func (l *Limiter) SlotOf(c limiter.Charge) int { return int(l.slotOf(l.KeyOf(c))) }

// Freed returns how many holders the server is still to be told of that they
// have gone.
func (f *InFlight) Freed() int {
	f.slots.mu.Lock()
	defer f.slots.mu.Unlock()
	return len(f.slots.freed)
}

// nobody is a client that no call reaches.
type nobody struct{ redis.UniversalClient }

// DecideSHA is the name of the script.
var DecideSHA = decideScript.sha
