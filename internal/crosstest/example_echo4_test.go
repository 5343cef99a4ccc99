package crosstest

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/goweir/weir/adapters/weirecho4"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// Capture, limits with a quota for each route, and a proxy in Echo v4. The
// README of weirecho4 shows the middle part.
func Example_echo4() {
	upstream := httptest.NewServer(http.HandlerFunc(exampleUpstream))
	defer upstream.Close()
	sink := capture.SinkFunc(printRecord)

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
		Match:  func(r *http.Request) bool { return r.Pattern != "" }, // what Echo answers with 404 has no route
	}}, &limiter.Options{OnDecision: func(r *http.Request, d limiter.Decision) {
		if !d.Allowed {
			capture.From(r.Context()).Refused("limits")
		}
	}})

	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect() // without one Echo v4 believes everybody
	e.Use(weirecho4.Wrap(who.Middleware), weirecho4.Wrap(capture.Middleware(sink, nil)), weirecho4.Wrap(limits), middleware.Recover())
	e.GET("/users/:id", func(c echo.Context) error {
		return c.JSON(http.StatusOK, map[string]string{"id": c.Param("id")})
	})
	e.Any("/api/*", weirecho4.Handler(api))

	for _, path := range []string{"/users/1", "/users/2", "/users/3", "/api/x", "/nowhere"} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Printf("%d %.33s\n", w.Code, w.Body)
	}
	// Output:
	// record: 200 GET /users/:id
	// 200 {"id":"1"}
	//
	// record: 200 GET /users/:id
	// 200 {"id":"2"}
	//
	// record: 429 GET /users/:id, refused by limits
	// 429 {"message":"Too Many Requests"}
	//
	// record: 418 GET /api/*
	// 418 upstream has /api/x
	//
	// record: 404 GET -
	// 404 {"message":"Not Found"}
}
