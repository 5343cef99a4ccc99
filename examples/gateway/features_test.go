package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goweir/weir/internal/redistest"
)

func header(t *testing.T, url, name, value string) *http.Response {
	t.Helper()
	req := request(t, "GET", url, "")
	req.Header.Set(name, value)
	res, _, err := do(t, req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Plans, alternatives of keys, costs, matching, shadow, refunds and plain
// requests without the key, on the wire.
func TestRules(t *testing.T) {
	g := start(t, `
limit_headers: x_ratelimit
api_keys: {header: X-Key, plans: [{name: gold, keys: [goldkey, "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]}]}
routes:
  - path: /plan/
    upstreams: [demo]
    strip_prefix: /plan
    limits: [{name: user, key: "api_key | ip", rate: 1/h, plans: [{plan: gold, rate: 3/h}]}]
  - path: /match/
    upstreams: [demo]
    strip_prefix: /match
    limits: [{name: posts, key: global, rate: 4/h, cost: 2, match: {methods: [POST], paths: [/match/echo]}}]
  - path: /shadow/
    upstreams: [demo]
    strip_prefix: /shadow
    limits: [{name: trial, key: global, rate: 0/h, shadow: true}]
  - path: /refund/
    upstreams: [demo]
    strip_prefix: /refund
    limits: [{name: good, key: global, rate: 2/h, refund_if: [5xx]}]
  - path: /skip/
    upstreams: [demo]
    strip_prefix: /skip
    unkeyed: skip
    limits: [{name: keyed, key: api_key, rate: 0/h}]
`)
	for i, want := range []int{200, 200, 200, 429} {
		if got := header(t, g.URL+"/plan/echo", "X-Key", "goldkey").StatusCode; got != want {
			t.Errorf("request %d with a key: %d, want %d", i, got, want)
		}
	}
	// The hash is that of "test"; each key has a quota of its own.
	if res := header(t, g.URL+"/plan/echo", "X-Key", "test"); res.StatusCode != 200 || res.Header.Get("X-RateLimit-Limit") != "3" {
		t.Errorf("a key listed by its hash: %s %v", res.Status, res.Header)
	}
	// A key that is made up is none: the address counts.
	for i, want := range []int{200, 429} {
		if got := header(t, g.URL+"/plan/echo", "X-Key", fmt.Sprint(i)).StatusCode; got != want {
			t.Errorf("request %d with a key that is made up: %d, want %d", i, got, want)
		}
	}
	for i, tt := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/match/echo", 200}, {"POST", "/match/echo", 200}, {"POST", "/match/echo", 429}, {"GET", "/match/echo", 200},
		{"GET", "/shadow/echo", 200},
		{"GET", "/refund/fail", 500}, {"GET", "/refund/fail", 500}, {"GET", "/refund/fail", 500},
		{"GET", "/refund/echo", 200}, {"GET", "/refund/echo", 200}, {"GET", "/refund/echo", 429},
		{"GET", "/skip/echo", 200},
	} {
		res, _, err := do(t, request(t, tt.method, g.URL+tt.path, ""))
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != tt.want {
			t.Errorf("%d: %s %s: %s, want %d", i, tt.method, tt.path, res.Status, tt.want)
		}
	}
	for _, r := range g.stop(t) {
		if r.Route == "/shadow/" && r.Attributes["shadow"] != "trial" {
			t.Errorf("the shadow is not recorded: %s", r.line)
		}
		if strings.Contains(r.line, "goldkey") {
			t.Errorf("an API key is recorded: %s", r.line)
		}
	}
}

// Limits on requests in flight, per key and in all, and the names of refusals.
func TestInFlight(t *testing.T) {
	g := start(t, `
in_flight: {name: everybody, max: 2}
routes:
  - {path: /, upstreams: [demo]}
  - {path: /one/, upstreams: [demo], strip_prefix: /one, in_flight: {per_key: 1, key: "header:X-Who", status: 429}}
`)
	req := request(t, "GET", g.URL+"/one/clock", "")
	req.Header.Set("X-Who", "a")
	first, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Body.Close()
	if got := header(t, g.URL+"/one/echo", "X-Who", "a").StatusCode; got != 429 {
		t.Errorf("a second request of the same: %d, want 429", got)
	}
	if got := header(t, g.URL+"/one/echo", "X-Who", "b").StatusCode; got != 200 {
		t.Errorf("a request of another: %d", got)
	}
	var second *http.Response
	eventually(t, "that one has given its slot back", func() bool {
		second = open(t, g.URL+"/clock")
		return second.StatusCode == 200
	})
	if res, body := get(t, g.URL+"/echo"); res.StatusCode != 503 || !strings.Contains(string(body), "everybody") {
		t.Errorf("a third of all: %s %s", res.Status, body)
	}
	first.Body.Close()
	second.Body.Close()
	refusers := map[string]int{}
	for _, r := range g.stop(t) {
		refusers[r.RefusedBy]++
	}
	if refusers["everybody"] < 1 || refusers["in-flight /one/"] != 1 {
		t.Errorf("refused by %v", refusers)
	}
}

// Two gateways with one Redis share the slots of a limit.
func TestInFlightIsShared(t *testing.T) {
	server := redistest.Start(t)
	config := fmt.Sprintf("redis: {url: %q, budget: 20s, when_down: closed}\nin_flight: {max: 1, shared: true}\nroutes: [{path: /, upstreams: [demo]}]", patient(server))
	a, b := start(t, config), start(t, config)
	clock := open(t, a.URL+"/clock")
	defer clock.Body.Close()
	if res, _ := get(t, b.URL+"/echo"); res.StatusCode != 503 {
		t.Errorf("the other gateway answers %s", res.Status)
	}
	clock.Body.Close()
	eventually(t, "the slot is free again", func() bool { res, _ := get(t, b.URL+"/echo"); return res.StatusCode == 200 })
}

// Who waits for a slot is served by priority: of one place in the line a request
// of a better one takes that of another. A heavy request takes several slots.
func TestPriorityAndWeight(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0}
api_keys: {plans: [{name: gold, keys: [goldkey], priority: 1}]}
in_flight: {name: all, max: 2, queue: 1, wait: 1m}
routes:
  - {path: /, upstreams: [demo], priority: 2}
  - {path: /heavy/, upstreams: [demo], strip_prefix: /heavy, weight: 2, priority: 3}
`)
	heavy := open(t, g.URL+"/heavy/clock")
	defer heavy.Body.Close()
	ask := func(path, key string) chan int {
		status := make(chan int, 1)
		go func() {
			req := request(t, "GET", g.URL+path, "")
			req.Header.Set("X-Api-Key", key)
			res, _, err := do(t, req)
			if err != nil {
				t.Error(err)
				status <- 0
				return
			}
			status <- res.StatusCode
		}()
		return status
	}
	low := ask("/echo", "")
	eventually(t, "one waits", func() bool { return scrape(t, g).total("weir_inflight_waiting_requests", "policy", "all") == 1 })
	high := ask("/echo", "goldkey")
	if got := <-low; got != 503 {
		t.Errorf("who waits without a plan gets %d when the line is full and plan gold comes, want 503", got)
	}
	if got := <-ask("/echo", ""); got != 503 {
		t.Errorf("behind plan gold in a full line: %d, want 503", got)
	}
	heavy.Body.Close()
	if got := <-high; got != 200 {
		t.Errorf("plan gold gets %d, want 200", got)
	}
}

// With a lease a gateway takes units in advance, which another does not get.
func TestLease(t *testing.T) {
	server := redistest.Start(t)
	config := fmt.Sprintf(`
redis: {url: %q, budget: 20s, when_down: closed}
routes: [{path: /, upstreams: [demo], limits: [{name: all, key: global, rate: 10/h, lease: 4}]}]
`, patient(server))
	one, other := start(t, config), start(t, config)
	if got := burst(t, "/echo", 1, one); got[200] != 1 {
		t.Fatalf("the first request: %v", got)
	}
	if got := burst(t, "/echo", 20, other); got[200] != 6 || got[429] != 14 {
		t.Errorf("beside a gateway with a lease of 4 the answers are %v, want 6 of 200", got)
	}
	if got := burst(t, "/echo", 20, one); got[200] != 3 {
		t.Errorf("of a lease of 4 the answers are %v, want the 3 of 200 that are left", got)
	}
}

// Without limits but with shared slots, too, it is said that Redis is away.
func TestSharedSlotsTellOfOutage(t *testing.T) {
	server := redistest.Start(t)
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0}
redis: {url: %q}
in_flight: {name: slots, max: 10, shared: true}
routes: [{path: /, upstreams: [demo]}]
`, server.URL()))
	server.Kill()
	g.awaitLog(t, "Redis is away", func() { get(t, g.URL+"/echo") })
	if r := g.ready(t); r.parts() != "redis" {
		t.Errorf("/readyz answers %+v, want redis to be degraded", r)
	}
	if got := scrape(t, g).total("weir_limiter_breaker_state", "backend", "redis slots", "state", "closed"); got != 0 {
		t.Errorf("the breaker is closed, says the metric")
	}
	server.Restart()
	g.awaitLog(t, "Redis is back", func() { get(t, g.URL+"/echo") })
	eventually(t, "it is ready", func() bool { return g.ready(t).Status == "ready" })
	server.Kill()
	eventually(t, "it is away again", func() bool { get(t, g.URL+"/echo"); return g.ready(t).Status == "degraded" })
	g.replace(t, "admin: {listen: 127.0.0.1:0}\nroutes: [{path: /, upstreams: [demo]}]")
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "nothing is amiss for who needs no Redis", func() bool {
		return g.ready(t).Status == "ready" && scrape(t, g).total("weir_limiter_breaker_state", "backend", "redis slots", "state", "closed") == 1
	})
}

// The client's address is read from the field that is chosen, and from no other.
func TestClientField(t *testing.T) {
	for config, want := range map[string]string{
		"": "192.0.2.1", "client_ip: {forwarded: true}": "192.0.2.2",
		"client_ip: {single_header: X-Real-Ip}": "192.0.2.3", "client_ip: {header: X-Chain}": "192.0.2.4",
	} {
		g := start(t, "trust: [127.0.0.1]\n"+config+"\nlog: {format: json, requests: true}\nroutes: [{path: /, upstreams: [demo]}]")
		req := request(t, "GET", g.URL+"/echo", "")
		req.Header.Set("X-Forwarded-For", "192.0.2.1")
		req.Header.Set("Forwarded", "for=192.0.2.2")
		req.Header.Set("X-Real-Ip", "192.0.2.3")
		req.Header.Set("X-Chain", "192.0.2.4")
		if _, _, err := do(t, req); err != nil {
			t.Fatal(err)
		}
		g.stop(t)
		if log := g.stderr.String(); !strings.Contains(log, `"client":"`+want+`"`) {
			t.Errorf("%q: the client is not %s:\n%s", config, want, log)
		}
	}
}

// Upstreams with a certificate of one's own authority, which ask for one of the
// gateway's; a reload reads the files again.
func TestUpstreamTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	certificate(t, cert, key, 7)
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "certificate ", r.TLS.PeerCertificates[0].SerialNumber)
	}))
	upstream.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	upstream.StartTLS()
	defer upstream.Close()
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upstream.Certificate().Raw})))
	g := start(t, fmt.Sprintf(`
routes:
  - {path: /, upstreams: [%[1]q], upstream_tls: {ca: %[2]q, cert: %[3]q, key: %[4]q, server_name: example.com}}
  - {path: /strange, upstreams: [%[1]q], upstream_tls: {cert: %[3]q, key: %[4]q}}
  - {path: /other, upstreams: [%[1]q], upstream_tls: {ca: %[2]q, cert: %[3]q, key: %[4]q, server_name: other.test}}
`, upstream.URL, ca, cert, key))
	if res, body := get(t, g.URL); string(body) != "certificate 7" {
		t.Errorf("%s %s", res.Status, body)
	}
	for _, path := range []string{"/strange", "/other"} {
		if res, body := get(t, g.URL+path); res.StatusCode != 502 {
			t.Errorf("%s: %s %s, want 502: the certificate is not to be believed", path, res.Status, body)
		}
	}
	certificate(t, cert, key, 8)
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the upstream sees the new certificate", func() bool { _, body := get(t, g.URL); return string(body) == "certificate 8" })
	writeFile(t, ca, "none")
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.awaitLog(t, "routes[0].upstream_tls: "+ca+" has no certificate in PEM", func() {})
}

// What the command line says is judged as if it stood in the file.
func TestSharedByFlag(t *testing.T) {
	g := start(t, "in_flight: {max: 1, shared: true}\nroutes: [{path: /, upstreams: [demo]}]", "-redis", "embedded")
	if res, body := get(t, g.URL+"/echo"); res.StatusCode != 200 {
		t.Errorf("%s %s", res.Status, body)
	}
}

// Downloads are as slow as the configuration says.
func TestBandwidth(t *testing.T) {
	g := start(t, `
bandwidth: {per_key: 10MiB/s, classes: [{name: fast}, {name: slow}], total: 100MiB/s}
routes:
  - {path: /, upstreams: [demo]}
  - {path: /slow/, upstreams: [demo], strip_prefix: /slow, bandwidth: 512KiB/s, class: slow}
`)
	began := time.Now()
	if _, body := get(t, g.URL+"/slow/download?size=512KiB"); len(body) != 512<<10 {
		t.Errorf("%d bytes arrived", len(body))
	}
	if took := time.Since(began); took < 700*time.Millisecond { // a tenth may pass at once
		t.Errorf("512 KiB at 512 KiB/s took %v", took)
	}
}

// What answers when the upstream is away: JSON, a file, another upstream, what it
// answered before; and by force although it is there.
func TestFallbacks(t *testing.T) {
	var up atomic.Bool
	up.Store(true)
	fickle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Cache-Control", "max-age=1")
		io.WriteString(w, "fresh")
	}))
	defer fickle.Close()
	page := filepath.Join(t.TempDir(), "sorry.html")
	writeFile(t, page, "<p>Sorry")
	g := start(t, fmt.Sprintf(`
routes:
  - {path: /json, upstreams: [%[1]q], fallback: {json: '{"items": []}', status: 200}}
  - {path: /file, upstreams: [%[1]q], fallback: {file: %[2]q}}
  - {path: /other/, upstreams: [%[1]q], strip_prefix: /other, fallback: {upstreams: [demo]}}
  - {path: /stale, upstreams: [%[1]q], fallback: {stale: {max_stale: 1h}}}
  - {path: /forced, upstreams: [demo], fallback: {json: '1', forced: true}}
`, fickle.URL, page))
	if _, body := get(t, g.URL+"/stale"); string(body) != "fresh" {
		t.Fatalf("got %q", body)
	}
	up.Store(false)
	for _, tt := range []struct {
		path   string
		status int
		body   string
	}{
		{"/json", 200, `{"items": []}`}, {"/file", 503, "<p>Sorry"}, {"/other/echo", 200, `"path":"/echo"`},
		{"/stale", 200, "fresh"}, {"/forced", 503, "1"},
	} {
		res, body := get(t, g.URL+tt.path)
		if res.StatusCode != tt.status || !strings.Contains(string(body), tt.body) {
			t.Errorf("%s: %s %s, want %d with %s", tt.path, res.Status, body, tt.status, tt.body)
		}
	}
}

// An upstream that is away is not asked any more where another can be.
func TestRetriesAndHealth(t *testing.T) {
	away := "http://" + closedPort(t)
	g := start(t, fmt.Sprintf(`
routes:
  - path: /
    upstreams: [demo, {url: %q, weight: 3}]
    pool:
      balance: least_in_flight
      retries: {max: 1, budget: 1}
      health: {path: /echo, interval: 100ms, down: 1}
`, away))
	for range 20 {
		if res, body := get(t, g.URL+"/echo"); res.StatusCode != 200 {
			t.Errorf("%s %s", res.Status, body)
		}
	}
	g.stop(t)
}

// What a client sends over TLS is answered over TLS, and a reload takes a new
// certificate.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certificate(t, cert, key, 1)
	g := start(t, fmt.Sprintf("tls: {cert: %q, key: %q}\nroutes: [{path: /, upstreams: [demo]}]", cert, key))
	serial := func() int64 {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		res, err := client.Get(g.URL + "/echo")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != 200 {
			t.Errorf("%s %s", res.Proto, res.Status)
		}
		return res.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); !strings.HasPrefix(g.URL, "https://") || got != 1 {
		t.Errorf("at %s the certificate is number %d", g.URL, got)
	}
	certificate(t, cert, key, 2)
	g.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the new certificate is sent", func() bool { return serial() == 2 })
	// Whether there is TLS at all waits for the next start.
	g.replace(t, "routes: [{path: /, upstreams: [demo]}]")
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.awaitLog(t, "tls, whether there is any", func() {})
	if got := serial(); got != 2 {
		t.Errorf("without tls in the file the certificate is number %d", got)
	}
}

func certificate(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

// Connections are bounded by peer and in all; whom the gateway trusts may have
// more.
func TestConnectionLimits(t *testing.T) {
	g := start(t, "trust: [127.0.0.9]\nserver: {per_ip: 2, max_connections: 6}\nroutes: [{path: /, upstreams: [demo]}]")
	at := strings.TrimPrefix(g.URL, "http://")
	// dial reports whether a connection from an address is served, and keeps it.
	dial := func(from string) bool {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		conn, err := d.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
		n, _ := conn.Read(make([]byte, 1))
		return n == 1
	}
	for i, tt := range []struct {
		from string
		want bool
	}{
		{"127.0.0.2", true}, {"127.0.0.2", true}, {"127.0.0.2", false}, // its two
		{"127.0.0.9", true}, {"127.0.0.9", true}, {"127.0.0.9", true}, // trusted
		{"127.0.0.3", true}, {"127.0.0.4", false}, // six in all
	} {
		if got := dial(tt.from); got != tt.want {
			t.Errorf("connection %d, from %s: served %v, want %v", i, tt.from, got, tt.want)
		}
	}
}

// -check prints the chain in order, and starts nothing; -print-config shows no
// secret.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.yaml")
	writeFile(t, file, `
trust: [10.0.0.0/8]
admin: {listen: 127.0.0.1:1, inspector: true, token: hunter2}
redis: {url: "redis://me:hunter2@127.0.0.1:1", secret: hunter2}
in_flight: {max: 7}
routes:
  - path: "POST /pay/"
    upstreams: ["http://127.0.0.1:9001"]
    fallback: {json: '{}'}
    pool: {breaker: {failure_ratio: 0.5}, retries: {max: 2}}
    limits:
      - {name: payments, key: ip, rate: 5/m}
      - {name: orders, key: ip, rate: 5/m, match: {paths: [/orders]}}
`)
	command := func(args ...string) (string, int) {
		cmd := exec.Command(binary, append([]string{"-config", file}, args...)...)
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, code := command("-check", "POST", "/pay/now", "10.1.2.3")
	last := 0
	for _, want := range []string{
		"gateway.yaml is well: 1 routes", "POST /pay/now from 10.1.2.3", "10.1.2.3, whose X-Forwarded-For is believed", "audit", "POST /pay/",
		"payments: 5/m by ip; applies", "orders: 5/m by ip; does not apply", "in-flight, 7", "round_robin over http://127.0.0.1:9001; breaker at 0.5; 2 retries; else fixed JSON",
	} {
		at := strings.Index(out[last:], want)
		if at < 0 {
			t.Errorf("no %q after byte %d of\n%s", want, last, out)
			continue
		}
		last += at
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if out, _ := command("-check", "POST", "/pay"); !strings.Contains(out, "redirected") || strings.Contains(out, "proxy") {
		t.Errorf("for a path that lacks its slash it prints\n%s", out)
	}
	if out, _ := command("-check", "/pay/now"); !strings.Contains(out, "none: 404, or 405") {
		t.Errorf("for GET it prints\n%s", out)
	}
	for _, wrong := range [][]string{{"-check", "GET"}, {"-check", "/", "somewhere"}, {"-check", "/", "::1", "x"}} {
		if out, code := command(wrong...); code != 2 {
			t.Errorf("%v: exit code %d\n%s", wrong, code, out)
		}
	}
	out, code = command("-print-config")
	if code != 0 || strings.Contains(out, "hunter2") || !strings.Contains(out, "stall: 1m0s") {
		t.Errorf("-print-config: exit code %d\n%s", code, out)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 {
		t.Errorf("files were written: %v", files)
	}
}

// What cannot be read where the configuration says is a fault with a place.
func TestFilesOfConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.yaml")
	writeFile(t, file, "tls: {cert: none.pem, key: none.pem}\nroutes: [{path: /, upstreams: [demo], fallback: {file: none.html}}]\n")
	cmd := exec.Command(binary, "-config", file, "-check")
	out, _ := cmd.CombinedOutput()
	for _, want := range []string{"gateway.yaml:1:6: tls: open none.pem", "gateway.yaml:2:49: routes[0].fallback.file: open none.html"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code := cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code %d", code)
	}
}
