// Package weirchi tells net/http middleware the route of a request before chi
// has routed it.
//
// Middleware for chi is middleware for net/http, so nothing needs to be wrapped.
// But what stands in Use runs before routing, and sees no route: a limit by
// route has no key there, and a record no pattern. [Pattern] matches first.
//
// The package imports chi and nothing else. It works with any middleware.
package weirchi

import (
	"net/http"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
)

// Pattern returns a middleware that sets the request's Pattern, and its path
// values, to those that chi will set when it gets there. Give it the router it
// stands in, and put it first:
//
//	r := chi.NewRouter()
//	r.Use(weirchi.Pattern(r), audit, limits)
//
// or the router it stands in front of:
//
//	http.ListenAndServe(addr, weirchi.Pattern(r)(audit(r)))
//
// where middleware outside sees the pattern too, after routing as before, which
// it does not otherwise: chi sets it on a request of its own. In a router that is
// mounted in another, the pattern begins with that of the other. Middleware of
// With and Group runs after routing and needs no Pattern.
//
// Where no route matches, by path or by method, Pattern leaves the request as it
// is: what will be answered with 404 or 405 has no pattern but one that somebody
// in front has set. A path or method that was changed through chi's routing
// context, as by chi's StripSlashes and GetHead, is the one that counts.
//
// The path is searched twice, here and by chi. Safe for concurrent use. Panics if
// routes is nil.
func Pattern(routes chi.Routes) func(http.Handler) http.Handler {
	if routes == nil {
		panic("weirchi: Pattern needs the router, not nil")
	}
	contexts := sync.Pool{New: func() any { return chi.NewRouteContext() }}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rctx := contexts.Get().(*chi.Context)
			match(routes, rctx, r)
			rctx.Reset()
			contexts.Put(rctx)
			next.ServeHTTP(w, r)
		})
	}
}

// match finds r's route by means of found, and tells r.
func match(routes chi.Routes, found *chi.Context, r *http.Request) {
	method, path := r.Method, ""
	if at := chi.RouteContext(r.Context()); at != nil {
		if routed(at) {
			return
		}
		if at.RouteMethod != "" {
			method = at.RouteMethod
		}
		path = at.RoutePath
		found.RoutePatterns = append(found.RoutePatterns, at.RoutePatterns...)
		found.URLParams.Keys = append(found.URLParams.Keys, at.URLParams.Keys...)
		found.URLParams.Values = append(found.URLParams.Values, at.URLParams.Values...)
	}
	if path == "" {
		if path = r.URL.RawPath; path == "" {
			path = r.URL.Path
		}
		if path == "" {
			path = "/"
		}
	}
	if !routes.Match(found, method, path) {
		return
	}
	r.Pattern = found.RoutePattern()
	last := len(found.URLParams.Keys) - 1
	for i, key := range found.URLParams.Keys {
		value := found.URLParams.Values[i]
		if key == "*" && (i < last || !strings.HasSuffix(r.Pattern, "*")) {
			value = "" // of a mount: chi takes it away from the router there
		}
		r.SetPathValue(key, value)
	}
}

// routed reports whether the router that the request is in has routed it
// already, so that its pattern is known. Between two routers it has not: the
// outer one's last pattern is that of the mount, and the rest of the path, which
// was that pattern's wildcard, is the inner one's.
func routed(at *chi.Context) bool {
	n := len(at.RoutePatterns)
	if n == 0 {
		return false
	}
	last := len(at.URLParams.Keys) - 1
	between := strings.HasSuffix(at.RoutePatterns[n-1], "/*") &&
		last >= 0 && at.URLParams.Keys[last] == "*" && at.URLParams.Values[last] == ""
	return !between
}
