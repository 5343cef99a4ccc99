package capture

import (
	"strings"
	"testing"
	"time"
)

func TestRedactBodies(t *testing.T) {
	const failed = "(dropped)"
	rd := mustRedactor(t, Options{})
	strict := mustRedactor(t, Options{AllowOnly: []string{"id"}})
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		rd             *redactor
		kind, in, want string
	}{
		{rd, form, "a=1&password=x&b=%2F%3Fcode%3Dx", "a=1&password=REDACTED&b=REDACTED"},
		{rd, form, "code=x&a[token]=x;y&%70in=1", "code=REDACTED&a[token]=REDACTED&%70in=REDACTED"},
		{rd, form, "password", "password"},
		{rd, form, "a=" + strings.Repeat("b", 20<<10) + "&token=x", "a=" + strings.Repeat("b", 20<<10) + "&token=REDACTED"},
		{strict, form, "id=1&a=2&token=3&bare&&id=4", "id=1&a=REDACTED&token=REDACTED&REDACTED&&id=4"},

		{rd, "text/plain", "nothing: here\n", "nothing: here\n"},
		{rd, "text/plain", "password: x y\nb", "password: REDACTED\nb"},
		{rd, "text/plain; charset=utf-8", "API_KEY=x\r\nb=1", "API_KEY=REDACTED\r\nb=1"},
		{rd, "text/plain", "say token='x y' and \"secret\" => \"a\\\"b\" end", "say token='REDACTED' and \"secret\" => \"REDACTED\" end"},
		{rd, "text/yaml", "secret: |\n  x\na: 1\npassword:\n  x\n", "secret: |\n  REDACTED\na: 1\npassword:\n  REDACTED\n"},
		{rd, "text/plain", "GET /?a=1&code=x HTTP", "GET /?a=1&code=REDACTED"},
		{rd, "text/plain", "code: 12, key: 13", "code: 12, key: 13"},
		{rd, "text/plain", "token:", "token:"},
		{rd, "text/plain", "token=''", "token=''"},
		{rd, "text/plain", "", ""},
		{rd, "text/xml", "<a><Password>x</Password><b>y</b></a>", "<a><Password>REDACTED</Password><b>y</b></a>"},
		{rd, "text/xml", `<s:token id="1">x<b/></s:token><token/>z`, `<s:token id="1">REDACTED</s:token><token/>z`},
		{rd, "text/xml", "<a token=\"x\">y</a>", "<a token=\"REDACTED\">y</a>"},
		{rd, "text/xml", "<token>x", "<token>REDACTED"},
		{rd, "text/xml", `<token pin="1" a="b" sid='>2'>x</token><b>`, `<token pin="REDACTED" a="b" sid='REDACTEDREDACTED</token><b>`},
		{rd, "text/xml", `<token pin="1"/><b pin="2">y</b>`, `<token pin="REDACTED"/><b pin="REDACTED">y</b>`},
		{rd, "text/xml", "<token>x<token/><token a='b'>x</token>x</token>y", "<token>REDACTED</token>y"},
		{rd, "text/xml", "<token>x<tokens>x</tokens>x</token>y", "<token>REDACTED</token>y"},
		{rd, "application/xml", "<token>x</token>", "<token>REDACTED</token>"},
		{rd, "application/graphql", "{ login(password: \"x\") { id } }", failed},
		{rd, "application/graphql", "query { login(password: \"x\") { id } }", "query { login(password: \"REDACTED\") { id } }"},
		{rd, "text/event-stream", "data: {\"token\":\"x\"}\n\n", "data: {\"token\":\"REDACTED\"}\n\n"},
		{strict, "text/plain", "id=1", failed},

		// JSON by another name.
		{rd, "text/plain", " {\"token\":{\"a\":1}}", " {\"token\":\"REDACTED\"}"},
		{rd, "text/html", "[ [{\"token\":\"x\"}]]", "[ [{\"token\":\"REDACTED\"}]]"},
		{rd, "text/plain", "{\"token\":\"x\"", failed},
		{rd, "text/plain", "[2026-01-02] token=x", "[2026-01-02] token=REDACTED"},
		{rd, "text/json", "{\"token\":\"x\"}", "{\"token\":\"REDACTED\"}"},
		{rd, "application/vnd.api+JSON; v=1", "{\"token\":\"x\"}", "{\"token\":\"REDACTED\"}"},
		{rd, "application/x-ndjson", "{\"token\":1}\n{\"a\":2}", "{\"token\":\"REDACTED\"}\n{\"a\":2}"},
		{rd, "application/json-seq", "\x1e{\"token\":1}\n", "\x1e{\"token\":\"REDACTED\"}\n"},

		// What cannot be searched.
		{rd, "text/plain", "t\x00o\x00k\x00e\x00n\x00=\x00x\x00", failed},
		{rd, "application/octet-stream", "\x01\x02token=x", failed},
		{rd, "application/octet-stream", "caf\xe9 token=x", failed},
		{rd, "text/plain", "caf\xe9 token=x", "caf\xe9 token=REDACTED"},
		{rd, "multipart/form-data; boundary=x", "--x\r\nname=\"token\"\r\n\r\nx", failed},
	} {
		got, ok := redactBody(c.rd, c.kind, c.in, false)
		if !ok {
			got = failed
		}
		if got != c.want {
			t.Errorf("%s %q\nbecame %q,\nwant   %q", c.kind, c.in, got, c.want)
		}
	}
}

// A body that a stranger made must not cost more than its size deserves.
func TestRedactBodiesIsBounded(t *testing.T) {
	rd := mustRedactor(t, Options{RedactPaths: []string{"$..a..b", "$..[*]..c"}})
	for name, s := range map[string]string{
		"assignments":     strings.Repeat("a=", 512<<10),
		"quotes":          strings.Repeat(`":`, 512<<10),
		"spaces":          strings.Repeat(" ", 512<<10) + strings.Repeat(" =", 256<<10),
		"names":           strings.Repeat(strings.Repeat("a", 127)+"=", 8<<10),
		"elements":        strings.Repeat("<token>", 150<<10),
		"open elements":   strings.Repeat("<token ", 150<<10),
		"other elements":  "<token>" + strings.Repeat("</a>", 256<<10),
		"nested elements": strings.Repeat("<token>", 75<<10) + strings.Repeat("</token>", 75<<10),
		"tags in a tag":   strings.Repeat("<token ", 75<<10) + ">" + strings.Repeat("<token ", 75<<10),
		"secrets":         strings.Repeat("token=\n", 150<<10),
		"open quotes":     strings.Repeat("token='\n", 128<<10),
		"parameters":      strings.Repeat("&a=%3D", 170<<10),
		"strings":         `["` + strings.Repeat(`a:","`, 200<<10) + `"]`,
		"escapes":         `["` + strings.Repeat(`\u0025253D`, 100<<10) + `"]`,
		"brackets":        strings.Repeat(`[{"a":`, 170<<10),
	} {
		for _, kind := range []string{"text/xml", "application/json", "application/x-www-form-urlencoded"} {
			start := time.Now()
			redactBody(rd, kind, s, true)
			// What grew with the square of the size would take minutes.
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("%s as %s: %d KiB took %v", name, kind, len(s)>>10, d)
			}
		}
	}
}
