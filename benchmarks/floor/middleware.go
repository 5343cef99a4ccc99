package floor

import (
	"net/http"
	"strconv"
	"time"
)

// Decide is a middleware that decides and sets no header field. Its key is the
// first value of a header field, whose name is in canonical form.
//
// It skips: requests without a key, whose quota is that of the empty one, keys
// of any length, any choice of rules, and an answer that says more than 429.
func Decide(t *Table, name string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, ok := t.Take(keyOf(r, name)); !ok {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Fields is Decide with three header fields, set by hand in the plain way: one
// assignment each.
//
// It skips what Decide skips, and: setting them when the header is written (a
// proxied 1xx loses them), names of policies and their encoding, and fields that
// are there already.
func Fields(t *Table, name string) func(http.Handler) http.Handler {
	limit := strconv.FormatInt(t.Limit(), 10)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ahead, ok := t.Take(keyOf(r, name))
			h := w.Header()
			h["X-Ratelimit-Limit"] = []string{limit}
			h["X-Ratelimit-Remaining"] = []string{strconv.FormatInt(t.Remaining(ahead), 10)}
			h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(seconds(ahead), 10)}
			if !ok {
				h["Retry-After"] = []string{strconv.FormatInt(seconds(t.unit), 10)}
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Packed is Fields with the numbers in one string and the values in one array:
// two allocations, which is the least there is as long as responses may not
// share them.
func Packed(t *Table, name string) func(http.Handler) http.Handler {
	limit := strconv.FormatInt(t.Limit(), 10)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ahead, ok := t.Take(keyOf(r, name))
			var array [40]byte
			b := strconv.AppendInt(array[:0], t.Remaining(ahead), 10)
			n := len(b)
			s := string(strconv.AppendInt(b, seconds(ahead), 10))
			values := &[3]string{limit, s[:n], s[n:]}
			h := w.Header()
			h["X-Ratelimit-Limit"] = values[0:1:1]
			h["X-Ratelimit-Remaining"] = values[1:2:2]
			h["X-Ratelimit-Reset"] = values[2:3:3]
			if !ok {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func keyOf(r *http.Request, name string) string {
	if values := r.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func seconds(ns int64) int64 {
	return (ns + int64(time.Second) - 1) / int64(time.Second)
}
