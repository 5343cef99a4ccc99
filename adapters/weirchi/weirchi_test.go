package weirchi_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/goweir/weir/adapters/weirchi"
)

// A view is what one place on a request's way sees of its route.
type view struct {
	pattern string
	values  map[string]string
}

var names = []string{"id", "tenant", "year", "*"}

func look(r *http.Request) view {
	v := view{r.Pattern, map[string]string{}}
	for _, name := range names {
		if value := r.PathValue(name); value != "" {
			v.values[name] = value
		}
	}
	return v
}

func (v view) equal(o view) bool { return v.pattern == o.pattern && maps.Equal(v.values, o.values) }

// looking returns a middleware that looks before next.
func looking(v *view) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*v = look(r)
			next.ServeHTTP(w, r)
		})
	}
}

// routes registers routes of every kind, whose handler looks, and returns the
// path of each.
func routes(r chi.Router, in func(*http.Request)) []string {
	h := func(w http.ResponseWriter, r *http.Request) { in(r) }
	r.Get("/", h)
	r.Get("/users", h)
	r.Get("/users/{id}", h)
	r.Post("/users/{id}", h)
	r.Get("/by/{year:[0-9]+}/{id}", h)
	r.Get("/files/*", h)
	r.Get("/trailing/", h)
	r.HandleFunc("/any/{id}.json", h)
	r.With(func(next http.Handler) http.Handler { return next }).Get("/with/{id}", h)
	r.Group(func(r chi.Router) { r.Get("/group/{id}", h) })
	r.Route("/route/{tenant}", func(r chi.Router) {
		r.Get("/", h)
		r.Get("/users/{id}", h)
		r.Route("/deep", func(r chi.Router) {
			r.Get("/{id}", h)
			r.Get("/files/*", h)
		})
	})
	r.Mount("/foreign", http.HandlerFunc(h))
	return []string{
		"/", "/users", "/users/7", "/users/a%2Fb", "/by/2026/7", "/files/a/b", "/files/", "/trailing/", "/any/7.json",
		"/with/7", "/group/7", "/route/acme", "/route/acme/", "/route/acme/users/7", "/route/acme/deep/7",
		"/route/acme/deep/files/a/b", "/foreign", "/foreign/x/y",
	}
}

// places are where a Pattern can stand, each with a router that has routes.
func places(in func(*http.Request), before *view) map[string]http.Handler {
	used := chi.NewRouter()
	used.Use(weirchi.Pattern(used), looking(before))
	routes(used, in)

	fronted := chi.NewRouter()
	routes(fronted, in)

	return map[string]http.Handler{
		"in Use":      used,
		"in front":    weirchi.Pattern(fronted)(looking(before)(fronted)),
		"in a mux":    muxed(used),
		"stripslash":  stripped(in, before),
		"in a router": mounted(in, before),
	}
}

func muxed(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h)
	return mux
}

// stripped routes by a path that a middleware of chi has changed.
func stripped(in func(*http.Request), before *view) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.StripSlashes, weirchi.Pattern(r), looking(before))
	routes(r, in)
	return r
}

// mounted is a router within two others, with a Pattern of its own.
func mounted(in func(*http.Request), before *view) http.Handler {
	inner := chi.NewRouter()
	inner.Use(weirchi.Pattern(inner), looking(before))
	routes(inner, in)
	between := chi.NewRouter()
	between.Mount("/between", inner)
	outer := chi.NewRouter()
	outer.Mount("/outer/{tenant}", between)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/outer/acme/between" + r.URL.Path
		if r.URL.RawPath != "" {
			r.URL.RawPath = "/outer/acme/between" + r.URL.RawPath
		}
		outer.ServeHTTP(w, r)
	})
}

// TestPatternIsWhatChiWillSay: what the middleware sees before is what the
// handler sees after, for every kind of route and wherever the Pattern stands.
func TestPatternIsWhatChiWillSay(t *testing.T) {
	var before, after view
	served := false
	in := func(r *http.Request) { after, served = look(r), true }
	n := 0
	for place, h := range places(in, &before) {
		for _, path := range routes(chi.NewRouter(), in) {
			for _, method := range []string{"GET", "POST", "DELETE", "BREW"} {
				before, after, served = view{}, view{}, false
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
				if served {
					n++
					if after.pattern == "" || !before.equal(after) {
						t.Errorf("%s %s, %s: %v before routing, %v after", method, path, place, before, after)
					}
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d requests were served", n)
	}
}

// naive is what has to do without Pattern.
func naive(chi.Routes) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler { return next }
}

// trap runs check, which says what is wrong: nothing may be with Pattern, and
// something must be without.
func trap(t *testing.T, check func(pattern func(chi.Routes) func(http.Handler) http.Handler) string) {
	t.Helper()
	if wrong := check(weirchi.Pattern); wrong != "" {
		t.Error(wrong)
	}
	wrong := check(naive)
	if wrong == "" {
		t.Error("all is well without Pattern; the trap is closed upstream")
	}
	t.Log("without: ", wrong)
}

// TestTrapAdapters03_NoRouteIsNoPattern: what ends in 404 or 405 has no pattern
// before routing, or the one that a mux in front has set; what has a route of
// another method does not get that one's.
func TestTrapAdapters03_NoRouteIsNoPattern(t *testing.T) {
	trap(t, func(pattern func(chi.Routes) func(http.Handler) http.Handler) string {
		var before view
		r := chi.NewRouter()
		r.Use(pattern(r), looking(&before))
		r.Get("/users/{id}", func(http.ResponseWriter, *http.Request) {})
		r.Route("/sub", func(r chi.Router) { r.Get("/x", func(http.ResponseWriter, *http.Request) {}) })
		mux := http.NewServeMux()
		mux.Handle("/users/", r)
		for _, x := range []struct {
			method, path string
			h            http.Handler
			pattern      string
			status       int
		}{
			{"GET", "/users/7", r, "/users/{id}", 200},
			{"GET", "/users/7", mux, "/users/{id}", 200},
			{"POST", "/users/7", r, "", 405},
			{"GET", "/nowhere", r, "", 404},
			{"GET", "/sub/nowhere", r, "", 404},
			{"POST", "/sub/x", r, "", 405},
			{"BREW", "/users/7", r, "", 405},
			{"GET", "/users/7/nowhere", mux, "/users/", 404},
		} {
			w := httptest.NewRecorder()
			x.h.ServeHTTP(w, httptest.NewRequest(x.method, x.path, nil))
			if before.pattern != x.pattern || w.Code != x.status {
				return fmt.Sprintf("%s %s: pattern %q and %d, want %q and %d", x.method, x.path, before.pattern, w.Code, x.pattern, x.status)
			}
		}
		return ""
	})
}

// TestTrapAdapters10_RouteIsKnownBefore: a middleware in Use has a key by route,
// by server as by recorder.
func TestTrapAdapters10_RouteIsKnownBefore(t *testing.T) {
	trap(t, func(pattern func(chi.Routes) func(http.Handler) http.Handler) string {
		var before view
		r := chi.NewRouter()
		r.Use(pattern(r), looking(&before))
		r.Get("/users/{id}", func(http.ResponseWriter, *http.Request) {})
		for _, http2 := range []bool{false, true} {
			s := httptest.NewUnstartedServer(r)
			s.EnableHTTP2 = http2
			s.StartTLS()
			res, err := s.Client().Get(s.URL + "/users/7")
			if err != nil {
				return err.Error()
			}
			res.Body.Close()
			s.Close()
			if !before.equal(view{"/users/{id}", map[string]string{"id": "7"}}) {
				return fmt.Sprintf("%s: %v", res.Proto, before)
			}
		}
		return ""
	})
}

// TestTrapAdapters11_PatternIsSeenOutside: chi sets the pattern on a request of
// its own, so that whoever stands outside of the router never sees it.
func TestTrapAdapters11_PatternIsSeenOutside(t *testing.T) {
	trap(t, func(pattern func(chi.Routes) func(http.Handler) http.Handler) string {
		r := chi.NewRouter()
		r.Get("/users/{id}", func(http.ResponseWriter, *http.Request) {})
		var after view
		logger := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				after = look(r)
			})
		}
		logger(pattern(r)(r)).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/users/7", nil))
		if !after.equal(view{"/users/{id}", map[string]string{"id": "7"}}) {
			return fmt.Sprint("after routing, outside: ", after)
		}
		return ""
	})
}

// TestRoutingIsUntouched: what handlers of chi ask chi for is as without Pattern.
func TestRoutingIsUntouched(t *testing.T) {
	get := func(use ...func(http.Handler) http.Handler) (all []string) {
		r := chi.NewRouter()
		r.Use(use...)
		in := func(r *http.Request) {
			at := chi.RouteContext(r.Context())
			all = append(all, fmt.Sprint(at.RoutePattern(), at.RoutePatterns, at.URLParams, at.RoutePath, at.RouteMethod))
		}
		paths := routes(r, in)
		for _, path := range paths {
			r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		}
		return all
	}
	without := get(func(next http.Handler) http.Handler { return next })
	var r *chi.Mux
	with := get(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if r == nil {
				r = chi.RouteContext(req.Context()).Routes.(*chi.Mux)
			}
			weirchi.Pattern(r)(next).ServeHTTP(w, req)
		})
	})
	if len(without) < 10 || !slices.Equal(with, without) {
		t.Errorf("with Pattern\n%s\nwithout\n%s", strings.Join(with, "\n"), strings.Join(without, "\n"))
	}
}

func TestPatternNeedsARouter(t *testing.T) {
	defer func() {
		if v := recover(); v != "weirchi: Pattern needs the router, not nil" {
			t.Errorf("recovered %v", v)
		}
	}()
	weirchi.Pattern(nil)
}
