package crosstest

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/goweir/weir/adapters/weirchi"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/proxy"
)

// Capture, limits with a quota for each route, and a proxy in chi. The
// README of weirchi shows the middle part.
func Example_chi() {
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
		Match:  func(r *http.Request) bool { return r.Pattern != "" }, // what chi answers with 404 has no route
	}}, &limiter.Options{OnDecision: func(r *http.Request, d limiter.Decision) {
		if !d.Allowed {
			capture.From(r.Context()).Refused("limits")
		}
	}})

	r := chi.NewRouter()
	r.Use(weirchi.Pattern(r), who.Middleware, capture.Middleware(sink, nil), limits, middleware.Recoverer)
	r.Get("/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "{%q:%q}\n", "id", chi.URLParam(r, "id"))
	})
	r.Handle("/api/*", api)

	for _, path := range []string{"/users/1", "/users/2", "/users/3", "/api/x", "/nowhere"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Printf("%d %.33s\n", w.Code, w.Body)
	}
	// Output:
	// record: 200 GET /users/{id}
	// 200 {"id":"1"}
	//
	// record: 200 GET /users/{id}
	// 200 {"id":"2"}
	//
	// record: 429 GET /users/{id}, refused by limits
	// 429 {"type":"https://iana.org/assignm
	// record: 418 GET /api/*
	// 418 upstream has /api/x
	//
	// record: 404 GET -
	// 404 404 page not found
}
