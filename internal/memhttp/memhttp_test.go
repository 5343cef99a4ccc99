package memhttp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/internal/memhttp"
)

// A handler that takes an hour takes next to no time: the bubble's clock moves as
// soon as everybody waits.
func TestFakeTime(t *testing.T) {
	realStart := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			io.WriteString(w, "slow")
		}))
		start := time.Now()
		if got := get(t, s, "/"); got != "slow" {
			t.Errorf("body = %q, want slow", got)
		}
		if got := time.Since(start); got != time.Hour {
			t.Errorf("took %v in the bubble, want 1h", got)
		}
	})
	if got := time.Since(realStart); got > 10*time.Minute {
		t.Errorf("took %v outside of the bubble, want next to none", got)
	}
}

func get(t *testing.T, s *memhttp.Server, path string) string {
	t.Helper()
	res, err := s.Client().Get(s.URL + path)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// Bodies larger than any buffer, both ways at once.
func TestLargeBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		}))
		body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		res, err := s.Client().Post(s.URL, "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(body))
		}
	})
}

// What is flushed arrives before the handler goes on.
func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "tick")
			http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
			io.WriteString(w, "tock")
		}))
		start := time.Now()
		res, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		tick := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, tick); err != nil || time.Since(start) != 0 {
			t.Errorf("tick = %q, %v after %v, want it at once", tick, err, time.Since(start))
		}
		if tock, err := io.ReadAll(res.Body); string(tock) != "tock" || err != nil || time.Since(start) != time.Hour {
			t.Errorf("tock = %q, %v after %v, want it after an hour", tock, err, time.Since(start))
		}
	})
}

// A client that leaves is noticed, as over a socket.
func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 1)
		s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			<-r.Context().Done()
			left <- time.Since(start)
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Client().Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Do = %v, want %v", err, context.DeadlineExceeded)
		}
		if got := <-left; got != 3*time.Second {
			t.Errorf("the handler noticed after %v, want 3s", got)
		}
	})
}

// Connections have addresses that parse, with a port each.
func TestRemoteAddr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			io.WriteString(w, r.RemoteAddr)
		}))
		first := make(chan string)
		go func() { first <- get(t, s, "/") }()
		second := get(t, s, "/")
		if got := <-first; got == second {
			t.Errorf("two connections at once both come from %s", got)
		}
		if addr, err := netip.ParseAddrPort(second); err != nil || !addr.Addr().IsLoopback() {
			t.Errorf("RemoteAddr = %q, %v, want one of the loopback", second, err)
		}
	})
}

// It works without a bubble too.
func TestOutsideBubble(t *testing.T) {
	s := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.ToUpper(r.URL.Path))
	}))
	if got := get(t, s, "/a"); got != "/A" {
		t.Errorf("body = %q, want /A", got)
	}
}
