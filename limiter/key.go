package limiter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// A KeyFunc says whose quota a request is charged to. An error or an empty
// string means that it cannot tell; [Options.Unkeyed] says what happens then.
// It must be safe for concurrent use.
//
// Keys are compared byte by byte: nothing folds case or encoding. A key of more
// than 256 bytes is replaced by its SHA-256, so a client cannot make anything
// that stores keys grow by sending long ones.
type KeyFunc func(*http.Request) (string, error)

var (
	_ KeyFunc = KeyGlobal
	_ KeyFunc = KeyByRoute
	_ KeyFunc = KeyByPath
)

// KeyGlobal charges all requests to one quota.
func KeyGlobal(*http.Request) (string, error) { return "*", nil }

// KeyByRoute charges by the pattern that a router matched, as in "GET
// /users/{id}": [http.Request.Pattern]. It is an error if there is none, which
// happens where the limiter stands in front of the router; match first there
// (_, r.Pattern = mux.Handler(r)).
func KeyByRoute(r *http.Request) (string, error) {
	if r.Pattern == "" {
		return "", errNoPattern
	}
	return r.Pattern, nil
}

var errNoPattern = errors.New("limiter: KeyByRoute: the request has no pattern; the limiter stands in front of the router")

// KeyByPath charges by the decoded path of the URL, so /a%2Fb and /a/b are the
// same. A client chooses its paths, and each new one is a new quota: this is
// for servers whose paths are few. Most callers want [KeyByRoute].
func KeyByPath(r *http.Request) (string, error) { return bounded(r.URL.Path), nil }

// KeyByHeader returns a KeyFunc that charges by the first value of a header
// field, as [http.Header.Get] returns it, or by the host for "Host". It panics
// if name is empty.
//
// A client may send what it likes: an unauthenticated field gives everybody as
// many quotas as they can invent values, or somebody else's. Never use it for
// X-Forwarded-For; KeyByClientIP knows which of those to trust.
func KeyByHeader(name string) KeyFunc {
	if name == "" {
		panic("limiter: KeyByHeader: name is empty")
	}
	name = http.CanonicalHeaderKey(name)
	if name == "Host" {
		return func(r *http.Request) (string, error) { return bounded(r.Host), nil }
	}
	return func(r *http.Request) (string, error) {
		if values := r.Header[name]; len(values) > 0 {
			return bounded(values[0]), nil
		}
		return "", nil
	}
}

// KeyByCookie returns a KeyFunc that charges by the value of the first cookie
// with that name. What is said of [KeyByHeader] applies. It panics if name is
// empty.
func KeyByCookie(name string) KeyFunc {
	if name == "" {
		panic("limiter: KeyByCookie: name is empty")
	}
	return func(r *http.Request) (string, error) {
		c, err := r.Cookie(name)
		if err != nil { // only http.ErrNoCookie
			return "", nil
		}
		return bounded(c.Value), nil
	}
}

// KeyByContext returns a KeyFunc that charges by what f finds in the request's
// context, such as the account that authentication has put there. It panics if
// f is nil.
func KeyByContext(f func(context.Context) string) KeyFunc {
	if f == nil {
		panic("limiter: KeyByContext: f is nil")
	}
	return func(r *http.Request) (string, error) { return bounded(f(r.Context())), nil }
}

// KeyFirst returns a KeyFunc that charges by the first of keys that is not
// empty: the account if signed in, else the address. Its index is part of the
// key, so an account called 192.0.2.1 is not that address. An error ends the
// search, because falling through would charge the wrong quota. It panics if
// keys is empty or one is nil.
func KeyFirst(keys ...KeyFunc) KeyFunc {
	keys = checked("KeyFirst", keys)
	return func(r *http.Request) (string, error) {
		for i, f := range keys {
			key, err := f(r)
			if err != nil {
				return "", err
			}
			if key != "" {
				return strconv.Itoa(i) + ":" + bounded(key), nil
			}
		}
		return "", nil
	}
}

// JoinKeys returns a KeyFunc that charges by all of keys together. Each part is
// preceded by its length, so that no two combinations are the same. If one is
// empty, so is the whole. It panics if keys is empty or one is nil.
func JoinKeys(keys ...KeyFunc) KeyFunc {
	keys = checked("JoinKeys", keys)
	return func(r *http.Request) (string, error) {
		var array [128]byte
		b := array[:0]
		for _, f := range keys {
			key, err := f(r)
			if err != nil || key == "" {
				return "", err
			}
			key = bounded(key)
			b = strconv.AppendInt(b, int64(len(key)), 10)
			b = append(b, ':')
			b = append(b, key...)
		}
		return string(b), nil
	}
}

func checked(maker string, keys []KeyFunc) []KeyFunc {
	if len(keys) == 0 {
		panic("limiter: " + maker + ": no keys")
	}
	for i, f := range keys {
		if f == nil {
			panic("limiter: " + maker + ": key " + strconv.Itoa(i) + " is nil")
		}
	}
	return append([]KeyFunc(nil), keys...)
}

// maxKey is the longest key that is used as it is.
const maxKey = 256

const hashed = "sha256:"

// bounded returns key, or its hash if it is too long, or if it looks like a
// hash: whoever may choose a short key must not be able to name a long one.
func bounded(key string) string {
	if len(key) <= maxKey && !strings.HasPrefix(key, hashed) {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hashed + hex.EncodeToString(sum[:])
}
