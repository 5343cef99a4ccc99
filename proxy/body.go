package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// An upload is the client's body as the transport reads it, on a goroutine of
// its own that may outlive RoundTrip.
type upload struct {
	src     io.ReadCloser
	watch   *watch
	replay  *replay       // nil: nothing is kept
	at      int           // how much was read, with a replay
	reading chan struct{} // holds one element while src is read
	state   atomic.Int32  // fresh, touched or sealed
	stopped atomic.Bool
	closed  atomic.Bool
	ended   atomic.Bool           // all of it was read
	bytes   atomic.Int64          // that were
	err     atomic.Pointer[error] // why it failed, unless closed before
}

const (
	fresh   = iota // nobody has begun to read it
	touched        // somebody has
	sealed         // nobody has, and nobody can any more
)

// untouched reports whether nothing of src was read, and sees to it that nothing
// is read by this upload later.
func (u *upload) untouched() bool {
	return u.state.CompareAndSwap(fresh, sealed) || u.state.Load() == sealed
}

var errStopped = errors.New("the exchange has ended")

func (u *upload) Read(p []byte) (int, error) {
	if u.ended.Load() {
		// net/http's transport looks for bytes beyond the Content-Length, and
		// the server may have closed the body meanwhile, because the answer has
		// begun. An error would make the transport break off that answer.
		return 0, io.EOF
	}
	u.reading <- struct{}{}
	defer func() { <-u.reading }()
	if u.stopped.Load() || u.closed.Load() {
		return 0, errStopped
	}
	if !u.state.CompareAndSwap(fresh, touched) && u.state.Load() == sealed {
		return 0, errStopped
	}
	u.watch.await(requestTrack, clientSide)
	n, err := u.read(p)
	u.bytes.Add(int64(n))
	if err == nil {
		u.watch.await(requestTrack, upstreamSide)
		if u.closed.Load() {
			u.watch.await(requestTrack, nobody) // Close may have been first
		}
		return n, nil
	}
	u.watch.await(requestTrack, nobody) // ResponseHeader takes over
	if err == io.EOF {
		u.ended.Store(true)
	} else if !u.closed.Load() {
		failure := err // a copy: the address of err would cost every Read an allocation
		u.err.CompareAndSwap(nil, &failure)
	}
	return n, err
}

func (u *upload) read(p []byte) (int, error) {
	if u.replay == nil {
		return u.src.Read(p)
	}
	n, err := u.replay.read(u.src, u.at, p)
	u.at += n
	return n, err
}

// Close does not close src, because another attempt or the fallback may want
// it. The server does.
func (u *upload) Close() error {
	u.closed.Store(true)
	if !u.retired() {
		u.watch.await(requestTrack, nobody)
	}
	return nil
}

// retired reports whether the track is another attempt's now.
func (u *upload) retired() bool { return u.stopped.Load() || u.state.Load() == sealed }

// unfinished reports whether the client may still be sending.
func (u *upload) unfinished() bool { return u != nil && !u.ended.Load() }

// stop ends a Read that is under way, by a deadline in the past, and lets no
// other begin. The server must not find one when the handler ends: it would
// wait for it, lift the deadline, and then read what is left of the body without
// any, for as long as the client likes.
func (u *upload) stop(rc *http.ResponseController) {
	u.stopped.Store(true)
	if rc.SetReadDeadline(past) != nil {
		return
	}
	select {
	case u.reading <- struct{}{}:
		<-u.reading
	case <-time.After(lastFlush): // a body of middleware's that does not heed it
	}
}
