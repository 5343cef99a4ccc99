package redislimiter

import "time"

// SetNow replaces the client's clock.
func (l *Limiter) SetNow(now func() time.Time) { l.now = now }
