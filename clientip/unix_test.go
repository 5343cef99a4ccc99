package clientip_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/goweir/weir/clientip"
)

func TestTrustUnix(t *testing.T) {
	over := func(local net.Addr, remote string, lines ...string) *http.Request {
		r := request(remote, "X-Forwarded-For", lines...)
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	}
	unix, tcp := &net.UnixAddr{Name: "/run/weir.sock", Net: "unix"}, &net.TCPAddr{Port: 80}
	tests := []struct {
		name    string
		r       *http.Request
		trust   bool
		want    string
		trusted bool
	}{
		{"off", over(unix, "@", "203.0.113.7"), false, "", false},
		{"on", over(unix, "@", "198.51.100.1, 203.0.113.7, 10.0.0.2"), true, "203.0.113.7", true},
		{"on, no address at all", over(unix, "", "203.0.113.7"), true, "203.0.113.7", true},
		{"on, no field", over(unix, "@"), true, "", true},
		{"on, unknown hop", over(unix, "@", "203.0.113.7, unknown"), true, "", true},
		{"on, all trusted", over(unix, "@", "10.3.3.3, 10.2.2.2"), true, "10.3.3.3", true},
		{"on, but TCP", over(tcp, "@", "203.0.113.7"), true, "", false},
		{"on, TCP peer not listed", over(tcp, "198.51.100.9:1", "203.0.113.7"), true, "198.51.100.9", false},
		{"on, connection unknown", request("@", "X-Forwarded-For", "203.0.113.7"), true, "", false},
		{"on, no connection", over(nil, "@", "203.0.113.7"), true, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := resolver(t, trusted, &clientip.Options{TrustUnix: tt.trust})
			if got := text(v.Addr(tt.r)); got != tt.want {
				t.Errorf("Addr = %q, want %q", got, tt.want)
			}
			if got := v.Trusted(tt.r); got != tt.trusted {
				t.Errorf("Trusted = %v, want %v", got, tt.trusted)
			}
		})
	}
}

// What a server makes of a unix socket: the premise of TrustUnix.
func TestTrustUnixServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "weir.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	v := resolver(t, nil, &clientip.Options{TrustUnix: true})
	srv := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Client", text(clientip.From(r)))
		})),
	}}
	srv.Start()
	defer srv.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req := request("", "X-Forwarded-For", "203.0.113.7").WithContext(t.Context())
	req.URL.Scheme, req.URL.Host, req.RequestURI = "http", "unix", ""
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Client"); got != "203.0.113.7" {
		t.Errorf("From behind a unix socket = %q, want 203.0.113.7", got)
	}
}
