package crosstest

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"github.com/goweir/weir/adapters/weirecho"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// Capture, limits with a quota for each route, and a proxy in Echo v5. The
// README of weirecho shows the middle part.
func Example_echo() {
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
	e.Use(weirecho.Wrap(who.Middleware), weirecho.Wrap(capture.Middleware(sink, nil)), weirecho.Wrap(limits), middleware.Recover())
	e.GET("/users/:id", func(c *echo.Context) error {
		return c.JSON(http.StatusOK, map[string]string{"id": c.Param("id")})
	})
	e.Any("/api/*", weirecho.Handler(api))

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

// exampleUpstream is a server behind the proxy of the examples.
func exampleUpstream(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "upstream has %s\n", r.URL.Path)
}

// printRecord is the sink of the examples.
func printRecord(_ context.Context, x *capture.Exchange) error {
	line := fmt.Sprintf("record: %d %s %s", x.Status, x.Method, cmp.Or(x.Route, "-"))
	if x.RefusedBy != "" {
		line += ", refused by " + x.RefusedBy
	}
	fmt.Println(line)
	return nil
}
