package capture

import (
	"context"
	"time"
)

// detached is what [context.WithoutCancel] returns, as a part of the record
// instead of an allocation of its own.
type detached struct{ parent context.Context }

func (*detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (*detached) Done() <-chan struct{}       { return nil }
func (*detached) Err() error                  { return nil }

func (d *detached) Value(key any) any {
	v := d.parent.Value(key)
	// By a key of this type package context finds the context above that can be
	// cancelled, to ask it for the cause.
	if _, ok := key.(*int); ok {
		if _, ok := v.(context.Context); ok {
			return nil
		}
	}
	return v
}

// String keeps fmt from printing the parent, which others may be writing to.
func (*detached) String() string { return "capture.Sink context" }
