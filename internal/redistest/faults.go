//go:build unix

package redistest

import (
	"strings"
)

// Busy blocks the server with a script that writes nothing, so that most
// commands are answered BUSY from now on. The function returned kills the
// script. Meanwhile the server takes a whole processor.
func (s *Server) Busy() (end func()) {
	s.t.Helper()
	s.Do("CONFIG", "SET", "busy-reply-threshold", "1")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.TryDo("EVAL", "while true do end", "0") // killed: always an error
	}()
	s.awaitError("BUSY")
	return func() {
		s.t.Helper()
		s.Do("SCRIPT", "KILL")
		<-ended
	}
}

// Loading makes the server read its data anew, and take its time, so that most
// commands are answered LOADING from now on. The function returned lets it get
// done. The data remains, with some keys more.
func (s *Server) Loading() (end func()) {
	s.t.Helper()
	// The server listens once a kilobyte, and one key takes 10 ms: ten seconds.
	s.Do("EVAL", `for i = 1, 1000 do redis.call("SET", "redistest:" .. i, string.rep(i, 1000)) end`, "0")
	s.Do("CONFIG", "SET", "loading-process-events-interval-bytes", "1024", "rdbcompression", "no", "key-load-delay", "10000")
	ended := make(chan error)
	go func() {
		_, err := s.TryDo("DEBUG", "RELOAD")
		ended <- err
	}()
	s.awaitError("LOADING")
	return func() {
		s.t.Helper()
		s.Do("CONFIG", "SET", "key-load-delay", "0")
		if err := <-ended; err != nil {
			s.t.Fatalf("redistest: DEBUG RELOAD at %s: %v", s.Addr(), err)
		}
	}
}

func (s *Server) awaitError(prefix string) {
	s.t.Helper()
	await(s.t, "an error "+prefix, func() bool {
		_, err := s.TryDo("PING")
		return err != nil && strings.HasPrefix(err.Error(), prefix)
	})
}
