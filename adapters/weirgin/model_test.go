package weirgin_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

var statuses = []int{200, 201, 204, 302, 304, 400, 404, 405, 429, 500}

// write does something to w that handlers do, the same for the same numbers.
func write(w http.ResponseWriter, r *rand.Rand) string {
	status := statuses[r.IntN(len(statuses))]
	n := []int{0, 1, 10, 511, 512, 513, 3000, 10_000}[r.IntN(8)]
	switch r.IntN(8) {
	case 0, 1:
		w.WriteHeader(status)
		return fmt.Sprintf("WriteHeader(%d)", status)
	case 2:
		w.Write(bytes.Repeat([]byte("x"), n))
		return fmt.Sprintf("Write(%d)", n)
	case 3:
		io.WriteString(w, strings.Repeat("x", n))
		return fmt.Sprintf("WriteString(%d)", n)
	case 4:
		io.Copy(w, io.LimitReader(strings.NewReader(strings.Repeat("x", n)), int64(n)))
		return fmt.Sprintf("ReadFrom(%d)", n)
	case 5:
		http.NewResponseController(w).Flush()
		return "Flush"
	case 6:
		w.Header().Set("X-Set", fmt.Sprint(n))
		return fmt.Sprintf("Set(%d)", n)
	default:
		w.Header().Set(http.TrailerPrefix+"X-Sum", fmt.Sprint(n))
		return "Trailer"
	}
}

// script does what is drawn from the seed in path.
func script(path string, do func(*rand.Rand) string) (did []string) {
	seed, _ := strconv.ParseUint(path[strings.LastIndex(path, "/")+1:], 10, 64)
	r := rand.New(rand.NewPCG(seed, 1))
	for range r.IntN(6) {
		did = append(did, do(r))
	}
	return did
}

// scripts is how many are drawn for each way and protocol.
func scripts() int {
	if testing.Short() {
		return 60
	}
	return 400
}

// TestHandlerIsNetHTTPs draws what a handler of net/http does: its client gets
// the same through Handler, below Wrap or not, where there is a route and where
// there is none, and as the answer of a middleware in Wrap, as without Gin.
func TestHandlerIsNetHTTPs(t *testing.T) {
	act := func(w http.ResponseWriter) func(*rand.Rand) string {
		return func(r *rand.Rand) string {
			if r.IntN(6) == 0 {
				w.WriteHeader(http.StatusEarlyHints)
				return "103"
			}
			return write(w, r)
		}
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { script(r.URL.Path, act(w)) })
	both(t, func(t *testing.T, serve serving) {
		bare := serve(t, h)
		engines := mounts(h)
		nowhere := newGin()
		nowhere.NoRoute(weirgin.Handler(h))
		engines["NoRoute"] = nowhere
		for way, e := range engines {
			s := serve(t, e)
			s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			bare.Client().CheckRedirect = s.Client().CheckRedirect
			for seed := range scripts() {
				path := fmt.Sprintf("/%d", seed)
				want, got := do(t, bare, "GET", path), do(t, s, "GET", path)
				for _, name := range []string{"Date", "Content-Length"} { // which a writer without ReadFrom changes
					want.header.Del(name)
					got.header.Del(name)
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("%s, %v: client got\n%.300v, from net/http\n%.300v", way, script(path, act(&cheapest{http.Header{}})), got, want)
				}
			}
		}
	})
}

// TestGinIsGins draws what a handler of Gin does: its client, and a logger
// outside, see the same below Wrap as without it.
func TestGinIsGins(t *testing.T) {
	act := func(c *gin.Context) func(*rand.Rand) string {
		return func(r *rand.Rand) string {
			defer func() { // what handlers are told of their writer
				c.Set("told", fmt.Sprint(c.GetString("told"), c.Writer.Status(), " ", c.Writer.Size(), " ", c.Writer.Written(), "; "))
			}()
			status := statuses[r.IntN(len(statuses))]
			switch r.IntN(7) {
			case 0:
				c.Status(status)
				return fmt.Sprintf("Status(%d)", status)
			case 1:
				c.String(status, "text")
				return fmt.Sprintf("String(%d)", status)
			case 2:
				c.AbortWithStatus(status)
				return fmt.Sprintf("AbortWithStatus(%d)", status)
			case 3:
				c.Writer.WriteHeaderNow()
				return "WriteHeaderNow"
			case 4:
				c.Error(io.ErrUnexpectedEOF)
				return "Error"
			default:
				return write(c.Writer, r)
			}
		}
	}
	app := func(m ...gin.HandlerFunc) (*gin.Engine, chan string) {
		logged := make(chan string, 1)
		e := newGin()
		e.Use(func(c *gin.Context) {
			c.Next()
			logged <- fmt.Sprintf("%d, %d bytes, written: %t, aborted: %t, errors: %v; %s", c.Writer.Status(), c.Writer.Size(), c.Writer.Written(), c.IsAborted(), c.Errors.Errors(), c.GetString("told"))
		}, func(c *gin.Context) {
			c.Next()
			if len(c.Errors) > 0 && !c.Writer.Written() {
				c.JSON(-1, gin.H{"errors": c.Errors.Errors()})
			}
		})
		e.Use(m...)
		e.GET("/:seed", func(c *gin.Context) { script(c.Request.URL.Path, act(c)) })
		return e, logged
	}
	both(t, func(t *testing.T, serve serving) {
		without, loggedWithout := app()
		bare := serve(t, without)
		for name, chain := range map[string][]gin.HandlerFunc{
			"Wrap":                       {weirgin.Wrap(through)},
			"Wraps":                      {weirgin.Wrap(through), weirgin.Wrap(through)},
			"Wrap that writes in place":  {weirgin.Wrap(recorder(new(record)))},
			"below Gin's usual wrapper":  {func(c *gin.Context) { c.Writer = &embedding{ResponseWriter: c.Writer} }, weirgin.Wrap(through)},
			"below a writer that is not": {func(c *gin.Context) { c.Writer = &opaque{c.Writer} }, weirgin.Wrap(through)},
		} {
			with, loggedWith := app(chain...)
			s := serve(t, with)
			s.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			bare.Client().CheckRedirect = s.Client().CheckRedirect
			for seed := range scripts() {
				path := fmt.Sprintf("/%d", seed)
				want, got := do(t, bare, "GET", path), do(t, s, "GET", path)
				want.header.Del("Date")
				got.header.Del("Date")
				before, after := <-loggedWithout, <-loggedWith
				if fmt.Sprint(got) != fmt.Sprint(want) || before != after {
					c, _ := gin.CreateTestContext(&cheapest{http.Header{}})
					t.Fatalf("%s, %v: client got\n%.300v, without\n%.300v; logged\n%s, without\n%s", name, script(path, act(c)), got, want, after, before)
				}
			}
		}
	})
}
