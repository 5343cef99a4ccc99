package weirotel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/goweir/weir/adapters/weirotel"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/proxy"
)

const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientSpan   = "b7ad6b7169203331"
	clientParent = "00-" + clientTrace + "-" + clientSpan + "-01"
)

// deaf is an address where nobody listens: the port of tcpmux. One that was free a
// moment ago may be another server's by now.
const deaf = "http://127.0.0.1:1"

func newProxy(t *testing.T, r *rig, cfg proxy.Config) *proxy.Proxy {
	t.Helper()
	cfg.Observer, cfg.WrapTransport, cfg.ErrorLog = r.Proxy(), r.WrapTransport, quiet
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.CloseIdleConnections)
	return p
}

// One trace from the client to the upstream: the decisions and each attempt
// below the request, and the last attempt above what the upstream does.
func TestTrace(t *testing.T) {
	r := newRig(t)
	var got sync.Map
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got.Store("traceparent", req.Header.Get("Traceparent"))
		io.WriteString(w, "hello")
	}))
	p := newProxy(t, r, proxy.Config{
		Upstreams: []proxy.Upstream{{URL: deaf}, {URL: up.URL}},
		Retries:   proxy.Retries{Max: 1, Budget: 1},
	})
	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerDay("everyone", 100), Key: limiter.KeyGlobal},
		{Policy: limiter.PerDay("client", 5), Key: limiter.KeyByClientIP, Cost: func(*http.Request) int { return 2 }},
	}, &limiter.Options{Observer: r.Limiter()})
	s := serve(t, r.server(limits(p)))
	// The dead one's turn comes with one of two.
	for range 2 {
		if status := get(t, s.URL+"/users/7?token=secret", "Traceparent", clientParent); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	until(t, func() bool { return len(r.named("server")) == 2 && len(r.named("GET")) == 3 })
	attempts := r.named("GET")
	var failed sdktrace.ReadOnlySpan
	for _, a := range attempts {
		if a.Status().Code == codes.Error {
			failed = a
		}
	}
	if failed == nil {
		t.Fatal("no attempt has failed")
	}
	var request sdktrace.ReadOnlySpan
	for _, server := range r.named("server") {
		if server.SpanContext().TraceID().String() != clientTrace || server.Parent().SpanID().String() != clientSpan {
			t.Errorf("the request's span has the parent %v", server.Parent())
		}
		if server.SpanContext().SpanID() == failed.Parent().SpanID() {
			request = server
		}
	}
	if request == nil {
		t.Fatal("the attempt is not below the request")
	}
	has(t, request, map[attribute.Key]string{"weir.refused_by": "", "weir.proxy.result": "ok", "weir.proxy.upstream": up.URL, "weir.proxy.side": "", "weir.proxy.phase": ""})
	has(t, failed, map[attribute.Key]string{
		"http.request.method": "GET", "url.full": deaf + "/users/7", "server.address": "127.0.0.1", "server.port": "1",
		"url.scheme": "http", "error.type": "dial", "http.response.status_code": "", "http.request.resend_count": "",
	})
	below := map[string]int{}
	for _, span := range r.spans.Ended() {
		if span.Parent().SpanID() != request.SpanContext().SpanID() {
			continue
		}
		below[span.Name()]++
		if span.StartTime().Before(request.StartTime()) || span.EndTime().After(request.EndTime()) || span.EndTime().Before(span.StartTime()) {
			t.Errorf("span %q from %v to %v is not within the request's, %v to %v", span.Name(), span.StartTime(), span.EndTime(), request.StartTime(), request.EndTime())
		}
		switch {
		case span.Name() == "limit client":
			has(t, span, map[attribute.Key]string{"weir.policy": "client", "weir.result": "allowed", "weir.source": "memory", "weir.cost": "2"})
			if span.SpanKind() != trace.SpanKindInternal {
				t.Errorf("span %q is of kind %v", span.Name(), span.SpanKind())
			}
		case span.Name() == "GET" && span != failed:
			has(t, span, map[attribute.Key]string{"http.request.resend_count": "1", "weir.trigger": "connect", "http.response.status_code": "200",
				"network.protocol.version": "1.1", "error.type": "", "url.full": up.URL + "/users/7"})
			if span.SpanKind() != trace.SpanKindClient || span.Status().Code != codes.Unset {
				t.Errorf("the attempt is of kind %v with status %v", span.SpanKind(), span.Status())
			}
		}
	}
	if below["limit everyone"] != 1 || below["limit client"] != 1 || below["GET"] != 2 {
		t.Errorf("below the request are %v, want two decisions and two attempts", below)
	}
	parent, _ := got.Load("traceparent")
	last := attempts[len(attempts)-1].SpanContext()
	if want := "00-" + clientTrace + "-" + last.SpanID().String() + "-01"; parent != want {
		t.Errorf("the upstream got traceparent %v, want that of the attempt, %s", parent, want)
	}
}

// A refused request's span says who refused.
func TestRefused(t *testing.T) {
	broken := func(*http.Request) (string, error) { return "", errors.New("no session") }
	for _, tt := range []struct {
		name   string
		rule   limiter.Rule
		l      limiter.Limiter
		status int
		span   string // its result
		by     string
	}{
		{"denied", limiter.Rule{Policy: limiter.PerDay("closed", 0), Key: limiter.KeyGlobal}, limiter.NewMemory(nil), 429, "denied", "closed"},
		{"without a key", limiter.Rule{Policy: limiter.PerDay("user", 1), Key: broken}, limiter.NewMemory(nil), 500, "unkeyed", "user"},
		{"nobody could decide", limiter.Rule{Policy: limiter.PerDay("user", 1), Key: limiter.KeyGlobal}, failing{}, 503, "error_denied", "user"},
		{"shadow", limiter.Rule{Policy: limiter.PerDay("closed", 0), Key: limiter.KeyGlobal, Shadow: true}, limiter.NewMemory(nil), 200, "shadow_denied", ""},
	} {
		r := newRig(t)
		s := serve(t, r.server(limiter.Middleware(tt.l, limiter.Rules{tt.rule}, &limiter.Options{Observer: r.Limiter()})(hello)))
		if status := get(t, s.URL); status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, status, tt.status)
		}
		has(t, r.one(t, "server"), map[attribute.Key]string{"weir.refused_by": tt.by})
		span := r.one(t, "limit "+tt.rule.Policy.Name)
		has(t, span, map[attribute.Key]string{"weir.result": tt.span})
		if (span.Status().Code == codes.Error) != (tt.span == "error_denied") {
			t.Errorf("%s: the decision's status is %v", tt.name, span.Status())
		}
	}
}

type failing struct{ limiter.Limiter }

func (failing) Take(context.Context, limiter.Charge) (limiter.Result, error) {
	return limiter.Result{}, errors.New("broken")
}

// The wait for a turn, and a backend that does not answer, have spans as long as
// they took.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		hung := hanging{limiter.NewMemory(nil)}
		l := failover.New(hung, failover.Local, &failover.Options{Budget: 50 * time.Millisecond, Observer: r.Failover("redis")})
		h := r.server(limiter.Middleware(l, limiter.Rules{{
			Policy: limiter.Policy{Name: "paced", Algorithm: limiter.LeakyBucket, Limit: 1, Window: time.Second, Burst: 5},
			Key:    limiter.KeyGlobal,
		}}, &limiter.Options{Observer: r.Limiter()})(hello))
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			h.ServeHTTP(sinkhole{}, req)
		}
		requests := r.named("server")
		asks := r.named("ask redis")
		if len(asks) != 2 {
			t.Fatalf("%d spans of the backend, want 2", len(asks))
		}
		for i, ask := range asks {
			if d := ask.EndTime().Sub(ask.StartTime()); d != 50*time.Millisecond || ask.Status().Code != codes.Error ||
				ask.Parent().SpanID() != requests[i].SpanContext().SpanID() || len(ask.Events()) != 1 {
				t.Errorf("the backend's span took %v with status %v, below %v", d, ask.Status(), ask.Parent())
			}
		}
		wait := r.one(t, "wait for paced")
		if d := wait.EndTime().Sub(wait.StartTime()); d < 900*time.Millisecond || d > time.Second || wait.Parent().SpanID() != requests[1].SpanContext().SpanID() {
			t.Errorf("the wait took %v, below %v", d, wait.Parent())
		}
		has(t, wait, map[attribute.Key]string{"weir.policy": "paced", "weir.result": "allowed"})
		has(t, r.named("limit paced")[0], map[attribute.Key]string{"weir.result": "local_fallback", "weir.source": "fallback"})
	})
}

type hanging struct{ limiter.Limiter }

func (hanging) Take(ctx context.Context, _ limiter.Charge) (limiter.Result, error) {
	<-ctx.Done()
	return limiter.Result{}, ctx.Err()
}

// A fallback has a span, what it does is below it, and the request says why.
func TestFallback(t *testing.T) {
	r := newRig(t)
	p := newProxy(t, r, proxy.Config{
		Upstreams: []proxy.Upstream{{URL: deaf}},
		Fallback: r.Fallback(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, s := r.tracer.Start(req.Context(), "look up")
			s.End()
			w.WriteHeader(http.StatusAccepted)
		})),
	})
	s := serve(t, r.server(p))
	if status := get(t, s.URL); status != http.StatusAccepted {
		t.Errorf("status %d", status)
	}
	request, fallback := r.one(t, "server"), r.one(t, "fallback")
	has(t, fallback, map[attribute.Key]string{"weir.reason": "unreachable", "weir.upstream": deaf})
	if fallback.Parent().SpanID() != request.SpanContext().SpanID() || r.one(t, "look up").Parent().SpanID() != fallback.SpanContext().SpanID() {
		t.Error("the spans are not below each other")
	}
	has(t, request, map[attribute.Key]string{"weir.proxy.result": "fallback", "weir.proxy.reason": "unreachable", "weir.proxy.side": "upstream", "weir.proxy.phase": "connect"})

	// One that panics is an error, and the panic goes on.
	defer func() {
		if recover() != http.ErrAbortHandler || len(r.named("fallback")) != 2 || r.named("fallback")[1].Status().Code != codes.Error {
			t.Errorf("spans of fallbacks: %v", r.named("fallback"))
		}
	}()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.server(r.Fallback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))).ServeHTTP(sinkhole{}, req)
}

func TestWaitForUpstream(t *testing.T) {
	r := newRig(t)
	gate := make(chan struct{})
	up := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	p := newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}, InFlight: proxy.InFlight{Max: 1, Queue: 1, Wait: time.Minute}})
	s := serve(t, r.server(p))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { get(t, s.URL) })
	}
	until(t, func() bool { u := p.Upstreams()[0]; return u.InFlight == 1 && u.Waiting == 1 })
	close(gate)
	wg.Wait()
	wait := r.one(t, "wait for upstream")
	has(t, wait, map[attribute.Key]string{"weir.upstream": up.URL, "weir.result": "ok"})
}

// The span of an attempt is as long as the answer, and knows how it ended.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status string
		class  string
		bad    bool
	}{
		{"whole", hello, "200", "", false},
		{"empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "204", "", false},
		{"not found", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, "404", "404", true},
		{"half", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
		}, "200", "broken", true},
		{"none", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "", "broken", true},
	} {
		r := newRig(t)
		up := serve(t, tt.answer)
		s := serve(t, r.server(newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}})))
		get(t, s.URL)
		span := r.one(t, "GET")
		has(t, span, map[attribute.Key]string{"http.response.status_code": tt.status, "error.type": tt.class})
		if (span.Status().Code == codes.Error) != tt.bad {
			t.Errorf("%s: status %v", tt.name, span.Status())
		}
	}
	t.Run("slow", func(t *testing.T) {
		r := newRig(t)
		gate := make(chan struct{})
		up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).Flush()
			<-gate
		}))
		s := serve(t, r.server(newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}})))
		res, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if n := len(r.named("GET")); n != 0 {
			t.Errorf("%d spans have ended before the answer", n)
		}
		close(gate)
		r.one(t, "GET")
	})
}

// A tunnel's span ends when it is open: nobody waits for days for a trace. And
// the connection is still a connection.
func TestTunnel(t *testing.T) {
	r := newRig(t)
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(conn, rw)
	}))
	s := serve(t, r.server(newProxy(t, r, proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}})))
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\necho")
	has(t, r.one(t, "GET"), map[attribute.Key]string{"http.response.status_code": "101"})
	open := "weir.proxy.open_tunnels{weir.upstream=" + up.URL + "}"
	until(t, func() bool { return r.gathered(t)[open] == 1 })
	var all []byte
	for !strings.HasSuffix(string(all), "\r\n\r\necho") {
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if all = append(all, b[:n]...); err != nil {
			t.Fatalf("read %q, %v", all, err)
		}
	}
	conn.Close()
	until(t, func() bool { return r.gathered(t)[open] == 0 })
}

// Without a span outside, or without an SDK, the trace of the client goes on all
// the same.
func TestPassThrough(t *testing.T) {
	for _, tt := range []struct {
		name   string
		sdk    bool
		sent   string
		sample bool
	}{
		{"no SDK", false, clientParent, true},
		{"no SDK, no trace", false, "", true},
		{"no span outside", true, clientParent, true},
		{"not sampled", true, strings.TrimSuffix(clientParent, "01") + "00", false},
	} {
		var telemetry *weirotel.Telemetry
		r := newRig(t)
		if telemetry = r.Telemetry; !tt.sdk {
			var err error
			if telemetry, err = weirotel.New(&weirotel.Options{Propagator: w3c}); err != nil {
				t.Fatal(err)
			}
		}
		var got sync.Map
		up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			got.Store("traceparent", req.Header.Get("Traceparent"))
		}))
		p, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: up.URL}}, Observer: telemetry.Proxy(), WrapTransport: telemetry.WrapTransport, ErrorLog: quiet})
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, p)
		if tt.sent == "" {
			get(t, s.URL)
		} else {
			get(t, s.URL, "Traceparent", tt.sent)
		}
		parent, _ := got.Load("traceparent")
		if !tt.sdk {
			if parent != tt.sent {
				t.Errorf("%s: the upstream got %v, want %v", tt.name, parent, tt.sent)
			}
			continue
		}
		text, _ := parent.(string)
		if !strings.HasPrefix(text, "00-"+clientTrace+"-") || strings.Contains(text, clientSpan) || strings.HasSuffix(text, "-01") != tt.sample {
			t.Errorf("%s: the upstream got %v, want another span of the client's trace", tt.name, parent)
		}
		if n := len(r.named("GET")); (n == 1) != tt.sample {
			t.Errorf("%s: %d spans", tt.name, n)
		}
	}
}
