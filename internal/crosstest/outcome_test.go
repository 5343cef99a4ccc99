package crosstest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/limiter"
)

// A sink hands records on to a test.
type sink chan *capture.Exchange

func (s sink) Record(_ context.Context, x *capture.Exchange) error {
	s <- x.Clone()
	return nil
}

func (s sink) next(t *testing.T) *capture.Exchange {
	t.Helper()
	select {
	case x := <-s:
		return x
	case <-time.After(20 * time.Second):
		t.Fatal("no record")
		return nil
	}
}

// ours is the chain of the README: capture outside the limits, which are told to
// the record.
func ours(s capture.Sink, rules ...limiter.Rule) []func(http.Handler) http.Handler {
	return []func(http.Handler) http.Handler{
		capture.Middleware(s, nil),
		limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{
			Unkeyed: limiter.SkipUnkeyed,
			OnDecision: func(r *http.Request, d limiter.Decision) {
				if !d.Allowed {
					capture.From(r.Context()).Refused("limits")
				}
			},
		}),
	}
}

func everyone(n int) limiter.Rule {
	return limiter.Rule{Policy: limiter.PerHour("everyone", n), Key: limiter.KeyGlobal}
}

// A logbook is what the outermost logger said, one request after the other.
type logbook chan seen

func (l logbook) told(s seen) { l <- s }

// served makes the application's server over proto.
func served(t *testing.T, proto string, h http.Handler) *httptest.Server {
	t.Helper()
	s := fronts(t, h)[proto]
	// Or a request is sent once more when a server has closed its connection.
	s.Client().Transport.(*http.Transport).DisableKeepAlives = proto == "HTTP/1.1"
	return s
}

// An answer is what a client got. Err is set if it did not end cleanly.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
	err     error
}

func do(t *testing.T, s *httptest.Server, method, path string, body io.Reader) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b), res.Trailer, err}
}

// TestOutcomes: whatever a handler does, the client and a logger outside see the
// same with and without our chain, and the record has it right.
func TestOutcomes(t *testing.T) {
	everywhere(t, func(t *testing.T, name, proto string, build maker) {
		serve := func(use ...func(http.Handler) http.Handler) (*httptest.Server, logbook) {
			l := make(logbook, 100)
			r := build(l.told, append(use, values)...)
			for kind := range kinds {
				r.Native("/"+strings.ReplaceAll(kind, " ", "-")+"/{id}", kind)
			}
			return served(t, proto, r), l
		}
		records := make(sink, 100)
		bare, without := serve()
		wrapped, with := serve(ours(records, everyone(1000))...)

		check := func(what, method, path string, status int, body string) {
			want, got := do(t, bare, method, path, nil), do(t, wrapped, method, path, nil)
			if got.status != want.status || got.body != want.body || (got.err != nil) != (want.err != nil) || got.header.Get("Content-Type") != want.header.Get("Content-Type") {
				t.Errorf("%s: client got %d %q, %v; without us %d %q, %v", what, got.status, got.body, got.err, want.status, want.body, want.err)
			}
			aborted := what == "panic" && name == "net/http"
			if !aborted && (got.status != status || !strings.Contains(got.body, body) || got.header.Get("Ratelimit") == "") && what != "panic" {
				t.Errorf("%s: client got %d %q with RateLimit %q, want %d %q", what, got.status, got.body, got.header.Get("Ratelimit"), status, body)
			}
			before, after := <-without, <-with
			if name == "Gin" && (status == 404 || status == 405) {
				before.size = int64(len(want.body)) // Gin writes after its loggers have looked
			}
			if before != after {
				t.Errorf("%s: a logger outside saw %v, without us %v", what, after, before)
			}
			x := records.next(t)
			if what == "panic" {
				if x.Outcome != capture.OutcomePanic {
					t.Errorf("panic: recorded %v", x.Outcome)
				}
				return
			}
			if x.Status != got.status || x.Response.Body.Size != int64(len(got.body)) || x.Outcome != capture.OutcomeOK && x.Outcome != capture.OutcomeImplicit {
				t.Errorf("%s: recorded %s, %d with %d bytes; client got %d with %d", what, x.Outcome, x.Status, x.Response.Body.Size, got.status, len(got.body))
			}
		}
		for kind, is := range kinds {
			check(kind, "GET", "/"+strings.ReplaceAll(kind, " ", "-")+"/7", is.status, is.body)
		}
		check("404", "GET", "/nowhere", 404, "")
		check("405", "POST", "/text/7", 405, "")
	})
}

// TestRefusals: limits by route, each with its own quota; a refused request
// reaches no handler, is answered in the framework's way, and is seen as what it
// is inside and outside.
func TestRefusals(t *testing.T) {
	everywhere(t, func(t *testing.T, name, proto string, build maker) {
		var mu sync.Mutex
		ran := map[string]int{}
		count := func(path string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				ran[path]++
				io.WriteString(w, "id "+r.PathValue("id"))
			})
		}
		var keys []string
		rule := limiter.Rule{Policy: limiter.PerHour("route", 2), Key: func(r *http.Request) (string, error) {
			key, err := limiter.KeyByRoute(r)
			mu.Lock()
			defer mu.Unlock()
			keys = append(keys, key)
			return key, err
		}}
		records, l := make(sink, 100), make(logbook, 100)
		app := build(l.told, ours(records, rule)...)
		for _, path := range []string{"/users/{id}", "/orders/{id}"} {
			app.Mount("GET", path, count(path))
		}
		s := served(t, proto, app)
		for i, c := range []struct {
			path    string
			status  int
			pattern string
		}{
			{"/users/1", 200, "/users/{id}"},
			{"/users/2", 200, "/users/{id}"},
			{"/users/3", 429, "/users/{id}"},
			{"/orders/1", 200, "/orders/{id}"},
			{"/users/1", 429, "/users/{id}"},
			{"/nowhere", 404, ""},
		} {
			got := do(t, s, "GET", c.path, nil)
			outside, x := <-l, records.next(t)
			if got.status != c.status {
				t.Errorf("%d: %s is %d %q, want %d", i, c.path, got.status, got.body, c.status)
			}
			if x.Status != c.status || x.RefusedBy != map[bool]string{true: "limits"}[c.status == 429] {
				t.Errorf("%d: recorded %d, refused by %q", i, x.Status, x.RefusedBy)
			}
			if outside.status != c.status {
				t.Errorf("%d: a logger outside saw %v", i, outside)
			}
			want := ""
			if c.pattern != "" {
				want = app.Pattern(c.pattern)
			}
			if key := keys[len(keys)-1]; key != want || x.Route != want {
				t.Errorf("%d: key %q and route %q, want %q", i, key, x.Route, want)
			}
			if c.status == 200 && got.body != "id "+c.path[strings.LastIndex(c.path, "/")+1:] {
				t.Errorf("%d: path values: %q", i, got.body)
			}
			if c.status != 429 {
				continue
			}
			if got.header.Get("Retry-After") == "" || got.header.Get("Ratelimit") == "" || int64(len(got.body)) != outside.size {
				t.Errorf("%d: header %v, %d bytes, a logger saw %d", i, got.header, len(got.body), outside.size)
			}
			own := strings.HasPrefix(got.body, `{"error":`)
			if own != strings.HasPrefix(name, "Echo") || !own && got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%d: %s answered %q as %s", i, name, got.body, got.header.Get("Content-Type"))
			}
		}
		if fmt.Sprint(ran) != "map[/orders/{id}:1 /users/{id}:2]" {
			t.Errorf("handlers ran %v", ran)
		}
	})
}

// TestOwnInformational: what a handler of net/http says before its answer
// reaches the client, the record, and nothing else.
func TestOwnInformational(t *testing.T) {
	everywhere(t, func(t *testing.T, name, proto string, build maker) {
		records, l := make(sink, 100), make(logbook, 100)
		app := build(l.told, ours(records, everyone(1000))...)
		statuses := []int{200, 201, 204, 404, 502}
		for _, status := range statuses {
			app.Mount("GET", fmt.Sprintf("/%d", status), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "</a>")
				w.WriteHeader(103)
				w.WriteHeader(103)
				w.WriteHeader(status)
			}))
		}
		s := served(t, proto, app)
		for _, status := range statuses {
			r, err := http.NewRequest("GET", fmt.Sprintf("%s/%d", s.URL, status), nil)
			if err != nil {
				t.Fatal(err)
			}
			infos, link, got, _ := hinted(t, s.Client(), r)
			x, outside := records.next(t), <-l
			if !slices.Equal(infos, []int{103, 103}) || link != "</a>" || got != status {
				t.Errorf("client got %v with Link %q, then %d, want 103 twice and %d", infos, link, got, status)
			}
			if !slices.Equal(x.Informational, infos) || x.Status != status || outside.status != status {
				t.Errorf("%d: recorded %v, then %d; logged %d", status, x.Informational, x.Status, outside.status)
			}
		}
	})
}

// TestOverloadGivesBack: what a limit on requests in flight refuses costs none of
// the quota that the rules outside have taken, whoever writes the answer.
func TestOverloadGivesBack(t *testing.T) {
	everywhere(t, func(t *testing.T, name, proto string, build maker) {
		slots, err := limiter.NewInFlight(limiter.InFlightOptions{Max: 1})
		if err != nil {
			t.Fatal(err)
		}
		records, l := make(sink, 100), make(logbook, 100)
		app := build(l.told, append(ours(records, everyone(2)), slots.Middleware(nil, nil))...)
		app.Mount("GET", "/x", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") }))
		s := served(t, proto, app)

		release, err := slots.Acquire(t.Context(), limiter.Slot{})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			got := do(t, s, "GET", "/x", nil)
			if outside, x := <-l, records.next(t); got.status != 503 || outside.status != 503 || x.Status != 503 || got.header.Get("Retry-After") == "" {
				t.Fatalf("with no slot free: %d %v, recorded %d, logged %d", got.status, got.header, x.Status, outside.status)
			}
		}
		release()
		for i, want := range []int{200, 200, 429} {
			if got := do(t, s, "GET", "/x", nil); got.status != want {
				t.Errorf("%d: %d %q, want %d", i, got.status, got.body, want)
			}
		}
	})
}
