package respwriter_test

import (
	"testing"

	"github.com/goweir/weir/internal/stdtest"
)

// TestNetHTTP runs Go's own tests with every handler wrapped: by hooks that
// read every byte, so that nothing takes a shortcut; by hooks that want
// nothing; and twice, the outer of them pacing what is written into pieces.
func TestNetHTTP(t *testing.T) {
	stdtest.NetHTTP(t,
		stdtest.Variant{Name: "wanting", Source: shim + `
func Wrap(next http.Handler) http.Handler { return wrap(next, func() respwriter.Hooks { return new(reader) }) }
`},
		stdtest.Variant{Name: "nohooks", Source: shim + `
func Wrap(next http.Handler) http.Handler {
	return wrap(next, func() respwriter.Hooks { return respwriter.NoHooks{} })
}
`},
		stdtest.Variant{Name: "nested", Source: shim + `
func Wrap(next http.Handler) http.Handler {
	reading := wrap(next, func() respwriter.Hooks { return new(reader) })
	return wrap(reading, func() respwriter.Hooks { return new(pacer) })
}
`},
	)
}

const shim = `package shim

import (
	"net/http"

	"github.com/goweir/weir/internal/respwriter"
)

type reader struct {
	respwriter.NoHooks
	sum int
}

func (*reader) Want() int { return 1 << 30 }

func (r *reader) Body(p []byte, n int64, err error) {
	for _, b := range p {
		r.sum += int(b)
	}
}

type pacer struct{ reader }

func (*pacer) Want() int { return 0 }

func (*pacer) Admit(n int64) (int64, error) { return min(n, 700), nil }

func wrap(next http.Handler, hooks func() respwriter.Hooks) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var rw respwriter.Writer
		returned := false
		defer func() { rw.Finish(returned) }()
		next.ServeHTTP(rw.Wrap(w, hooks()), r)
		returned = true
	})
}
`
