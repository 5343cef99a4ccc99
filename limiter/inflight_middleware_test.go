package limiter_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/internal/memhttp"
	"github.com/goweir/weir/limiter"
)

// full returns an InFlight without a free slot.
func full(t *testing.T, opts limiter.InFlightOptions) *limiter.InFlight {
	t.Helper()
	f := inFlight(t, opts)
	acquire(t, f, limiter.Slot{Key: "k", Weight: 1 << 30})
	return f
}

func byHeader(name string) func(*http.Request) (limiter.Slot, error) {
	key := limiter.KeyByHeader(name)
	return func(r *http.Request) (limiter.Slot, error) {
		k, err := key(r)
		return limiter.Slot{Key: k}, err
	}
}

func TestInFlightRefusal(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   limiter.InFlightOptions
		mw     limiter.Options
		status int
		header http.Header
	}{
		{"default", limiter.InFlightOptions{Max: 3}, limiter.Options{}, 503, http.Header{
			"Retry-After": {"1"}, "Ratelimit": {`"in-flight";r=0`}, "Ratelimit-Policy": {`"in-flight";q=3;qu="concurrent-requests"`}}},
		{"per key", limiter.InFlightOptions{Name: "downloads", Max: 3, MaxPerKey: 2}, limiter.Options{}, 503, http.Header{
			"Retry-After": {"1"}, "Ratelimit": {`"downloads";r=0`}, "Ratelimit-Policy": {`"downloads";q=2;qu="concurrent-requests"`}}},
		{"429", limiter.InFlightOptions{Max: 3}, limiter.Options{InFlightStatus: 429, Headers: limiter.NoHeaders}, 429, http.Header{"Retry-After": {"1"}}},
		{"504", limiter.InFlightOptions{Max: 3}, limiter.Options{InFlightStatus: 504, Headers: limiter.XRateLimit}, 504, http.Header{"Retry-After": {"1"}}},
		{"waited", limiter.InFlightOptions{Max: 3, Queue: 1, MaxWait: 2500 * time.Millisecond}, limiter.Options{}, 503, http.Header{
			"Retry-After": {"3"}, "Ratelimit": {`"in-flight";r=0`}, "Ratelimit-Policy": {`"in-flight";q=3;qu="concurrent-requests"`}}},
		{"overloaded", limiter.InFlightOptions{Max: 4, Overloaded: func() bool { return true }}, limiter.Options{}, 503, http.Header{"Retry-After": {"1"}}},
	} {
		inTime(t, func(t *testing.T) {
			h := full(t, tt.opts).Middleware(byHeader("K"), &tt.mw)(hello)
			res := status(t, h, request(t, "K", "k"), tt.status)
			name := tt.opts.Name
			if name == "" {
				name = "in-flight"
			}
			want := fmt.Sprintf(`{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",`+
				`"title":"Request cannot be satisfied due to temporary server capacity constraints","status":%d,"violated-policies":["%s"]}`, tt.status, name)
			if body, _ := io.ReadAll(res.Body); string(body) != want {
				t.Errorf("%s: body %s\nwant %s", tt.name, body, want)
			}
			tt.header.Set("Content-Type", "application/problem+json")
			tt.header.Set("Content-Length", fmt.Sprint(len(want)))
			tt.header.Set("Cache-Control", "no-store")
			tt.header.Set("X-Content-Type-Options", "nosniff")
			if !reflect.DeepEqual(res.Header, tt.header) {
				t.Errorf("%s: header %v\nwant %v", tt.name, res.Header, tt.header)
			}
		})
	}
}

// The slot is held until the response has ended, however that comes about, and
// given back once.
func TestInFlightHoldsTheSlotUntilTheEnd(t *testing.T) {
	abort := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "some")
			panic(v)
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"empty":      func(http.ResponseWriter, *http.Request) {},
		"body":       func(w http.ResponseWriter, r *http.Request) { io.Copy(w, strings.NewReader("body")) },
		"panic":      abort("a panic"),
		"abort":      abort(http.ErrAbortHandler),
		"panic(nil)": func(http.ResponseWriter, *http.Request) { panic(nil) },
		"departure": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "some")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"1xx": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); w.WriteHeader(204) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				f := inFlight(t, limiter.InFlightOptions{Max: 2})
				entered := make(chan struct{})
				begin := make(chan struct{})
				srv := memhttp.NewServer(t, f.Middleware(nil, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					entered <- struct{}{}
					<-begin
					h(w, r)
				})))
				ctx, cancel := context.WithCancel(t.Context())
				r, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					if res, err := srv.Client().Do(r); err == nil {
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
				}()
				<-entered
				inUse(t, f, 1, 0)
				close(begin)
				synctest.Wait()
				if name == "departure" {
					inUse(t, f, 1, 0)
				}
				cancel()
				<-ended
				synctest.Wait()
				inUse(t, f, 0, 0)
			})
		})
	}
}

// A hijacked connection holds its slot until it is closed, by whomever and
// however often; what the handler gets still has the methods of the connection.
func TestInFlightHijack(t *testing.T) {
	conns := make(chan net.Conn, 1)
	f := inFlight(t, limiter.InFlightOptions{Max: 2})
	h := f.Middleware(nil, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		conns <- conn
		if r.URL.Path == "/panic" {
			panic(http.ErrAbortHandler)
		}
	}))
	plain, encrypted := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer encrypted.Close()
	dial := func(s *httptest.Server, path string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if s == encrypted {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		return c
	}
	for _, s := range []*httptest.Server{plain, encrypted} {
		client := dial(s, "/")
		conn := <-conns
		if _, ok := conn.(interface{ CloseWrite() error }); !ok {
			t.Errorf("%T cannot close one direction", conn)
		}
		if _, ok := conn.(io.ReaderFrom); ok != (s == plain) {
			t.Errorf("%T is a ReaderFrom: %t", conn, ok)
		}
		inUse(t, f, 1, 0) // the handler may have returned by now, or will
		time.Sleep(10 * time.Millisecond)
		inUse(t, f, 1, 0)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { conn.Close() })
		}
		wg.Wait()
		inUse(t, f, 0, 0)
		client.Close()
	}

	// After a panic nobody may be left who closes it.
	client := dial(plain, "/panic")
	defer client.Close()
	conn := <-conns
	defer conn.Close()
	for deadline := time.Now().Add(10 * time.Second); f.Snapshot().InUse > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the slot is held for ever")
		}
	}
}

// pipeConn can close one direction, and is of no type that net has.
type pipeConn struct{ net.Conn }

func (pipeConn) CloseWrite() error { return nil }

func TestInFlightHijackOfOtherConnections(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	for _, conn := range []net.Conn{a, pipeConn{a}} {
		f := inFlight(t, limiter.InFlightOptions{Max: 1})
		var got net.Conn
		h := f.Middleware(nil, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, _, _ = w.(http.Hijacker).Hijack()
		}))
		h.ServeHTTP(&piped{httptest.NewRecorder(), conn}, request(t))
		_, had := conn.(interface{ CloseWrite() error })
		if _, has := got.(interface{ CloseWrite() error }); has != had {
			t.Errorf("%T can close one direction: %t", conn, has)
		}
		inUse(t, f, 1, 0)
		got.Close()
		inUse(t, f, 0, 0)
	}
}

type piped struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (p *piped) Hijack() (net.Conn, *bufio.ReadWriter, error) { return p.conn, nil, nil }

// What is refused in flight costs nothing of the quotas outside, whichever way the
// rules' middleware takes, and behind a middleware that has a header of its own.
func TestInFlightRefusalGivesBackWhatRulesTook(t *testing.T) {
	timeout := func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Hour, "late") }
	same := func(next http.Handler) http.Handler { return next }
	nobody := func(*http.Request, limiter.Decision) {}
	for _, tt := range []struct {
		name    string
		opts    *limiter.Options
		rules   int
		refunds bool
		between func(http.Handler) http.Handler
	}{
		{"one rule", nil, 1, false, same},
		{"without fields", &limiter.Options{Headers: limiter.NoHeaders}, 1, false, same},
		{"with hooks", &limiter.Options{OnDecision: nobody}, 1, false, same},
		{"with RefundIf", &limiter.Options{Headers: limiter.NoHeaders}, 1, true, same},
		{"several", nil, 2, false, same},
		{"several without fields", &limiter.Options{Headers: limiter.NoHeaders}, 2, false, same},
		{"one rule, a header of its own", nil, 1, false, timeout},
		{"without fields, a header of its own", &limiter.Options{Headers: limiter.NoHeaders}, 1, false, timeout},
	} {
		for _, answer := range []string{"default", "OnLimit", "unkeyed", "left"} {
			if answer == "left" && strings.Contains(tt.name, "of its own") {
				continue // TimeoutHandler drops the header when the client leaves
			}
			t.Run(tt.name+"/"+answer, func(t *testing.T) {
				inTime(t, func(t *testing.T) {
					m := limiter.NewMemory(nil)
					var rules limiter.Rules
					for i := range tt.rules {
						rules = append(rules, limiter.Rule{Policy: limiter.PerHour(fmt.Sprint("p", i), 5), Key: limiter.KeyGlobal})
						if tt.refunds {
							rules[i].RefundIf = func(status int) bool { return status == 503 || status == 0 }
						}
					}
					opts := &limiter.Options{}
					var slot func(*http.Request) (limiter.Slot, error)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					switch answer {
					case "OnLimit":
						opts.OnLimit = func(w http.ResponseWriter, _ *http.Request, _ limiter.Decision) { w.WriteHeader(200) }
					case "unkeyed":
						slot = byHeader("K")
					case "left":
						time.AfterFunc(time.Second, cancel)
					}
					f := full(t, limiter.InFlightOptions{Max: 1, MaxPerKey: map[bool]int{true: 1}[slot != nil], Queue: 1, MaxWait: time.Minute})
					h := limiter.Middleware(m, rules, tt.opts)(tt.between(f.Middleware(slot, opts)(hello)))
					r := request(t).WithContext(ctx)
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					for i := range rules {
						remaining(t, m, limiter.Charge{Policy: rules[i].Policy, Key: "*"}, 5)
					}
					for name := range rec.Result().Header {
						if strings.Contains(name, "weir") && answer != "left" && rec.Result().Header[name] != nil {
							t.Errorf("the client gets %q", name)
						}
					}
				})
			})
		}
	}
}

// The mark of a refusal is never on the wire.
func TestInFlightMarkIsNotSent(t *testing.T) {
	f := full(t, limiter.InFlightOptions{Max: 1})
	for _, h2 := range []bool{false, true} {
		for name, h := range map[string]http.Handler{
			"plain":  f.Middleware(nil, nil)(hello),
			"copied": http.TimeoutHandler(f.Middleware(nil, nil)(hello), time.Hour, "late"),
			"trailer": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X")
				f.Middleware(nil, nil)(hello).ServeHTTP(w, r)
			}),
		} {
			srv := httptest.NewUnstartedServer(h)
			srv.EnableHTTP2 = h2
			srv.StartTLS()
			res, err := srv.Client().Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			var names []string
			for name := range res.Header {
				names = append(names, name)
			}
			for name := range res.Trailer {
				names = append(names, "trailer "+name)
			}
			slices.Sort(names)
			if res.StatusCode != 503 || strings.Contains(strings.ToLower(fmt.Sprint(names)), "weir") {
				t.Errorf("%s, %s: %s with %q", name, res.Proto, res.Status, names)
			}
			res.Body.Close()
			srv.Close()
		}
	}
}

func TestInFlightUnkeyed(t *testing.T) {
	broken := errors.New("broken")
	fails := func(*http.Request) (limiter.Slot, error) { return limiter.Slot{Key: "x"}, broken }
	for _, tt := range []struct {
		name    string
		slot    func(*http.Request) (limiter.Slot, error)
		unkeyed limiter.Unkeyed
		perKey  int
		status  int
		err     error
	}{
		{"refused", byHeader("K"), limiter.RefuseUnkeyed, 1, 400, limiter.ErrNoKey},
		{"failed", fails, limiter.RefuseUnkeyed, 1, 500, broken},
		{"skipped", byHeader("K"), limiter.SkipUnkeyed, 1, 200, nil},
		{"failed and skipped", fails, limiter.SkipUnkeyed, 1, 200, broken},
		{"no key needed", byHeader("K"), limiter.RefuseUnkeyed, 0, 200, nil},
	} {
		f := inFlight(t, limiter.InFlightOptions{Max: 2, MaxPerKey: tt.perKey})
		var d limiter.Decision
		held := 0
		h := f.Middleware(tt.slot, &limiter.Options{Unkeyed: tt.unkeyed, OnDecision: func(_ *http.Request, x limiter.Decision) { d = x }})(
			http.HandlerFunc(func(http.ResponseWriter, *http.Request) { held = f.Snapshot().InUse }))
		status(t, h, request(t), tt.status)
		if !errors.Is(d.Err, tt.err) || d.Allowed != (tt.status == 200) || d.Rule != -1 || len(d.Charges) > 0 {
			t.Errorf("%s: told %+v", tt.name, d)
		}
		if want := map[bool]int{true: 1}[tt.status == 200]; held != want {
			t.Errorf("%s: %d slots held, want %d", tt.name, held, want)
		}
		inUse(t, f, 0, 0)
	}
}

// away is an Acquirer whose backend is away.
type away struct{ limiter.Acquirer }

func (away) Acquire(context.Context, limiter.Slot) (func(), error) { return nil, errors.New("away") }

// lending is an Acquirer of another kind.
type lending struct{ limiter.Acquirer }

func (l lending) Acquire(ctx context.Context, s limiter.Slot) (func(), error) {
	return l.Acquirer.Acquire(ctx, s)
}

func TestInFlightMiddlewareOfAnyAcquirer(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{Max: 1})
	status(t, limiter.InFlightMiddleware(away{f}, nil, nil)(hello), request(t), 503)
	admit := &limiter.Options{OnError: func(*http.Request, error) bool { return true }}
	status(t, limiter.InFlightMiddleware(away{f}, nil, admit)(hello), request(t), 200)
	var inner http.Handler
	h := limiter.InFlightMiddleware(lending{f}, nil, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inUse(t, f, 1, 0)
		status(t, inner, request(t), 503)
	}))
	inner = h
	status(t, h, request(t), 200)
	inUse(t, f, 0, 0)
}

func TestInFlightTellsTheObserver(t *testing.T) {
	inTime(t, func(t *testing.T) {
		var events observed
		f := inFlight(t, limiter.InFlightOptions{Name: "exports", Max: 2, Queue: 1})
		opts := &limiter.Options{Observer: &events}
		h := f.Middleware(func(*http.Request) (limiter.Slot, error) { return limiter.Slot{Weight: 2}, nil }, opts)(
			http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(3 * time.Second) }))
		ask := func(ctx context.Context) {
			go serve(h, request(t).WithContext(ctx))
			synctest.Wait()
		}
		start := time.Now()
		ask(t.Context())
		left, leave := context.WithCancel(t.Context())
		ask(left)
		ask(t.Context())
		time.Sleep(500 * time.Millisecond)
		leave()
		synctest.Wait()
		ask(t.Context())
		time.Sleep(2 * time.Second)
		ask(t.Context())
		time.Sleep(time.Minute)
		var got []string
		for _, e := range events.events {
			if e.Policy != "exports" || e.Source != limiter.SourceMemory || e.N != 2 {
				t.Errorf("%+v", e)
			}
			got = append(got, fmt.Sprintf("%v %v %v from %v for %v", e.Kind, e.Result, e.Reason, e.Start.Sub(start), e.Duration))
		}
		want := []string{
			"slot allowed none from 0s for 0s",
			"slot denied full from 0s for 0s",
			"slot left none from 0s for 500ms",
			"slot denied waited too long from 500ms for 1s",
			"release none none from 0s for 3s",
			"slot allowed none from 2.5s for 500ms",
			"release none none from 3s for 3s",
		}
		// At the same instant nobody knows who is heard first.
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

type observed struct {
	mu     sync.Mutex
	events []limiter.Event
}

func (o *observed) Observe(_ context.Context, e limiter.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

// Refusals are told before anything is written; a hook that panics leaks nothing.
func TestInFlightHooks(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{Max: 1})
	var d limiter.Decision
	h := f.Middleware(nil, &limiter.Options{
		OnDecision: func(r *http.Request, x limiter.Decision) {
			if d = x; r.URL.Path == "/panic" {
				panic("a hook")
			}
		},
		OnLimit: func(w http.ResponseWriter, r *http.Request, d limiter.Decision) {
			if e, ok := errors.AsType[*limiter.OverloadError](d.Err); !ok || e.Reason != limiter.OverloadFull {
				t.Errorf("OnLimit is told %+v", d)
			}
			w.WriteHeader(418)
		},
	})(hello)
	func() {
		defer func() { recover() }()
		r := request(t)
		r.URL.Path = "/panic"
		serve(h, r)
	}()
	inUse(t, f, 0, 0)
	status(t, h, request(t), 200)
	if !d.Allowed || d.Rule != -1 || d.Err != nil {
		t.Errorf("told %+v", d)
	}
	acquire(t, f, limiter.Slot{})
	res := status(t, h, request(t), 418)
	if d.Allowed || d.Rule != -1 || !errors.Is(d.Err, limiter.ErrOverload) {
		t.Errorf("told %+v", d)
	}
	if res.Header.Get("Retry-After") != "1" || res.Header.Get("RateLimit") == "" {
		t.Errorf("OnLimit sent %v", res.Header)
	}
	fields := http.Header{}
	d.SetHeader(fields)
	if fields.Get("Retry-After") != "1" || fields.Get("RateLimit-Policy") != `"in-flight";q=1;qu="concurrent-requests"` {
		t.Errorf("SetHeader: %v", fields)
	}
}

func TestInFlightMiddlewarePanics(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{MaxPerKey: 1})
	for name, build := range map[string]func(){
		"no Acquirer":    func() { limiter.InFlightMiddleware(nil, nil, nil) },
		"no slot":        func() { f.Middleware(nil, nil) },
		"unknown status": func() { f.Middleware(byHeader("K"), &limiter.Options{InFlightStatus: 500}) },
		"unknown form":   func() { f.Middleware(byHeader("K"), &limiter.Options{Headers: 9}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			build()
		}()
	}
}

func TestInFlightMiddlewareAllocations(t *testing.T) {
	f := inFlight(t, limiter.InFlightOptions{Max: 2})
	h := f.Middleware(nil, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := &nowhere{http.Header{}}, request(t)
	if got := testing.AllocsPerRun(200, func() { h.ServeHTTP(w, r) }); got > 1 {
		t.Errorf("%v allocations a request, want 1", got)
	}
}
