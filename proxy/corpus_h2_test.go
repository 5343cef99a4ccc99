package proxy_test

import (
	"encoding/binary"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// serveH2Raw is serve for clients that speak HTTP/2 without TLS from the start.
func serveH2Raw(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// frame writes one HTTP/2 frame of stream 1, or 0 for SETTINGS, RFC 9113 section
// 4.1.
func frame(kind, flags byte, payload []byte) []byte {
	b := make([]byte, 9, 9+len(payload))
	binary.BigEndian.PutUint32(b, uint32(len(payload))<<8|uint32(kind))
	b[4] = flags
	if kind != 4 {
		b[8] = 1
	}
	return append(b, payload...)
}

// hpack writes fields as literals that are never indexed, as they are, RFC 7541
// section 6.2.3.
func hpack(fields [][2]string) (b []byte) {
	str := func(s string) {
		if len(s) < 127 {
			b = append(b, byte(len(s)))
		} else {
			b = append(b, 127)
			n := len(s) - 127
			for ; n >= 128; n >>= 7 {
				b = append(b, byte(n)|128)
			}
			b = append(b, byte(n))
		}
		b = append(b, s...)
	}
	for _, f := range fields {
		b = append(b, 0x10)
		str(f[0])
		str(f[1])
	}
	return b
}

// exchangeH2 sends one request and returns the status of its answer, "other" if
// it is not one of the usual few, or what else became of it.
func exchangeH2(t *testing.T, server string, fields [][2]string, body string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	raw := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, nil)...)
	endStream := byte(1)
	if body != "" {
		endStream = 0
	}
	raw = append(raw, frame(1, 4|endStream, hpack(fields))...) // END_HEADERS
	if body != "" {
		raw = append(raw, frame(0, 1, []byte(body))...)
	}
	if _, err := c.Write(raw); err != nil {
		t.Fatal(err)
	}
	for {
		var head [9]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return "closed"
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[:4])>>8)
		if _, err := io.ReadFull(c, payload); err != nil {
			return "closed"
		}
		switch head[3] {
		case 1:
			statuses := map[byte]string{0x88: "200", 0x89: "204", 0x8c: "400", 0x8d: "404", 0x8e: "500"} // RFC 7541 appendix A
			if s, ok := statuses[payload[0]]; ok {
				return s
			}
			return "other"
		case 3:
			return "reset"
		case 7:
			return "goaway"
		}
	}
}

// TestCorpusHTTP2 is TestCorpus for what only HTTP/2 can say.
func TestCorpusHTTP2(t *testing.T) {
	noLeaks(t)
	log.SetOutput(io.Discard) // http.Transport reports what the bare one provokes
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	pseudo := func(method, authority, path string, more ...string) (fields [][2]string) {
		for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", authority}, {":path", path}} {
			if f[1] != "" {
				fields = append(fields, f)
			}
		}
		for i := 0; i < len(more); i += 2 {
			fields = append(fields, [2]string{more[i], more[i+1]})
		}
		return fields
	}
	connect := func(authority string, more ...string) [][2]string {
		f := pseudo("CONNECT", authority, "", more...)
		return append(f[:1:1], f[2:]...) // without :scheme
	}
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	up := newRecord(t)
	s := serveH2Raw(t, newProxy(t, nil, up.url+"/base"))
	b := serveH2Raw(t, bare(t, up.url+"/base"))
	rows, worse := 0, 0
	for _, row := range []struct { // as in a specimen
		name     string
		fields   [][2]string
		body     string
		answer   string
		upstream string
		bare     string
	}{
		{"plain", pseudo("GET", "a", "/x"), "", "200", "GET /base/x", ""},
		{"body", pseudo("POST", "a", "/x"), "body", "200", "POST /base/x +4", ""},
		{"CONNECT", connect("internal:22"), "", "other", "", "CONNECT /base/ !CONNECT"},
		{"CONNECT with a body", connect("internal:22"), smuggled, "other", "", "CONNECT /base/ !CONNECT; GET /smuggled !outside the base !Host !not one X-Forwarded-For !not one X-Forwarded-Proto !not one X-Forwarded-Host"},
		{"CONNECT with a path", pseudo("CONNECT", "a", "/x"), "", "reset", "", ""},
		{"CONNECT with a protocol", append([][2]string{{":protocol", "websocket"}}, pseudo("CONNECT", "a", "/x")...), smuggled, "reset", "", ""},
		{"no path", pseudo("GET", "a", ""), "", "reset", "", ""},
		{"asterisk", pseudo("GET", "a", "*"), "", "400", "", "GET /base/%2A"},
		{"asterisk with OPTIONS", pseudo("OPTIONS", "a", "*"), "", "200", "", ""},
		{"relative path", pseudo("GET", "a", "x"), "", "reset", "", ""},
		{"absolute path", pseudo("GET", "a", "http://internal/x"), "", "400", "", "GET /base/x"},
		{"opaque path", pseudo("GET", "a", "http:http://internal/admin"), "", "400", "", "GET http://internal/admin !outside the base"},
		{"dot segments", pseudo("GET", "a", "/../x"), "", "400", "", "GET /base/../x !dot segments"},
		{"encoded dot segments", pseudo("GET", "a", "/%2e%2e/x"), "", "400", "", "GET /base/%2e%2e/x !dot segments"},
		{"double slash", pseudo("GET", "a", "//internal/x"), "", "200", "GET /base//internal/x", ""},
		{"a request in the path", pseudo("GET", "a", "/x HTTP/1.1\r\nHost: b\r\n\r\nGET /smuggled"), "", "reset", "", ""},
		{"a request in the method", pseudo("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET", "a", "/x"), "", "reset", "", ""},
		{"a line in the authority", pseudo("GET", "a\r\nX: 1", "/x"), "", "reset", "", ""},
		{"user in the authority", pseudo("GET", "u@a", "/x"), "", "reset", "", ""},
		{"Host as well", pseudo("GET", "a", "/x", "host", "a"), "", "200", "GET /base/x", ""},
		{"another Host", pseudo("GET", "a", "/x", "host", "internal"), "", "200", "GET /base/x", ""},
		{"Host alone", pseudo("GET", "", "/x", "host", "a"), "", "200", "GET /base/x", ""},
		{"a line in a value", pseudo("GET", "a", "/x", "x", "1\r\nX-Forwarded-For: 1.2.3.4"), "", "reset", "", ""},
		{"a line in a name", pseudo("GET", "a", "/x", "x: 1\r\ny", "2"), "", "reset", "", ""},
		{"a colon in a name", pseudo("GET", "a", "/x", "x:y", "2"), "", "reset", "", ""},
		{"capitals in a name", pseudo("GET", "a", "/x", "X-Forwarded-For", "1.2.3.4"), "", "reset", "", ""},
		{"unknown pseudo-field", pseudo("GET", "a", "/x", ":admin", "1"), "", "reset", "", ""},
		{"second path", pseudo("GET", "a", "/x", ":path", "/y"), "", "reset", "", ""},
		{"Transfer-Encoding", pseudo("POST", "a", "/x", "transfer-encoding", "chunked"), "0\r\n\r\n" + smuggled, "400", "", ""},
		{"Connection", pseudo("GET", "a", "/x", "connection", "x-forwarded-for"), "", "400", "", ""},
		{"Upgrade", pseudo("GET", "a", "/x", "upgrade", "websocket"), "", "400", "", ""},
		{"Upgrade to h2c", pseudo("GET", "a", "/x", "upgrade", "h2c", "http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"), "", "400", "", ""},
		{"HTTP2-Settings", pseudo("GET", "a", "/x", "http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"), "", "200", "GET /base/x", "GET /base/x !HTTP2-Settings"},
		{"Keep-Alive", pseudo("GET", "a", "/x", "keep-alive", "timeout=5"), "", "400", "", ""},
		{"TE of something else", pseudo("GET", "a", "/x", "te", "gzip"), "", "400", "", ""},
		{"TE of trailers", pseudo("GET", "a", "/x", "te", "trailers"), "", "200", "GET /base/x", ""},
		{"length shorter than the body", pseudo("POST", "a", "/x", "content-length", "4"), smuggled, "reset", "", ""},
		{"length longer than the body", pseudo("POST", "a", "/x", "content-length", "100"), "body", "other", "", ""},
		{"two lengths", pseudo("POST", "a", "/x", "content-length", "4", "content-length", "0"), "body", "200", "POST /base/x +4", ""},
		{"negative length", pseudo("POST", "a", "/x", "content-length", "-1"), "", "200", "POST /base/x", ""},
		{"a request as the body", pseudo("POST", "a", "/x"), smuggled, "200", "POST /base/x +35", ""},
		{"X-Forwarded-For", pseudo("GET", "a", "/x", "x-forwarded-for", "1.2.3.4"), "", "200", "GET /base/x", ""},
		{"twin of X-Forwarded-For", pseudo("GET", "a", "/x", "x_forwarded_for", "1.2.3.4"), "", "200", "GET /base/x", "GET /base/x !X_forwarded_for"},
		{"twin with dots", pseudo("GET", "a", "/x", "x.forwarded.for", "1.2.3.4"), "", "200", "GET /base/x", "GET /base/x !X.forwarded.for"},
		{"Forwarded", pseudo("GET", "a", "/x", "forwarded", "for=1.2.3.4"), "", "200", "GET /base/x", ""},
	} {
		rows++
		if got := exchangeH2(t, s.URL, row.fields, row.body); got != row.answer {
			t.Errorf("%s: client got %s, want %s", row.name, got, row.answer)
		}
		exchangeH2(t, s.URL, pseudo("GET", "a", sentinel), "")
		seen, faults := up.take()
		if seen != row.upstream || len(faults) > 0 {
			t.Errorf("%s: upstream saw %q, want %q; not to let through: %q", row.name, seen, row.upstream, faults)
		}
		if row.bare == "" {
			continue
		}
		worse++
		exchangeH2(t, b.URL, row.fields, row.body)
		seen = ""
		eventually(t, row.name+": a bare ReverseProxy lets through "+row.bare+"; or the trap is closed upstream", func() bool {
			more, _ := up.take()
			if seen != "" && more != "" {
				seen += "; "
			}
			seen += more
			return seen == row.bare
		})
	}
	t.Logf("%d rows; in %d of them bare ReverseProxy lets through what should not pass", rows, worse)
}
