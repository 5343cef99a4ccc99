package crosstest

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// Capture, limits with a quota for each route, and a proxy in Gin. The README of
// weirgin shows the middle part.
func Example_gin() {
	upstream := httptest.NewServer(http.HandlerFunc(exampleUpstream))
	defer upstream.Close()
	sink := capture.SinkFunc(printRecord)
	gin.SetMode(gin.ReleaseMode)
	gin.DefaultErrorWriter = io.Discard

	who, err := clientip.New(nil, nil) // nobody may name the client but the connection itself
	if err != nil {
		log.Fatal(err)
	}
	api, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: upstream.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{{
		Policy: limiter.PerMinute("client-route", 2),
		Key:    limiter.JoinKeys(limiter.KeyByClientIP, limiter.KeyByRoute),
		Match:  func(r *http.Request) bool { return r.Pattern != "" }, // what Gin answers with 404 has no route
	}}, &limiter.Options{OnDecision: func(r *http.Request, d limiter.Decision) {
		if !d.Allowed {
			capture.From(r.Context()).Refused("limits")
		}
	}})

	r := gin.New()
	r.SetTrustedProxies(nil) // or c.ClientIP() is what the client says
	r.Use(weirgin.Wrap(who.Middleware), weirgin.Wrap(capture.Middleware(sink, nil)), weirgin.Wrap(limits), gin.Recovery())
	r.GET("/users/:id", func(c *gin.Context) {
		c.JSON(http.StatusOK, gin.H{"id": c.Param("id")})
	})
	r.Any("/api/*path", weirgin.Handler(api))

	r.GET("/panic", func(*gin.Context) { panic("oh") })
	for _, path := range []string{"/users/1", "/users/2", "/users/3", "/api/x", "/panic", "/nowhere"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Printf("%d %.30q\n", w.Code, w.Body)
	}
	// Output:
	// record: 200 GET /users/:id
	// 200 "{\"id\":\"1\"}"
	// record: 200 GET /users/:id
	// 200 "{\"id\":\"2\"}"
	// record: 429 GET /users/:id, refused by limits
	// 429 "{\"type\":\"https://iana.org/assi"
	// record: 418 GET /api/*path
	// 418 "upstream has /api/x\n"
	// record: 500 GET /panic
	// 500 ""
	// record: 404 GET -
	// 404 "404 page not found"
}
