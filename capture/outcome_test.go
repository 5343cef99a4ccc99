package capture_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/capture"
)

func TestOutcomeClientGone(t *testing.T) {
	t.Run("while the handler works", func(t *testing.T) {
		s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		c := must(dial(srv.URL))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.Close()
		if x := s.next(t); x.Outcome != capture.OutcomeClientGone {
			t.Errorf("got %s", x.Outcome)
		}
	})
	t.Run("in the middle of its upload", func(t *testing.T) {
		s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
		c := must(dial(srv.URL))
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		c.Close()
		if x := s.next(t); x.Outcome != capture.OutcomeClientGone || x.Request.Body.Complete || x.Request.Body.Size != 4 {
			t.Errorf("got %s, %+v", x.Outcome, x.Request.Body)
		}
	})
	t.Run("in the middle of its download", func(t *testing.T) {
		s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					panic(http.ErrAbortHandler) // as httputil.ReverseProxy does
				}
			}
		})
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if x := s.next(t); x.Outcome != capture.OutcomeClientGone || x.Response.Body.Size == 0 {
			t.Errorf("got %s, %+v", x.Outcome, x.Response.Body)
		}
	})
	t.Run("over HTTP/2", func(t *testing.T) {
		s := newShelf()
		started := make(chan bool)
		srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(started)
			<-r.Context().Done()
		})))
		srv.EnableHTTP2 = true
		srv.StartTLS()
		defer srv.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-started; cancel() }()
		if _, err := srv.Client().Do(must(http.NewRequestWithContext(ctx, "GET", srv.URL, nil))); err == nil {
			t.Error("the request succeeded")
		}
		if x := s.next(t); x.Outcome != capture.OutcomeClientGone || x.Proto != "HTTP/2.0" {
			t.Errorf("got %s over %s", x.Outcome, x.Proto)
		}
	})
	t.Run("but after all of it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		x, _ := record(t, nil, get("/").WithContext(ctx), func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "2")
			io.WriteString(w, "ok")
			cancel() // the client has what it came for, and closes
		})
		if x.Outcome != capture.OutcomeOK {
			t.Errorf("got %s, want ok", x.Outcome)
		}
	})
	t.Run("not by a deadline of ours", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			x, _ := record(t, nil, get("/").WithContext(ctx), func(w http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				http.Error(w, "upstream too slow", http.StatusGatewayTimeout)
			})
			if x.Outcome != capture.OutcomeOK {
				t.Errorf("got %s, want ok", x.Outcome)
			}
		})
	})
}

// A read deadline of the handler's own ends the context of an HTTP/1 connection.
// The client is there, and gets its answer.
func TestOutcomeReadDeadline(t *testing.T) {
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		if _, err := r.Body.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read returned %v", err)
		}
		<-r.Context().Done()
		http.Error(w, "too slow", http.StatusRequestTimeout)
	})
	c := must(dial(srv.URL))
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
	if x := s.next(t); x.Outcome != capture.OutcomeOK || x.Status != 408 || x.Side != "" {
		t.Errorf("got %s, %d, side %q; want ok", x.Outcome, x.Status, x.Side)
	}
}

func TestOutcomeWriteError(t *testing.T) {
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Millisecond))
		time.Sleep(10 * time.Millisecond)
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	if resp, err := srv.Client().Get(srv.URL); err == nil {
		resp.Body.Close()
	}
	if x := s.next(t); x.Outcome != capture.OutcomeWriteError {
		t.Errorf("past the write deadline: %s", x.Outcome)
	}

	s, srv = server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, err := io.WriteString(w, "too long")
		if !errors.Is(err, http.ErrContentLength) {
			t.Errorf("Write returned %v", err)
		}
	})
	if resp, err := srv.Client().Get(srv.URL); err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if x := s.next(t); x.Outcome != capture.OutcomeWriteError || x.Response.Body.Declared != 2 {
		t.Errorf("more than the Content-Length: %s, %+v", x.Outcome, x.Response.Body)
	}
}

func TestSideAndPhase(t *testing.T) {
	cut := func() io.Reader { // a body that ends before it should
		return io.MultiReader(strings.NewReader("half"), errReader{io.ErrUnexpectedEOF})
	}
	for _, c := range []struct {
		name    string
		body    io.Reader
		h       func(w http.ResponseWriter, r *http.Request, leave func())
		outcome capture.Outcome
		side    capture.Side
		phase   capture.Phase
	}{
		{"well", nil, func(w http.ResponseWriter, r *http.Request, _ func()) { io.WriteString(w, "ok") }, "ok", "", ""},
		{"implicit", nil, func(http.ResponseWriter, *http.Request, func()) {}, "implicit", "", ""},
		{"panic at once", strings.NewReader("x"), func(http.ResponseWriter, *http.Request, func()) { panic("x") }, "panic", "server", "request"},
		{"panic, nothing to read", nil, func(http.ResponseWriter, *http.Request, func()) { panic("x") }, "panic", "server", "waiting"},
		{"panic after reading", strings.NewReader("x"), func(w http.ResponseWriter, r *http.Request, _ func()) {
			io.Copy(io.Discard, r.Body)
			panic("x")
		}, "panic", "server", "waiting"},
		{"abort in the body", nil, func(w http.ResponseWriter, r *http.Request, _ func()) {
			io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}, "abort", "server", "response"},
		{"upload cut", cut(), func(w http.ResponseWriter, r *http.Request, _ func()) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(400) // which does not make it later
		}, "client_gone", "client", "request"},
		{"left while waiting", nil, func(w http.ResponseWriter, r *http.Request, leave func()) { leave() }, "client_gone", "client", "waiting"},
		{"left while waiting, answered", nil, func(w http.ResponseWriter, r *http.Request, leave func()) {
			leave()
			http.Error(w, "nobody reads this", 499)
		}, "client_gone", "client", "waiting"},
		{"left while waiting, answered with a length", nil, func(w http.ResponseWriter, r *http.Request, leave func()) {
			leave()
			w.Header().Set("Content-Length", "2") // all of it is accepted by a buffer
			w.WriteHeader(499)
			io.WriteString(w, "no")
		}, "client_gone", "client", "waiting"},
		{"left in the download", nil, func(w http.ResponseWriter, r *http.Request, leave func()) {
			io.WriteString(w, "half")
			leave()
		}, "client_gone", "client", "response"},
		{"too long an answer", nil, func(w http.ResponseWriter, r *http.Request, _ func()) {
			failing(w, http.ErrContentLength)
			w.Write([]byte("x"))
		}, "write_error", "server", "response"},
		{"connection broke", nil, func(w http.ResponseWriter, r *http.Request, _ func()) {
			failing(w, io.ErrClosedPipe)
			w.Write([]byte("x"))
		}, "write_error", "client", "response"},
	} {
		ctx, leave := context.WithCancel(t.Context())
		w := &failingWriter{ResponseWriter: httptest.NewRecorder()}
		x := recordOn(t, w, nil, httptest.NewRequestWithContext(ctx, "POST", "/", c.body), func(outer http.ResponseWriter, r *http.Request) {
			c.h(outer, r, leave)
		})
		leave()
		if x.Outcome != c.outcome || x.Side != c.side || x.Phase != c.phase {
			t.Errorf("%s: %q, side %q, phase %q; want %q, %q, %q", c.name, x.Outcome, x.Side, x.Phase, c.outcome, c.side, c.phase)
		}
	}
}

// failing makes the failingWriter behind w fail.
func failing(w http.ResponseWriter, err error) {
	w.(interface{ Unwrap() http.ResponseWriter }).Unwrap().(*failingWriter).err = err
}

// A proxy whose upstream breaks off aborts, so that its client notices.
func TestSideAndPhaseBehindAProxy(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer upstream.Close()
	target := must(url.Parse(upstream.URL))
	s, srv := server(t, nil, (&httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: discardLog(),
	}).ServeHTTP)
	resp, err := srv.Client().Get(srv.URL)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("the client did not notice")
	}
	if x := s.next(t); x.Outcome != capture.OutcomeAbort || x.Side != capture.SideServer || x.Phase != capture.PhaseResponse || x.Response.Body.Size != 4 {
		t.Errorf("%s, side %q, phase %q, %+v", x.Outcome, x.Side, x.Phase, x.Response.Body)
	}
}

// To reset an HTTP/2 stream cancels its request's context, as the client does by
// leaving. What came first is told, and whatever recovers the panic does not
// make half an answer a whole one.
func TestOutcomeOfACutOverHTTP2(t *testing.T) {
	cut := func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
	}
	left := make(chan struct{})
	for name, c := range map[string]struct {
		h       http.HandlerFunc
		outcome capture.Outcome
		side    capture.Side
	}{
		"cut, and aborted": {func(w http.ResponseWriter, r *http.Request) {
			cut(w, r)
			<-r.Context().Done() // always, not by chance
			panic(http.ErrAbortHandler)
		}, "abort", "server"},
		"cut, and recovered": {func(w http.ResponseWriter, r *http.Request) {
			cut(w, r)
			<-r.Context().Done()
		}, "abort", "server"},
		"cut, and still writing": {func(w http.ResponseWriter, r *http.Request) {
			cut(w, r)
			<-r.Context().Done()
			if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write: %v", err)
			}
		}, "abort", "server"},
		"left, and cut": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			left <- struct{}{}
			<-r.Context().Done()
			http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
			panic(http.ErrAbortHandler)
		}, "client_gone", "client"},
		"a deadline to come": {func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour))
		}, "implicit", ""},
		"a whole answer, and then cut": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			cut(w, r)
			<-r.Context().Done()
		}, "ok", ""},
	} {
		s := newShelf()
		srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(c.h))
		srv.Config.ErrorLog = discardLog()
		srv.EnableHTTP2 = true
		srv.StartTLS()
		ctx, cancel := context.WithCancel(t.Context())
		if strings.HasPrefix(name, "left") {
			go func() { <-left; cancel() }()
		}
		if resp, err := srv.Client().Do(must(http.NewRequestWithContext(ctx, "GET", srv.URL, nil))); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		if x := s.next(t); x.Outcome != c.outcome || x.Side != c.side {
			t.Errorf("%s: %q, side %q; want %q, %q", name, x.Outcome, x.Side, c.outcome, c.side)
		}
		cancel()
		srv.Close()
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// failingWriter fails to write once err is set.
type failingWriter struct {
	http.ResponseWriter
	err error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	return w.ResponseWriter.Write(p)
}

func TestLive(t *testing.T) {
	var nobody *capture.Live
	nobody.Set("a", "b")
	nobody.Refused("x")
	nobody.Skip()
	if live := capture.From(t.Context()); live != nil {
		t.Errorf("From without a recording is %v", live)
	}

	var kept *capture.Live
	budget := capture.NewBudget(1 << 20)
	x, _ := record(t, &capture.Options{Budget: budget}, post("text/plain", "in"), func(w http.ResponseWriter, r *http.Request) {
		kept = capture.From(r.Context())
		for i := range 100 {
			kept.Set(strings.Repeat("k", i), "v")
		}
		kept.Set("", "replaced")
		kept.Set("k", strings.Repeat("é", 1000))
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "out")
		if budget.InUse() == 0 {
			t.Error("nothing captured before Skip")
		}
		kept.Skip()
		if n := budget.InUse(); n != 0 {
			t.Errorf("%d bytes held after Skip", n)
		}
		io.WriteString(w, "more")
	})
	if len(x.Attributes) != 32 || x.Attributes[0].Value != "replaced" || x.Attributes[1].Value != strings.Repeat("é", 512) {
		t.Errorf("attributes %v", x.Attributes)
	}
	if x.Request.Body.Skipped != capture.SkipSampledOut || x.Response.Body.Skipped != capture.SkipSampledOut ||
		x.Response.Body.Size != 7 || x.Request.Body.Size != 2 {
		t.Errorf("skipped bodies %+v %+v", x.Request.Body, x.Response.Body)
	}
	kept.Set("late", "x")
	kept.Refused("late")
	if len(x.Attributes) != 32 || x.RefusedBy != "" {
		t.Error("the record changed after its end")
	}

	// Skip before the header concerns what comes.
	x, _ = record(t, nil, get("/"), func(w http.ResponseWriter, r *http.Request) {
		capture.From(r.Context()).Skip()
		io.WriteString(w, "text")
	})
	if b := x.Response.Body; b.Skipped != capture.SkipSampledOut || b.Len() != 0 || b.Size != 4 {
		t.Errorf("skipped early: %+v", b)
	}
}

func TestClone(t *testing.T) {
	var clone, again *capture.Exchange
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		clone = x.Clone()
		again = clone.Clone()
		return nil
	})
	capture.Middleware(sink, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		capture.From(r.Context()).Set("a", "b")
		w.WriteHeader(103)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, strings.Repeat("x", 10_000))
	})).ServeHTTP(new(sinkhole), get("/"))
	clone.Attributes[0].Value, clone.Response.Header[0].Value, clone.Informational[0] = "", "", 0
	x := again
	if x.Status != 200 || captured(x.Response.Body) != strings.Repeat("x", 10_000) || x.Attributes[0].Value != "b" ||
		x.Response.Header.Get("content-type") != "text/plain" || x.Informational[0] != 103 {
		t.Errorf("clone of a clone: %+v", x)
	}
}

func TestConstructorsPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"Middleware nil sink":    func() { capture.Middleware(nil, nil) },
		"Middleware nil handler": func() { capture.Middleware(newShelf(), nil)(nil) },
		"Async":                  func() { capture.Async(nil, nil) },
		"JSONL":                  func() { capture.JSONL(nil) },
		"Slog":                   func() { capture.Slog(nil) },
		"NewRing":                func() { capture.NewRing(&capture.RingOptions{Records: -1}) },
	} {
		func() {
			defer func() {
				if v, _ := recover().(string); !strings.HasPrefix(v, "capture: ") {
					t.Errorf("%s: recovered %q", name, v)
				}
			}()
			f()
		}()
	}
}

// A deadline that passes in a flush is one of a write, too.
func TestOutcomeOfAFlushThatFails(t *testing.T) {
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		io.WriteString(w, "a part that is held back")
		rc.SetWriteDeadline(time.Now().Add(time.Millisecond))
		time.Sleep(10 * time.Millisecond)
		if err := rc.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
	})
	if resp, err := srv.Client().Get(srv.URL); err == nil {
		resp.Body.Close()
	}
	if x := s.next(t); x.Outcome != capture.OutcomeWriteError {
		t.Errorf("past the write deadline: %s", x.Outcome)
	}
}
