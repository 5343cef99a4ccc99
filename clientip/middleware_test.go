package clientip_test

import (
	"context"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/goweir/weir/clientip"
)

// serve runs h with r and returns what From says inside.
func serve(t *testing.T, wrap func(http.Handler) http.Handler, r *http.Request) string {
	t.Helper()
	var got string
	called := false
	h := wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		called, got = true, text(clientip.From(r))
	}))
	h.ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Fatal("the handler was not called")
	}
	return got
}

func TestMiddleware(t *testing.T) {
	v := resolver(t, trusted, nil)
	for _, tt := range listTests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.remote, "X-Forwarded-For", tt.lines...)
			if got := serve(t, v.Middleware, r); got != tt.want {
				t.Errorf("From = %q, want %q", got, tt.want)
			}
			if r.RemoteAddr != tt.remote || len(r.Header["X-Forwarded-For"]) != len(tt.lines) {
				t.Errorf("the request was changed: RemoteAddr %q, header %q", r.RemoteAddr, r.Header)
			}
		})
	}
}

func TestFromWithoutMiddleware(t *testing.T) {
	for remote, want := range map[string]string{
		proxy:                      "10.0.0.1",
		"[2001:db8:2::9]:1":        "2001:db8:2::9",
		"[::ffff:198.51.100.9]:1":  "198.51.100.9",
		"[fe80::1%Ethernet 2]:123": "fe80::1",
		"@":                        "",
		"":                         "",
	} {
		r := request(remote, "X-Forwarded-For", "203.0.113.7")
		r.Header.Set("Forwarded", "for=203.0.113.7")
		r.Header.Set("X-Real-Ip", "203.0.113.7")
		if got := text(clientip.From(r)); got != want {
			t.Errorf("From of peer %q = %q, want %q", remote, got, want)
		}
	}
}

// The context was made once: what a handler does to the request afterwards, or
// to its context, does not change the answer.
func TestFromIsResolvedOnce(t *testing.T) {
	type key struct{}
	v := resolver(t, trusted, nil)
	h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		r.RemoteAddr = "198.51.100.2:1"
		ctx, cancel := context.WithCancel(context.WithValue(r.Context(), key{}, "own"))
		defer cancel()
		r = r.WithContext(ctx)
		if got := text(clientip.From(r)); got != "203.0.113.7" {
			t.Errorf("From = %q, want what the Middleware found, 203.0.113.7", got)
		}
		if got := r.Context().Value(key{}); got != "own" {
			t.Errorf("another value of the context = %v, want %q", got, "own")
		}
	}))
	h.ServeHTTP(httptest.NewRecorder(), request(proxy, "X-Forwarded-For", "203.0.113.7"))
}

func TestMiddlewareKeepsContext(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "outer"))
	r := request(proxy, "X-Forwarded-For", "203.0.113.7").WithContext(ctx)
	v := resolver(t, trusted, nil)
	h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got := r.Context().Value(key{}); got != "outer" {
			t.Errorf("Value of the outer context = %v, want %q", got, "outer")
		}
		derived, stop := context.WithCancel(r.Context())
		defer stop()
		cancel()
		<-derived.Done()
	}))
	h.ServeHTTP(httptest.NewRecorder(), r)
}

func TestMiddlewareStacked(t *testing.T) {
	byList := resolver(t, trusted, nil)
	byForwarded := resolver(t, trusted, &clientip.Options{Forwarded: true})
	nobody := resolver(t, nil, nil)
	between := func(got *string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				*got = text(clientip.From(r))
				next.ServeHTTP(w, r)
			})
		}
	}
	tests := []struct {
		name         string
		outer, inner *clientip.Resolver
		wantBetween  string
		want         string
	}{
		{"same twice", byList, byList, "203.0.113.1", "203.0.113.1"},
		{"other source inside", byList, byForwarded, "203.0.113.1", "203.0.113.2"},
		{"other source outside", byForwarded, byList, "203.0.113.2", "203.0.113.1"},
		{"narrower inside", byList, nobody, "203.0.113.1", "10.0.0.1"},
		{"wider inside", nobody, byList, "10.0.0.1", "203.0.113.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(proxy, "X-Forwarded-For", "203.0.113.1")
			r.Header.Set("Forwarded", "for=203.0.113.2")
			var gotBetween string
			got := serve(t, func(h http.Handler) http.Handler {
				return tt.outer.Middleware(between(&gotBetween)(tt.inner.Middleware(h)))
			}, r)
			if gotBetween != tt.wantBetween || got != tt.want {
				t.Errorf("From between = %q, inside = %q, want %q, %q", gotBetween, got, tt.wantBetween, tt.want)
			}
		})
	}
}

// Middleware hands on a copy of the request. What the layers outside and the
// server need from it afterwards must be back in the original.
func TestMiddlewareCopiesBack(t *testing.T) {
	v := resolver(t, trusted, nil)
	form := &multipart.Form{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /users/{id}", func(_ http.ResponseWriter, r *http.Request) { r.MultipartForm = form })
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	h := v.Middleware(mux)

	r := httptest.NewRequest("GET", "/users/7", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if r.Pattern != "GET /users/{id}" || r.MultipartForm != form {
		t.Errorf("outside: Pattern = %q, MultipartForm = %p, want those of the handler", r.Pattern, r.MultipartForm)
	}

	r = httptest.NewRequest("GET", "/panic", nil)
	func() {
		defer func() {
			if got := recover(); got != http.ErrAbortHandler {
				t.Errorf("recovered %v, want http.ErrAbortHandler unchanged", got)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if r.Pattern != "GET /panic" {
		t.Errorf("outside a panic: Pattern = %q, want %q", r.Pattern, "GET /panic")
	}
}

func TestMiddlewarePanicsWithoutHandler(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Middleware(nil) did not panic")
		}
	}()
	resolver(t, trusted, nil).Middleware(nil)
}

// Through a real server and a real connection.
func TestMiddlewareServer(t *testing.T) {
	v := resolver(t, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, nil)
	srv := httptest.NewServer(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Client", text(clientip.From(r)))
	})))
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["X-Forwarded-For"] = []string{"198.51.100.1", "203.0.113.7"}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Client"); got != "203.0.113.7" {
		t.Errorf("From behind a server = %q, want 203.0.113.7", got)
	}
}
