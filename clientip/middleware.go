package clientip

import (
	"context"
	"net/http"
	"net/netip"
)

// resolved is a context that carries an address. A type of its own costs one
// allocation a request, where context.WithValue costs two.
type resolved struct {
	context.Context
	addr netip.Addr
}

type contextKey struct{}

func (c *resolved) Value(key any) any {
	if key == (contextKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Middleware resolves the client's address once a request and hands it to next
// in the request's context, where [From] finds it. The header and RemoteAddr
// stay as they are. It panics if next is nil.
//
// Each Middleware resolves anew, from the peer and by its own trust. Where two
// are stacked, the inner one's answer is what the handlers within it see; those
// between the two see the outer one's.
//
// Next is given a shallow copy of the request. When it returns or panics,
// Pattern and MultipartForm are copied back, as middleware outside may ask for
// the one and [http.Server] removes the temporary files of the other.
func (v *Resolver) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("clientip: Middleware needs a handler, not nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner := r.WithContext(&resolved{r.Context(), v.Addr(r)})
		defer func() {
			// Written only when there is news: a request is not ours to write to.
			if r.Pattern != inner.Pattern {
				r.Pattern = inner.Pattern
			}
			if r.MultipartForm != inner.MultipartForm {
				r.MultipartForm = inner.MultipartForm
			}
		}()
		next.ServeHTTP(w, inner)
	})
}

// From returns the address of the client of r as the innermost
// [Resolver.Middleware] around the caller resolved it. Without a Middleware it
// is the address of the peer, folded alike, and never one from a header. It is
// the zero Addr if there is none; see the package comment.
//
// From does not allocate. r, or its context, must be the one that the Middleware
// passed on or descend from it.
func From(r *http.Request) netip.Addr {
	if c, ok := r.Context().Value(contextKey{}).(*resolved); ok {
		return c.addr
	}
	peer := parseNode(r.RemoteAddr)
	warnIgnored(r, peer)
	return peer
}
