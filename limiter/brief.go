package limiter

import (
	"net/http"

	"github.com/goweir/weir/internal/problem"
	"github.com/goweir/weir/internal/respwriter"
)

// A brief is the exchange of a request to which one rule applies and of which
// no hook is to be told: the header fields are made before the handler is
// called, and the decision stays on the stack. It is less than half as large.
type brief struct {
	respwriter.NoHooks
	rw     respwriter.Writer
	r      *http.Request
	fields fields
	ended  bool // the handler returned
}

// brief answers a request that was decided about.
func (m *middleware) brief(w http.ResponseWriter, r *http.Request, next http.Handler, c *[1]Charge, res *[1]Result) {
	if res[0].Allowed {
		x := &brief{r: r}
		m.describe(&x.fields, c, res)
		defer x.finish()
		header := w.Header()
		next.ServeHTTP(x.rw.Wrap(w, x), r)
		x.ended = true
		if turnedAway(header) {
			m.giveBack(r, c[0], res[0])
		}
		return
	}
	f := new(fields)
	m.describe(f, c, res)
	h := w.Header()
	problem.Clear(h)
	f.add(h)
	m.refusals[0].WriteCleared(w)
}

func (m *middleware) describe(f *fields, c *[1]Charge, res *[1]Result) {
	if m.opts.Headers == Draft10 {
		f.buildDraft10(m.quota, m.policy, &c[0].Policy, &res[0])
		return
	}
	d := Decision{Allowed: res[0].Allowed, Charges: c[:], Results: res[:], rules: m.rules, which: make([]int, 1), form: m.opts.Headers}
	f.build(&d)
}

// Header implements [respwriter.Hooks].
func (x *brief) Header(_ int, h http.Header) { x.fields.add(h) }

func (x *brief) finish() { finish(&x.rw, x.r, x.ended) }
