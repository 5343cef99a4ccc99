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

// Write answers with d: see [Answer.Write].
func Write(w http.ResponseWriter, d Details) { Prepare(d).Write(w) }

// An Answer is an encoded problem document, ready to be written many times.
type Answer struct {
	status int
	body   []byte
	length string
}

// Prepare encodes d.
func Prepare(d Details) *Answer {
	if d.Title == "" {
		d.Title = http.StatusText(d.Status)
	}
	body, err := json.Marshal(d)
	if err != nil {
		panic(err) // strings and an int always marshal
	}
	return &Answer{d.Status, body, strconv.Itoa(len(body))}
}

// Write sends the answer. Header fields that were set for a successful answer
// are removed as http.Error does; those of middleware are kept. A shared cache
// must not store the answer (RFC 6585 section 4), nor should a private one.
func (a *Answer) Write(w http.ResponseWriter) {
	Clear(w.Header())
	a.WriteCleared(w)
}

// Clear removes the header fields of a successful answer.
func Clear(h http.Header) {
	if len(h) == 0 {
		return
	}
	for _, name := range [...]string{"Content-Encoding", "Etag", "Last-Modified", "Content-Range", "Content-Disposition"} {
		delete(h, name)
	}
}

// WriteCleared is Write for who has called Clear before adding fields: mostly
// there was nothing to remove then, and that is quickly seen.
func (a *Answer) WriteCleared(w http.ResponseWriter) {
	h := w.Header()
	// One allocation for four fields: refusals come in floods.
	values := [...]string{"application/problem+json", a.length, "no-store", "nosniff"}
	h["Content-Type"] = values[0:1:1]
	h["Content-Length"] = values[1:2:2]
	h["Cache-Control"] = values[2:3:3]
	h["X-Content-Type-Options"] = values[3:4:4]
	w.WriteHeader(a.status)
	w.Write(a.body)
}
