package weirgin_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

// snippet is the body logger that is usually written for Gin, without the
// logging.
func snippet(c *gin.Context) {
	b := &embedding{ResponseWriter: c.Writer}
	c.Writer = b
	body, _ := io.ReadAll(c.Request.Body)
	c.Request.Body = io.NopCloser(bytes.NewReader(body))
	c.Next()
	if b.body.Len() == 0 {
		panic("nothing to log")
	}
}

var ways = []struct {
	name  string
	chain []gin.HandlerFunc
	most  float64 // allocations over Gin alone; 0: any
}{
	{"Gin alone", nil, 0},
	{"Wrap", []gin.HandlerFunc{weirgin.Wrap(through)}, 5},
	{"Wrap twice", []gin.HandlerFunc{weirgin.Wrap(through), weirgin.Wrap(through)}, 10},
	{"body-log snippet", []gin.HandlerFunc{snippet}, 0},
}

// cheapest is a writer that costs nothing.
type cheapest struct{ header http.Header }

func (w *cheapest) Header() http.Header         { return w.header }
func (w *cheapest) Write(p []byte) (int, error) { return len(p), nil }
func (w *cheapest) WriteHeader(int)             {}

// serveOnce returns a function that serves the same request to path anew.
func serveOnce(path string, chain ...gin.HandlerFunc) func() {
	e := gin.New()
	e.SetTrustedProxies(nil)
	e.Use(chain...)
	body := []byte("text")
	handler := func(c *gin.Context) { c.Writer.Write(body) }
	e.GET("/users/:id", handler)
	e.GET("/fixed", handler)
	w := &cheapest{http.Header{}}
	fresh := httptest.NewRequest("GET", path, http.NoBody)
	r := new(http.Request)
	return func() {
		*r = *fresh
		e.ServeHTTP(w, r)
	}
}

func TestAllocations(t *testing.T) {
	for _, path := range []string{"/fixed", "/users/7"} {
		bare := testing.AllocsPerRun(200, serveOnce(path))
		for _, way := range ways {
			n := testing.AllocsPerRun(200, serveOnce(path, way.chain...)) - bare
			t.Logf("%s, %s: %.0f allocations over Gin alone", path, way.name, n)
			if way.most > 0 && n > way.most {
				t.Errorf("%s, %s: %.0f allocations over Gin alone, want at most %.0f", path, way.name, n, way.most)
			}
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	for _, path := range []string{"/fixed", "/users/7"} {
		for _, way := range ways {
			b.Run(way.name+" "+path, func(b *testing.B) {
				serve := serveOnce(path, way.chain...)
				b.ReportAllocs()
				for b.Loop() {
					serve()
				}
			})
		}
	}
}
