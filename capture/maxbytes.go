package capture

import (
	"io"
	"net/http"
)

// MaxBytesReader is [http.MaxBytesReader] for handlers behind a [Middleware], or
// behind any other that wraps the writer and has an Unwrap method:
//
//	r.Body = capture.MaxBytesReader(w, r.Body, 1<<20)
//
// Like http.MaxBytesReader does with the server's own writer, it tells the
// server to close the connection when the body is too large, instead of reading
// on; with a wrapped one http.MaxBytesReader cannot (golang/go#73754). It needs
// no Middleware to be there.
func MaxBytesReader(w http.ResponseWriter, body io.ReadCloser, n int64) io.ReadCloser {
	for {
		wrapped, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return http.MaxBytesReader(w, body, n)
		}
		w = wrapped.Unwrap()
	}
}
