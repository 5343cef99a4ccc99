package weirecho_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/labstack/echo/v5"
)

// A script is what a middleware does with its writer, one step after the other.
type script []step

type step struct {
	do string
	n  int
}

func (s script) String() string {
	var b strings.Builder
	for _, step := range s {
		fmt.Fprintf(&b, " %s(%d)", step.do, step.n)
	}
	return b.String()
}

// draw returns a script in which each kind of step is likely.
func draw(r *rand.Rand) (s script) {
	steps := []script{
		{{"set", r.IntN(9)}}, {{"type", r.IntN(9)}},
		{{"status", []int{200, 302, 204, 400, 404, 429, 429, 503, 599}[r.IntN(9)]}},
		{{"write", []int{0, 1, 100, 8 << 10, 16 << 10, 16<<10 + 1, 40_000}[r.IntN(7)]}},
		{{"string", []int{0, 1, 16 << 10}[r.IntN(3)]}},
		{{"copy", []int{0, 1, 600, 16 << 10, 40_000}[r.IntN(5)]}},
		{{"flush", 0}}, {{"hint", 103}}, {{"next", 0}}, {{"status", 429}}, {{"status", 503}, {"string", 100}},
	}
	nexts := 0
	for range 1 + r.IntN(6) {
		drawn := steps[r.IntN(len(steps))]
		if drawn[0].do == "next" {
			if nexts++; nexts > 1 {
				continue
			}
		}
		s = append(s, drawn...)
		if r.IntN(2) == 0 { // steps with new arguments
			steps[0][0].n, steps[1][0].n = r.IntN(9), r.IntN(9)
		}
	}
	return s
}

// run is the middleware that s describes.
func (s script) run(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, step := range s {
			switch step.do {
			case "set":
				w.Header().Set(fmt.Sprintf("X-%d", step.n%3), fmt.Sprint(step.n))
			case "type":
				w.Header().Set("Content-Type", fmt.Sprintf("text/x-%d", step.n))
			case "status", "hint":
				w.WriteHeader(step.n)
			case "write":
				w.Write(big[:step.n])
			case "string":
				io.WriteString(w, string(big[:step.n]))
			case "copy":
				io.Copy(w, struct{ io.Reader }{bytes.NewReader(big[:step.n])})
			case "flush":
				http.NewResponseController(w).Flush()
			case "next":
				next.ServeHTTP(w, r)
			}
		}
	})
}

// refusal says whether s refuses, with which status and fields.
func (s script) refusal() (status int, fields map[string]string) {
	now := map[string]string{}
	held := 0
	for _, step := range s {
		switch step.do {
		case "set":
			now[fmt.Sprintf("X-%d", step.n%3)] = fmt.Sprint(step.n)
		case "status":
			if status != 0 {
				break
			}
			if step.n < 400 {
				return 0, nil
			}
			status, fields = step.n, map[string]string{}
			maps.Copy(fields, now)
		case "write", "string", "copy":
			if step.do == "copy" && step.n == 0 {
				break // sends nothing, nor a header
			}
			if held += step.n; status == 0 || held > 16<<10 {
				return 0, nil
			}
		case "flush", "next":
			return 0, nil
		}
	}
	return status, fields
}

// TestRefusalModel draws what middleware may do. Where it refuses, the error
// handler answers with its status and fields; where it does not, the client gets
// what it gets without Echo.
func TestRefusalModel(t *testing.T) {
	const handled = "by the error handler"
	rounds := 1500
	if testing.Short() {
		rounds = 300
	}
	var now script
	next := func(w http.ResponseWriter) {
		w.Header().Set("X-Next", "1")
		io.WriteString(w, "next")
	}
	e := newEcho()
	e.HTTPErrorHandler = func(c *echo.Context, err error) {
		c.Blob(echo.StatusCode(err), "text/handled", []byte(handled))
	}
	e.GET("/", func(c *echo.Context) error { next(c.Response()); return nil },
		wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.run(next).ServeHTTP(w, r) })
		}))
	through := serveBy("HTTP/1.1")(t, e)
	bare := serveBy("HTTP/1.1")(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now.run(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next(w) })).ServeHTTP(w, r)
	}))
	for _, s := range []*http.Client{through.Client(), bare.Client()} {
		s.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	refused := 0
	for seed := range uint64(rounds) {
		now = draw(rand.New(rand.NewPCG(seed, 7)))
		got, want := get(t, through, "/"), get(t, bare, "/")
		if status, fields := now.refusal(); status != 0 {
			refused++
			want = answer{status, http.Header{"Content-Type": {"text/handled"}}, handled, nil}
			for name, value := range fields {
				want.header.Set(name, value)
			}
		}
		if got.status != want.status || got.body != want.body || (got.err == nil) != (want.err == nil) {
			t.Errorf("%s (seed %d): %d with %d bytes, %v; want %d with %d, %v", now, seed, got.status, len(got.body), got.err, want.status, len(want.body), want.err)
		}
		for _, name := range []string{"X-0", "X-1", "X-2", "X-Next", "Content-Type"} {
			if got, want := got.header.Get(name), want.header.Get(name); got != want {
				t.Errorf("%s (seed %d): %s is %q, want %q", now, seed, name, got, want)
			}
		}
	}
	if refused < rounds/10 || refused > rounds/2 {
		t.Errorf("%d of %d were refusals", refused, rounds)
	}
}
