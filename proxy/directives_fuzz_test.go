package proxy

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whatever stands beside it, a directive that forbids is seen, and no argument
// makes a time that is negative or overflows.
func FuzzDirectives(f *testing.F) {
	for _, seed := range [][2]string{
		{"", ""}, {"max-age=60", "stale-if-error=600"}, {`private="a`, `b"`}, {`x="\"`, "max-age=1, max-age=2"},
		{"max-age=99999999999999999999", "max-age"}, {"=", ",,= ,"}, {"no-store=1", "NO-STORE"}, {"max-age=-1", "s-maxage=1.5"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, lines := range [][]string{{before + ", No-Store ," + after}, {before, "no-store", after}} {
			if d := directives(http.Header{"Cache-Control": lines}); !d.has("no-store") {
				t.Errorf("%q: no-store is not seen", lines)
			}
		}
		for name := range directives(http.Header{"Cache-Control": {before, after}}) {
			if name != strings.ToLower(name) {
				t.Errorf("directive %q is not in lower case", name)
			}
			d := directives(http.Header{"Cache-Control": {before, after}})
			if n, ok := d.seconds(name); !ok || n < 0 || n > 1<<31*time.Second {
				t.Errorf("%s=%q is %s, %t", name, d[name], n, ok)
			}
		}
	})
}
