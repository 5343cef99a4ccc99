package limiter_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/internal/memhttp"
	"github.com/goweir/weir/limiter"
)

func bytesOf(n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * 7 / 3)
	}
	return p
}

// paced serves handler behind a Bandwidth, in memory.
func paced(t *testing.T, opts limiter.BandwidthOptions, handler http.HandlerFunc) (*limiter.Bandwidth, *memhttp.Server) {
	t.Helper()
	b := bandwidth(t, opts)
	return b, memhttp.NewServer(t, b.Middleware()(handler))
}

// A client that leaves, by any means, ends the wait of its handler within 50 ms
// of fake time, with the context's error, and its key's bytes are free for
// others.
func TestBandwidthClientLeaves(t *testing.T) {
	for name, limits := range map[string]limiter.BandwidthLimits{
		"response": {PerResponse: 1}, "key": {PerKey: 1}, "total": {Total: 1},
	} {
		inTime(t, func(t *testing.T) {
			type end struct {
				err  error
				when time.Time
			}
			ended := make(chan end, 1)
			var n notebook
			b, srv := paced(t, limiter.BandwidthOptions{Limits: limits, Key: limiter.KeyByClientIP, Observer: &n}, func(w http.ResponseWriter, r *http.Request) {
				for {
					if _, err := w.Write(make([]byte, 1000)); err != nil {
						ended <- end{err, time.Now()}
						return
					}
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
			go func() {
				if res, err := srv.Client().Do(req); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}()
			time.Sleep(1000 * s)
			if st := b.Stats().Classes[0]; st.Bodies != 1 || (limits.Total > 0) != (st.Waiting == 1) {
				t.Errorf("%s: stats %+v", name, st)
			}
			left := time.Now()
			cancel()
			e := <-ended
			if d := e.when.Sub(left); d > 50*ms || !errors.Is(e.err, context.Canceled) {
				t.Errorf("%s: the wait ended after %v with %v", name, d, e.err)
			}
			synctest.Wait()
			if st := b.Stats().Classes[0]; st.Bodies != 0 || st.Waiting != 0 {
				t.Errorf("%s: afterwards, stats %+v", name, st)
			}
			if events := n.take(); len(events) != 1 || events[0].Result != limiter.OutcomeLeft || events[0].Kind != limiter.EventSent {
				t.Errorf("%s: events %+v", name, events)
			}
		})
	}
}

// Over HTTP/2 and a socket the wait ends as well; how soon is measured in
// benchmarks.
func TestBandwidthClientLeavesHTTP2(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error)
	b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: 1, Total: 1}, Key: limiter.KeyByClientIP})
	srv := httptest.NewUnstartedServer(b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("spoke %s", r.Proto)
		}
		close(began)
		_, err := w.Write(make([]byte, mib))
		ended <- err
	})))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
	go srv.Client().Do(req)
	<-began
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the Write returned %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the Write still waits")
	}
}

// A wait that ends early is the end of a broken response, not of a whole one,
// whatever the handler makes of the error.
func TestBandwidthNeverEndsCleanly(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: kib}})
		h := b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := w.Write(make([]byte, mib)) // chunked
			if n == 0 || n >= int(mib) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Write = %d, %v", n, err)
			}
			// Nothing may follow where something is missing.
			if err := b.SetLimits(limiter.BandwidthLimits{}); err != nil {
				t.Error(err)
			}
			if n, err := w.Write([]byte("x")); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Write after that = %d, %v", n, err)
			}
		}))
		srv := memhttp.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 10*s)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		}))
		res, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		if err == nil || n == 0 {
			t.Errorf("a response that broke after %d bytes ended cleanly", n)
		}
	})
}

// The pace of a slow response is that of what the handler reads from: nothing
// is read ahead but one buffer.
func TestBandwidthIsBackPressure(t *testing.T) {
	inTime(t, func(t *testing.T) {
		var read atomic.Int64
		_, srv := paced(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 100 * kib}}, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, readerFunc(func(p []byte) (int, error) {
				n := min(len(p), 16<<10)
				if read.Load() >= mib {
					return 0, io.EOF
				}
				read.Add(int64(n))
				return n, nil
			}))
		})
		res, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * s)
		if n := read.Load(); n > 100*kib*5+10*kib+64*kib {
			t.Errorf("after 5 s at 100KiB/s the handler had read %d bytes", n)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != read.Load() || err != nil {
			t.Errorf("got %d bytes of %d, %v", n, read.Load(), err)
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Uploads are paced as they are read, with and without Expect: 100-continue,
// and arrive whole.
func TestBandwidthUploads(t *testing.T) {
	for _, expect := range []bool{false, true} {
		inTime(t, func(t *testing.T) {
			want := bytesOf(500 * kib)
			var n notebook
			b, srv := paced(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: 100 * kib}, Bodies: limiter.AllBodies, Observer: &n},
				func(w http.ResponseWriter, r *http.Request) {
					got, err := io.ReadAll(r.Body)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("the handler read %d bytes, %v", len(got), err)
					}
					w.Write(make([]byte, 100*kib))
				})
			start := time.Now()
			req, _ := http.NewRequest("POST", srv.URL, bytes.NewReader(want))
			if expect {
				req.Header.Set("Expect", "100-continue")
			}
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			if d := time.Since(start); d < 5800*ms || d > 6200*ms {
				t.Errorf("expect %v: took %v, want 6s", expect, d)
			}
			synctest.Wait()
			events := n.take()
			if len(events) != 2 || events[0].N != int(100*kib) || events[1].Kind != limiter.EventReceived || events[1].N != len(want) ||
				!events[0].Start.Equal(start) || !near(float64(events[1].Duration), float64(4900*ms), 0.02) {
				t.Errorf("events %+v", events)
			}
			if st := b.Stats().Classes[0]; st.Bytes != 600*kib || st.Waited != events[0].Duration+events[1].Duration {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// An upload whose wait ends early does not look whole.
func TestBandwidthUploadLeft(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: kib}, Bodies: limiter.RequestBodies})
		ctx, cancel := context.WithTimeout(t.Context(), s)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, "POST", "/", bytes.NewReader(make([]byte, 2*kib)))
		b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if _, err := w.Write(make([]byte, mib)); err != nil { // not paced
				t.Errorf("Write: %v", err)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	})
}

// Exempt is what the options say, and nothing is paced that is not sent.
func TestBandwidthExempt(t *testing.T) {
	events := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "Text/Event-Stream; charset=utf-8")
		for range 100 {
			w.Write(make([]byte, kib))
		}
	}
	plain := func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 100*kib)) }
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		method  string
		exempt  bool
		paced   bool
	}{
		{"events", events, "GET", false, true},
		{"events, exempt", events, "GET", true, false},
		{"no events", plain, "GET", true, true},
		{"HEAD", plain, "HEAD", false, false},
	} {
		inTime(t, func(t *testing.T) {
			var n notebook
			b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 10 * kib, Total: 10 * kib}, ExemptEvents: tt.exempt, Observer: &n})
			start := time.Now()
			b.Middleware()(tt.handler).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(tt.method, "/", nil))
			if d := time.Since(start); (d > 9*s) != tt.paced {
				t.Errorf("%s: took %v", tt.name, d)
			}
			if events := n.take(); (len(events) == 1) != tt.paced {
				t.Errorf("%s: events %+v", tt.name, events)
			}
		})
	}
}

// Nobody is unpaced when there are too many keys, memory stays bounded, and who
// is idle is forgotten once its bucket is full, not before.
func TestBandwidthMaxKeys(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: 100 * kib}, Key: limiter.KeyByHeader("X-Key"), MaxKeys: 2})
		var downloads []download
		for _, key := range []string{"a", "a", "b", "c", "d", "e", "c"} {
			downloads = append(downloads, download{target: "/", header: key})
			// The first two keys come first.
		}
		time.AfterFunc(500*ms, func() {
			if st := b.Stats(); st.Keys != 2 {
				t.Errorf("%d keys, want 2", st.Keys)
			}
		})
		early := make(chan []int64)
		go func() { early <- run(t, b, 10*s, downloads[:3]...) }()
		synctest.Wait()
		late := run(t, b, 9*s, downloads[3:]...)
		first := <-early
		if !near(float64(first[0]+first[1]), float64(1000*kib), 0.02) || !near(float64(first[2]), float64(1000*kib), 0.02) {
			t.Errorf("the first keys got %v", first)
		}
		if !near(float64(sum(late)), float64(900*kib), 0.02) {
			t.Errorf("all others together got %d, want %d", sum(late), 900*kib)
		}
		if st := b.Stats(); st.Keys != 2 {
			t.Errorf("%d keys right after, want 2: their buckets are empty", st.Keys)
		}
		time.Sleep(s)
		if st := b.Stats(); st.Keys != 0 {
			t.Errorf("%d keys a second later, want 0", st.Keys)
		}
	})
}

// Coming back does not fill the bucket of a key.
func TestBandwidthReconnecting(t *testing.T) {
	inTime(t, func(t *testing.T) {
		b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: 100 * kib}, Key: limiter.KeyByHeader("X-Key")})
		h := b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 10*kib)) }))
		start := time.Now()
		for range 100 {
			r := request(t)
			r.Header.Set("X-Key", "a")
			h.ServeHTTP(httptest.NewRecorder(), r)
		}
		if d := time.Since(start); d < 9800*ms || d > 10*s {
			t.Errorf("100 times 10 KiB at 100KiB/s took %v", d)
		}
	})
}

// A connection that was taken over draws on the same rates: its writes and
// reads arrive whole, at the pace, until it is closed.
func TestBandwidthHijack(t *testing.T) {
	for _, exempt := range []bool{false, true} {
		inTime(t, func(t *testing.T) {
			var n notebook
			sent, received := bytesOf(500*kib), bytesOf(300*kib)
			done := make(chan struct{})
			b, srv := paced(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: 100 * kib}, Key: limiter.KeyByClientIP,
				Bodies: limiter.AllBodies, ExemptUpgrades: exempt, Observer: &n},
				func(w http.ResponseWriter, r *http.Request) {
					conn, brw, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					go func() {
						defer close(done)
						defer conn.Close()
						brw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
						brw.Flush()
						got := make([]byte, len(received))
						if _, err := io.ReadFull(brw, got); err != nil || !bytes.Equal(got, received) {
							t.Errorf("read: %v", err)
						}
						if n, err := conn.Write(sent); n != len(sent) || err != nil {
							t.Errorf("wrote %d bytes, %v", n, err)
						}
					}()
				})
			start := time.Now()
			req, _ := http.NewRequest("GET", srv.URL, nil)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "test")
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			up := res.Body.(io.ReadWriteCloser)
			go up.Write(received)
			got, err := io.ReadAll(up)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			<-done
			up.Close()
			synctest.Wait()
			if d := time.Since(start); !exempt && (d < 7800*ms || d > 8200*ms) || exempt && d > s {
				t.Errorf("exempt %v: took %v", exempt, d)
			}
			if st := b.Stats().Classes[0]; st.Bodies != 0 {
				t.Errorf("afterwards, stats %+v", st)
			}
			if events := n.take(); !exempt && (len(events) != 2 || events[0].N < len(sent) || events[1].N != len(received)) {
				t.Errorf("events %+v", events)
			}
		})
	}
}

// Close and deadlines end the waits of a connection, as they end its writes.
func TestBandwidthHijackedWaitsEnd(t *testing.T) {
	inTime(t, func(t *testing.T) {
		for name, end := range map[string]func(net.Conn){
			"Close":            func(c net.Conn) { c.Close() },
			"SetDeadline":      func(c net.Conn) { c.SetDeadline(time.Now()) },
			"SetWriteDeadline": func(c net.Conn) { c.SetWriteDeadline(time.Now().Add(time.Millisecond)) },
		} {
			server, client := net.Pipe()
			go io.Copy(io.Discard, client)
			b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: 1}})
			b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Fatal(err)
				}
				conn.SetWriteDeadline(time.Now().Add(time.Minute))
				conn.SetWriteDeadline(time.Now().Add(time.Hour))
				start := time.Now()
				time.AfterFunc(10*time.Minute, func() { end(conn) })
				_, err = conn.Write(make([]byte, mib))
				if want := map[bool]error{true: net.ErrClosed, false: os.ErrDeadlineExceeded}[name == "Close"]; !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
				if d := time.Since(start); d < 10*time.Minute || d > 10*time.Minute+50*ms {
					t.Errorf("%s: ended after %v", name, d)
				}
				if inner := conn.(interface{ NetConn() net.Conn }).NetConn(); inner != server {
					t.Errorf("NetConn() = %v", inner)
				}
				conn.Close()
			})).ServeHTTP(&tappedConn{tap{header: http.Header{}}, server}, request(t))
			if st := b.Stats().Classes[0]; st.Bodies != 0 || st.Waiting != 0 {
				t.Errorf("%s: afterwards, stats %+v", name, st)
			}
			client.Close()
		}
	})
}

type tappedConn struct {
	tap
	conn net.Conn
}

func (h *tappedConn) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// A panic and an abort give everything back too.
func TestBandwidthPanic(t *testing.T) {
	b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: mib, PerRoute: mib, Total: mib}, Key: limiter.KeyGlobal, Unkeyed: limiter.SkipUnkeyed})
	for _, value := range []any{"broken", http.ErrAbortHandler} {
		func() {
			defer func() {
				if got := recover(); got != value {
					t.Errorf("recovered %v, want %v", got, value)
				}
			}()
			b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Write([]byte("x"))
				panic(value)
			})).ServeHTTP(httptest.NewRecorder(), request(t))
		}()
	}
	// Of a connection that was taken over too, which nobody may be left to close.
	server, client := net.Pipe()
	defer client.Close()
	func() {
		defer func() { recover() }()
		b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, _, err := w.(http.Hijacker).Hijack(); err != nil {
				t.Error(err)
			}
			panic("broken")
		})).ServeHTTP(&tappedConn{tap{header: http.Header{}}, server}, request(t))
	}()
	if st := b.Stats().Classes[0]; st.Bodies != 0 {
		t.Errorf("stats %+v", st)
	}
}

// Whatever is done to a response, it arrives as without the middleware: over
// HTTP/1.1 and HTTP/2, header, trailers and all.
func FuzzBandwidthIsTransparent(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	limits := limiter.BandwidthLimits{PerResponse: 40 * mib, PerKey: 30 * mib, PerRoute: 50 * mib, Total: 60 * mib}
	script := func(w http.ResponseWriter, r *http.Request) {
		var seed uint64
		fmt.Sscan(r.Header.Get("X-Seed"), &seed)
		play(rand.New(rand.NewPCG(seed, 0)), w, r)
	}
	b := bandwidth(f, limiter.BandwidthOptions{Limits: limits, Key: limiter.KeyGlobal, Unkeyed: limiter.SkipUnkeyed, Bodies: limiter.AllBodies, Free: 100})
	route := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { r.Pattern = "/"; h.ServeHTTP(w, r) })
	}
	servers := map[string][2]*httptest.Server{}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		var two [2]*httptest.Server
		for i, h := range []http.Handler{http.HandlerFunc(script), b.Middleware()(http.HandlerFunc(script))} {
			two[i] = httptest.NewUnstartedServer(route(h))
			if proto == "HTTP/2.0" {
				two[i].EnableHTTP2 = true
				two[i].StartTLS()
			} else {
				two[i].Start()
			}
			f.Cleanup(two[i].Close)
		}
		servers[proto] = two
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		all, aborts := rehearse(seed)
		for proto, two := range servers {
			got := exchange(t, two[1], seed)
			if aborts {
				// How much arrives of what is aborted is not promised.
				if !bytes.HasPrefix(all, got.body) {
					t.Errorf("seed %d, %s: %d bytes that were never sent", seed, proto, len(got.body))
				}
				continue
			}
			want := exchange(t, two[0], seed)
			if want.proto != proto || !want.whole || !bytes.Equal(want.body, all) {
				t.Fatalf("seed %d, %s: unpaced %v", seed, proto, want)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("seed %d, %s:\n got %v\nwant %v", seed, proto, got, want)
			}
		}
	})
}

// rehearse returns what play writes, and whether it aborts.
func rehearse(seed uint64) (body []byte, aborts bool) {
	w := writerFunc(func(p []byte) (int, error) {
		body = append(body, p...)
		return len(p), nil
	})
	defer func() { aborts = recover() != nil }()
	play(rand.New(rand.NewPCG(seed, 0)), w, httptest.NewRequest("POST", "/", nil))
	return body, false
}

// play answers in a way that rng chooses, and echoes what it read in a trailer.
func play(rng *rand.Rand, w http.ResponseWriter, r *http.Request) {
	if rng.IntN(4) == 0 {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(103)
	}
	body := bytesOf(rng.Int64N([]int64{1, 600, 3000, 200_000}[rng.IntN(4)]))
	if rng.IntN(2) == 0 {
		w.Header().Set("Trailer", "X-Sum")
	}
	if rng.IntN(3) == 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	if rng.IntN(3) == 0 {
		w.WriteHeader([]int{200, 404, 206}[rng.IntN(3)])
	}
	read, err := io.ReadAll(r.Body)
	for len(body) > 0 {
		n := 1 + rng.IntN(len(body))
		if rng.IntN(2) == 0 {
			n = min(n, 700)
		}
		switch rng.IntN(5) {
		case 0:
			io.WriteString(w, string(body[:n]))
		case 1:
			io.CopyN(w, bytes.NewReader(body), int64(n))
		case 2:
			io.Copy(w, readerFunc(bytes.NewReader(body[:n]).Read))
		default:
			w.Write(body[:n])
		}
		body = body[n:]
		if rng.IntN(4) == 0 {
			http.NewResponseController(w).Flush()
		}
	}
	if rng.IntN(5) == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Sum", fmt.Sprint(len(read), err))
}

type answer struct {
	proto, status string
	header        http.Header
	trailer       http.Header
	length        int64
	encoding      []string
	body          []byte
	whole         bool
}

func (a answer) String() string {
	return fmt.Sprintf("%s %v %v length %d %v, body %d, whole %v", a.status, a.header, a.trailer, a.length, a.encoding, len(a.body), a.whole)
}

func exchange(t *testing.T, srv *httptest.Server, seed uint64) answer {
	t.Helper()
	req, _ := http.NewRequest("POST", srv.URL, bytes.NewReader(bytesOf(int64(seed%70_000))))
	req.Header.Set("X-Seed", fmt.Sprint(seed))
	// What follows an abort is not to be lost with its connection.
	req.Close = !srv.EnableHTTP2
	res, err := srv.Client().Do(req)
	if err != nil {
		return answer{}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	res.Header.Del("Date")
	return answer{res.Proto, res.Status, res.Header, res.Trailer, res.ContentLength, res.TransferEncoding, body, err == nil}
}

// Slices of any size, drawn on by any number of bodies, neither lose nor invent
// bytes: what passes never exceeds the bucket and the rate.
func TestBandwidthNeverExceeds(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		inTime(t, func(t *testing.T) {
			rate := 512 + rng.Int64N(1<<(10+rng.IntN(18)))
			b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: rate, Classes: highLow(1+rng.Int64N(5), 1+rng.Int64N(5))}, Class: byPath})
			var passed, worst atomic.Int64
			start := time.Now()
			var wg sync.WaitGroup
			for i := range 1 + rng.IntN(8) {
				size, left := 1+rng.Int64N(5*rate), time.Duration(rng.Int64N(int64(3*s)))
				many := rng.IntN(2) == 0
				wg.Go(func() {
					time.Sleep(left / 3)
					ctx, cancel := context.WithTimeout(t.Context(), left)
					defer cancel()
					r := request(t).WithContext(ctx)
					r.URL.Path = []string{"/high", "/low"}[i%2]
					w := writerFunc(func(p []byte) (int, error) {
						n := passed.Add(int64(len(p)))
						allowed := max(rate/10, 512, (rate+15999)/16000) + int64(time.Since(start).Seconds()*float64(rate))
						worst.Store(max(worst.Load(), n-allowed))
						return len(p), nil
					})
					defer func() {
						if e := recover(); e != nil && e != http.ErrAbortHandler {
							panic(e)
						}
					}()
					b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						for range 50 {
							if !many {
								w.Write(make([]byte, size))
								return
							}
							w.Write(make([]byte, min(size, 3000)))
						}
					})).ServeHTTP(w, r)
				})
			}
			wg.Wait()
			if worst.Load() > 1 {
				t.Errorf("seed %d: at %d a second, %d bytes too many", seed, rate, worst.Load())
			}
			if st := b.Stats(); st.Classes[0].Bytes+st.Classes[1].Bytes != passed.Load() || st.Classes[0].Waiting+st.Classes[1].Waiting != 0 {
				t.Errorf("seed %d: %d passed, stats %+v", seed, passed.Load(), st)
			}
		})
	}
}

// Nor does it on many threads, where the clock is read by all of them at once
// (golang/go#65508).
func TestBandwidthNeverExceedsUnderContention(t *testing.T) {
	const rate = 256 * mib
	b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerKey: rate, Total: rate}, Key: limiter.KeyGlobal})
	ctx, cancel := context.WithCancel(t.Context())
	var passed atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 256 {
		wg.Go(func() {
			defer func() { recover() }()
			b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for page := make([]byte, 4<<10); ; {
					if _, err := w.Write(page); err != nil {
						return
					}
				}
			})).ServeHTTP(writerFunc(func(p []byte) (int, error) { passed.Add(int64(len(p))); return len(p), nil }), request(t).WithContext(ctx))
		})
	}
	time.Sleep(500 * time.Millisecond)
	cancel()
	wg.Wait()
	most := float64(rate) * (0.1 + time.Since(start).Seconds())
	t.Logf("%.3f of the most that may pass", float64(passed.Load())/most)
	if got := float64(passed.Load()); got > most {
		t.Errorf("%.0f bytes passed, %.4f of what may", got, got/most)
	}
}

// A rate is asked for at most 16,000 slices a second, however high it is.
func TestBandwidthSlicesGrow(t *testing.T) {
	for _, rate := range []int64{mib, 1 << 30, 1 << 32} {
		inTime(t, func(t *testing.T) {
			for _, limits := range []limiter.BandwidthLimits{{PerResponse: rate}, {Total: rate}} {
				b := bandwidth(t, limiter.BandwidthOptions{Limits: limits})
				w := &tap{header: http.Header{}}
				start := time.Now()
				b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					for page := make([]byte, rate/16); time.Since(start) < s; {
						w.Write(page)
					}
				})).ServeHTTP(w, request(t))
				per := float64(w.writes) / time.Since(start).Seconds()
				if got := float64(w.n.Load()) / time.Since(start).Seconds(); per > 1.15*16000 || got < 0.99*float64(rate) {
					t.Errorf("%s: %.0f slices a second, %.0f bytes", limiter.FormatByteRate(rate), per, got)
				}
			}
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (writerFunc) Header() http.Header           { return http.Header{} }
func (writerFunc) WriteHeader(int)               {}
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// While nothing limits a response, a Write allocates nothing, and neither does
// one that is paced.
func TestBandwidthAllocations(t *testing.T) {
	p := make([]byte, 4096)
	for name, opts := range map[string]limiter.BandwidthOptions{
		"no limits":    {},
		"exempt":       {Limits: limiter.BandwidthLimits{PerResponse: 1, Total: 1}, ExemptEvents: true},
		"taken away":   {Limits: limiter.BandwidthLimits{PerResponse: 1, Total: 1}},
		"never waited": {Limits: limiter.BandwidthLimits{PerResponse: 1 << 40, Total: 1 << 40}},
	} {
		b := bandwidth(t, opts)
		b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			if name == "taken away" {
				b.SetLimits(limiter.BandwidthLimits{})
			}
			w.Write(p)
			if got := testing.AllocsPerRun(1000, func() { w.Write(p) }); got != 0 {
				t.Errorf("%s: a Write costs %v allocations", name, got)
			}
		})).ServeHTTP(&tap{header: http.Header{}}, request(t))
	}
}

// 10,000 paced streams cost at most 1 KiB each more than unpaced ones: all in
// the midst of a Write, the former waiting for their pace, the latter for their
// clients. Connections are in memory, all else is real. Each kind is measured in a
// process of its own, where nothing has been allocated before.
func TestBandwidthMemory(t *testing.T) {
	const streams, env = 10_000, "WEIR_TEST_BANDWIDTH_MEMORY"
	if kind := os.Getenv(env); kind != "" {
		heap, stack := memoryOfStreams(t, streams, kind == "paced")
		fmt.Printf("%s: %d %d\n", kind, heap, stack)
		return
	}
	if testing.Short() {
		t.Skip("20,000 connections")
	}
	var heap, stack [2]int64
	for i, kind := range []string{"unpaced", "paced"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBandwidthMemory$")
		cmd.Env = append(os.Environ(), env+"="+kind)
		out, err := cmd.CombinedOutput()
		if _, scanned := fmt.Sscanf(string(out), kind+": %d %d", &heap[i], &stack[i]); err != nil || scanned != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s: %d bytes of heap and %d of stacks a stream", kind, heap[i]/streams, stack[i]/streams)
	}
	onHeap, onStack := (heap[1]-heap[0])/streams, (stack[1]-stack[0])/streams
	if onHeap > 1024 || onHeap+onStack > 1024 {
		t.Errorf("a paced stream costs %d more bytes of heap and %d of stacks, want at most 1024", onHeap, onStack)
	}
}

func memoryOfStreams(t *testing.T, streams int, paced bool) (heap, stack int64) {
	page := make([]byte, 64<<10)
	b := bandwidth(t, limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 600, PerKey: mib, Total: 100 * mib}, Key: limiter.KeyGlobal})
	var begun atomic.Int64
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun.Add(1)
		w.Write(page) // which nobody reads
	})
	if paced {
		h = b.Middleware()(h)
	}
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: h}
	served := make(chan error)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // pools let go with the second
	runtime.ReadMemStats(&before)
	go func() { served <- srv.Serve(l) }()
	clients := make([]net.Conn, streams)
	for i := range clients {
		clients[i] = l.dial()
		io.WriteString(clients[i], "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	for begun.Load() < int64(streams) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if st := b.Stats().Classes[0]; paced && (st.Bodies != streams || st.Bytes < 600) {
		t.Fatalf("not paced: %+v", st)
	}
	for _, c := range clients {
		c.Close()
	}
	srv.Close()
	<-served
	return int64(after.HeapAlloc - before.HeapAlloc), int64(after.StackInuse - before.StackInuse)
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A file reaches the inner ReadFrom as the file that it is, whole or in slices:
// see the test of package respwriter that asks the kernel about sendfile.
func TestBandwidthFileReachesReadFrom(t *testing.T) {
	const size = 10 << 20
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, bytesOf(size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		opts   limiter.BandwidthOptions
		slices bool
	}{
		{"no limits", limiter.BandwidthOptions{}, false},
		{"exempt", limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{Total: 1}, ExemptEvents: true}, false},
		{"paced", limiter.BandwidthOptions{Limits: limiter.BandwidthLimits{PerResponse: 100 * mib, Total: 100 * mib}, Free: 1000}, true},
	} {
		w := &filesOnly{tap: tap{header: http.Header{"Content-Type": {"text/event-stream"}}}}
		b := bandwidth(t, tt.opts)
		b.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, path)
		})).ServeHTTP(w, request(t))
		if w.n.Load() != size || w.other != 0 || (w.calls > 1) != tt.slices {
			t.Errorf("%s: %d bytes in %d calls of ReadFrom, %d of them not of a file", tt.name, w.n.Load(), w.calls, w.other)
		}
	}
}

// filesOnly looks at what comes by ReadFrom as net does before it calls
// sendfile.
type filesOnly struct {
	tap
	calls, other int
}

func (f *filesOnly) ReadFrom(src io.Reader) (int64, error) {
	f.calls++
	file := src
	if limited, ok := src.(*io.LimitedReader); ok {
		file = limited.R
	}
	if _, ok := file.(syscall.Conn); !ok {
		f.other++
	}
	return io.Copy(&f.tap, src)
}
