// Package problem writes error answers as application/problem+json (RFC 9457).
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Types of the IANA registry of HTTP problem types that
// draft-ietf-httpapi-ratelimit-headers-10, section 6, registers.
const (
	QuotaExceeded            = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	TemporaryReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// Details are the members of a problem document, RFC 9457 section 3.1. All of
// it is sent to the client: nothing from an error value belongs here.
type Details struct {
	Type   string `json:"type,omitempty"` // absent means "about:blank"
	Title  string `json:"title"`          // empty: the status text
	Status int    `json:"status"`         // required
	Detail string `json:"detail,omitempty"`

	// ViolatedPolicies names the quota policies that refused, an extension of
	// the two types above.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
}

// Write answers with d. Header fields that were set for a successful answer are
// removed as http.Error does; those of middleware are kept. A shared cache must
// not store the answer (RFC 6585 section 4), nor should a private one.
func Write(w http.ResponseWriter, d Details) {
	if d.Title == "" {
		d.Title = http.StatusText(d.Status)
	}
	body, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings and an int always marshal
	}
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Etag", "Last-Modified", "Content-Range", "Content-Disposition"} {
		h.Del(name)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(d.Status)
	w.Write(body)
}
