package main

import (
	"context"
	"net/http"

	"github.com/goweir/weir/capture"
)

// noteCut marks the records of exchanges that the end of the gateway cut short:
// they look as if their clients had left.
func noteCut(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if context.Cause(r.Context()) == errShutdown {
				capture.From(r.Context()).Set("cut_by", "shutdown")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// match tells everything behind it which route a request takes.
func match(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !odd(r) {
			_, r.Pattern = mux.Handler(r)
		}
		next.ServeHTTP(w, r)
	})
}

// odd reports whether the target of r is something else than a path, such as
// "*" or "http:opaque". ServeMux sees an empty path then and redirects to "/".
func odd(r *http.Request) bool {
	return r.URL.Opaque != "" || r.URL.Path != "" && r.URL.Path[0] != '/'
}

func refuseOdd(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if odd(r) {
			w.Header().Set("Connection", "close")
			http.Error(w, "The request target must be a path.", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
