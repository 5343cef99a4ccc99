package limiter

import (
	"net/http"

	"github.com/goweir/weir/internal/respwriter"
)

// A brief is the exchange of a request to which one rule applies and of which
// no hook is to be told: the header fields are made before the handler is
// called, and the decision is forgotten. It is less than half as large.
type brief struct {
	respwriter.NoHooks
	rw     respwriter.Writer
	r      *http.Request
	fields fields
	ended  bool // the handler returned
}

// serve answers a request that was decided about.
func (m *middleware) brief(w http.ResponseWriter, r *http.Request, next http.Handler, c *[1]Charge, res *[1]Result) {
	var which [1]int
	d := Decision{Rule: -1, Charges: c[:], Results: res[:], rules: m.rules, which: which[:], form: m.opts.Headers}
	if d.Allowed = res[0].Allowed; d.Allowed {
		x := &brief{r: r}
		x.fields.build(&d)
		defer x.finish()
		next.ServeHTTP(x.rw.Wrap(w, x), r)
		x.ended = true
		return
	}
	d.Rule = 0
	f := new(fields)
	f.build(&d)
	f.add(w.Header())
	m.refusals[0].Write(w)
}

// Header implements [respwriter.Hooks].
func (x *brief) Header(_ int, h http.Header) { x.fields.add(h) }

func (x *brief) finish() { finish(&x.rw, x.r, x.ended) }
