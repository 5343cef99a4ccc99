package redislimiter

import (
	"context"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

// TakeAll implements [limiter.Limiter]. On one server, and with Options.Slot, it
// decides in one step.
//
// On a cluster it asks slot by slot, in the order of cs, and gives back what it
// took if one refuses or fails, for at most a second and whatever becomes of ctx.
// Meanwhile others may be refused who would fit; nothing too much is ever
// admitted. Results of charges that were not asked then have no Source and a
// Remaining of -1. What cannot be given back in that time stays taken.
func (l *Limiter) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	for i := range cs {
		if err := check(&cs[i]); err != nil {
			return nil, err
		}
	}
	results := make([]limiter.Result, len(cs))
	ids := make([]quotaID, len(cs))
	for i := range cs {
		ids[i] = l.ids.of(&cs[i])
	}
	if l.denials.lookAll(cs, ids, results) {
		return results, nil
	}
	if l.leases != nil {
		return results, l.takeLeased(ctx, cs, ids, results)
	}
	return results, l.takeFar(ctx, slices.Clone(cs), ids, results)
}

// takeFar asks the server.
func (l *Limiter) takeFar(ctx context.Context, cs []limiter.Charge, ids []quotaID, results []limiter.Result) error {
	asked := l.denials.askingAll(ids)
	d := decision{l: l, charges: cs, results: results}
	err := d.take(ctx)
	if err == nil {
		l.denials.keepAll(cs, asked, results)
	}
	return err
}

// A decision is a TakeAll on its way.
type decision struct {
	l       *Limiter
	charges []limiter.Charge
	results []limiter.Result
	parts   []*part
}

// A part is what of a decision is decided in one step.
type part struct {
	question
	which []int // the charge of each entry; -1: of none
}

func (d *decision) take(ctx context.Context) error {
	closed := d.split()
	asked := d.parts
	refused := closed
	for i, p := range d.parts {
		if closed {
			p.refuse()
		}
		if err := d.l.share(ctx, &p.question); err != nil {
			d.undo(ctx, d.parts[:i])
			clear(d.results)
			return err
		}
		if p.granted == 0 {
			refused = true
			asked = d.parts[:i+1]
			break
		}
	}
	for _, p := range asked {
		p.tell(d, refused && p.granted > 0)
	}
	for _, p := range d.parts[len(asked):] {
		for _, k := range p.which {
			if k >= 0 {
				d.results[k] = limiter.Result{Allowed: true, Limit: d.charges[k].Policy.Limit, Remaining: -1}
			}
		}
	}
	if refused {
		d.undo(ctx, asked)
	}
	return nil
}

// split makes parts of the charges, in order. It reports whether there are any
// with a Limit of 0, and answers those.
func (d *decision) split() (closed bool) {
	for i := range d.charges {
		var e entry
		if e.encode(d.l, &d.charges[i]); e.closed {
			d.results[i] = shut()
			closed = true
			continue
		}
		slot := uint16(0)
		if d.l.cluster {
			slot = d.l.slotOf(e.key)
		}
		k := slices.IndexFunc(d.parts, func(p *part) bool { return p.slot == slot })
		if k < 0 {
			k = len(d.parts)
			d.parts = append(d.parts, &part{question: question{slot: slot}})
		}
		p := d.parts[k]
		p.entries, p.which = append(p.entries, e), append(p.which, i)
	}
	return closed
}

// refuse adds an entry that can never fit: the others are judged, and nothing is
// taken.
func (p *part) refuse() {
	e := p.entries[0]
	e.impossible()
	p.entries, p.which = append(p.entries, e), append(p.which, -1)
}

// tell writes the results of the part. undone says that it was granted for
// nothing.
func (p *part) tell(d *decision, undone bool) {
	i := 0
	p.results(0, undone, func(_ *entry, r limiter.Result) {
		if k := p.which[i]; k >= 0 {
			d.results[k] = r
		}
		i++
	})
}

// undoTime is how long giving back may take.
const undoTime = time.Second

// undo gives back what parts were granted.
func (d *decision) undo(ctx context.Context, parts []*part) {
	parts = slices.DeleteFunc(slices.Clone(parts), func(p *part) bool { return p.granted == 0 })
	if len(parts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	for _, p := range parts {
		// The decision is a refusal either way: nobody is helped by an error.
		_ = d.l.refund(ctx, refundsOf(&p.question))
	}
}

// refundsOf returns what gives back questions that were granted. Of one bucket,
// what was taken last must go back last, or it would count as given back to who
// came before; where turns are given, it must go back first, because only the
// last can.
func refundsOf(qs ...*question) []refund {
	var turns, rest []refund
	for _, q := range qs {
		q.results(0, false, func(e *entry, r limiter.Result) {
			switch {
			case r.Receipt == limiter.Receipt{}:
			case e.charge.Policy.Algorithm == limiter.LeakyBucket || e.charge.MaxDelay > 0:
				turns = append(turns, refund{e.charge, r.Receipt})
			default:
				rest = append(rest, refund{e.charge, r.Receipt})
			}
		})
	}
	slices.Reverse(turns)
	return append(turns, rest...)
}
