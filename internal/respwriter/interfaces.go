package respwriter

import (
	"io"
	"net/http"
)

//go:generate go run gen_combine.go

// interfaces is a set of optional interfaces.
type interfaces uint8

const (
	flusher       interfaces = 1 << iota // F: http.Flusher
	errorFlusher                         // E: FlushError
	hijacker                             // H: http.Hijacker
	readerFrom                           // R: io.ReaderFrom
	stringWriter                         // S: io.StringWriter
	pusher                               // P: http.Pusher
	closeNotifier                        // C: http.CloseNotifier
)

// flushErrorer is what http.ResponseController looks for before http.Flusher.
type flushErrorer interface{ FlushError() error }

// interfacesOf returns what w implements itself. It unwraps only for FlushError,
// because a flush sends the header.
func interfacesOf(w http.ResponseWriter) (has interfaces) {
	if _, ok := w.(http.Flusher); ok {
		has |= flusher
	}
	if _, ok := w.(flushErrorer); ok || has&flusher == 0 && flushesBelow(w) {
		has |= errorFlusher
	}
	if _, ok := w.(http.Hijacker); ok {
		has |= hijacker
	}
	if _, ok := w.(io.ReaderFrom); ok {
		has |= readerFrom
	}
	if _, ok := w.(io.StringWriter); ok {
		has |= stringWriter
	}
	if _, ok := w.(http.Pusher); ok {
		has |= pusher
	}
	//lint:ignore SA1019 kept for handlers that still use it
	if _, ok := w.(http.CloseNotifier); ok {
		has |= closeNotifier
	}
	return has
}

// flushesBelow reports whether an http.ResponseController for w, which has no
// Flush of its own, finds one by Unwrap.
func flushesBelow(w http.ResponseWriter) bool {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		switch w = u.Unwrap(); w.(type) {
		case flushErrorer, http.Flusher:
			return true
		}
	}
}
