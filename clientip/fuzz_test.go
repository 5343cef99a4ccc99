package clientip_test

import (
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/clientip"
)

// fuzzField compares v with the reference on a field whose lines are separated
// by newlines in the fuzzed text, and checks what must hold whatever a client
// sends: once a trusted proxy has appended the client's address, in the same
// line or in one of its own, that is the answer.
func fuzzField(t *testing.T, v *clientip.Resolver, reference func(string, []string) netip.Addr, name, appended, remote, field string) {
	if len(field) > 1<<12 { // the reference is quadratic
		return
	}
	lines := strings.Split(field, "\n")
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	r.Header[name] = lines
	got, want := v.Addr(r), reference(remote, lines)
	if got != want {
		t.Errorf("Addr of peer %q with %s %q = %v, want %v", remote, name, lines, got, want)
	}
	if got.Is4In6() || got.Zone() != "" {
		t.Errorf("Addr of peer %q with %s %q = %v, want it folded and without a zone", remote, name, lines, got)
	}

	r.RemoteAddr = proxy
	client := netip.MustParseAddr("203.0.113.7")
	last := len(lines) - 1
	r.Header[name] = append(slices.Clone(lines[:last]), lines[last]+appended)
	if got := v.Addr(r); got != client {
		t.Errorf("Addr with %s %q = %v, want %v, which the proxy appended", name, r.Header[name], got, client)
	}
	r.Header[name] = append(slices.Clone(lines), appended)
	if got := v.Addr(r); got != client {
		t.Errorf("Addr with %s %q = %v, want %v, which the proxy added as a line", name, r.Header[name], got, client)
	}
}

func FuzzXForwardedFor(f *testing.F) {
	for _, tt := range listTests {
		f.Add(tt.remote, strings.Join(tt.lines, "\n"))
	}
	v := resolver(f, trusted, nil)
	f.Fuzz(func(t *testing.T, remote, field string) {
		fuzzField(t, v, refList, "X-Forwarded-For", ", 203.0.113.7", remote, field)
	})
}

func FuzzForwarded(f *testing.F) {
	for _, tt := range forwardedTests {
		f.Add(proxy, strings.Join(tt.lines, "\n"))
	}
	for _, tt := range listTests {
		f.Add(tt.remote, `for="`+strings.Join(tt.lines, "\";proto=x\nfor=\"")+`"`)
	}
	v := resolver(f, trusted, &clientip.Options{Forwarded: true})
	f.Fuzz(func(t *testing.T, remote, field string) {
		fuzzField(t, v, refForwarded, "Forwarded", `, for="203.0.113.7:80";x="\", for=198.51.100.1"`, remote, field)
	})
}
