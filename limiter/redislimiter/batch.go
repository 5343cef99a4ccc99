package redislimiter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// share asks q together with what others ask at the same time.
func (l *Limiter) share(ctx context.Context, q *question) error {
	if err := l.lineOf(ctx, q).ask(ctx, q); err != nil {
		return err
	}
	return q.failed
}

// lineOf returns the line for q: on a cluster, that of the node which has its
// slot. It does not matter if that is known no better.
func (l *Limiter) lineOf(ctx context.Context, q *question) *line[*question] {
	if !l.cluster {
		return l.line
	}
	node, err := l.client.(*redis.ClusterClient).MasterForKey(ctx, q.entries[0].key)
	if err != nil {
		return l.line
	}
	addr := node.Options().Addr
	if found, ok := l.lines.Load(addr); ok {
		return found.(*line[*question])
	}
	found, _ := l.lines.LoadOrStore(addr, newLine(l.fly, l.giveBack, (*question).size))
	return found.(*line[*question])
}

// fly asks questions that share a flight: by one script call, or on a cluster by
// one for each slot, in one round trip.
func (l *Limiter) fly(ctx context.Context, qs []*question) error {
	if len(qs) == 1 {
		return l.ask(ctx, qs[0])
	}
	m := manifests.Get().(*manifest)
	defer manifests.Put(m)
	m.merge(qs)
	if l.cluster {
		l.askSlots(ctx, m.runs)
	} else {
		l.askEach(ctx, m.runs)
	}
	m.settle(qs)
	return nil
}

// askEach asks questions of one slot, of which some may be faulty: a key that
// holds something else is nobody's business but of those who ask for it.
func (l *Limiter) askEach(ctx context.Context, qs []*question) {
	l.failEach(ctx, qs, l.ask(ctx, qs...))
}

// failEach says why questions have not been answered together, or asks some of
// them again: nothing was decided if one of the keys was of the wrong type.
func (l *Limiter) failEach(ctx context.Context, qs []*question, err error) {
	if n := len(qs); n > 1 && errors.Is(err, ErrWrongType) {
		l.askEach(ctx, qs[:n/2])
		l.askEach(ctx, qs[n/2:])
		return
	}
	if err != nil && callers(ctx, err) && !errors.Is(err, ErrUnknown) {
		// The context is the flight's, not that of a caller.
		err = fmt.Errorf("redislimiter: %w: %w", ErrUnreachable, ctx.Err())
	}
	for _, q := range qs {
		q.failed = err
	}
}

// askSlots asks questions of any slots by a pipeline, with a call for each slot.
func (l *Limiter) askSlots(ctx context.Context, qs []*question) {
	qs = slices.Clone(qs)
	slices.SortStableFunc(qs, func(a, b *question) int { return cmp.Compare(a.slot, b.slot) })
	var parts [][]*question
	for len(qs) > 0 {
		n := 1
		for n < len(qs) && qs[n].slot == qs[0].slot {
			n++
		}
		parts, qs = append(parts, qs[:n]), qs[n:]
	}
	if len(parts) == 1 {
		l.askEach(ctx, parts[0])
		return
	}
	parts = l.pipeline(ctx, parts, false)
	if len(parts) > 0 {
		// The first one brings the script along.
		parts = l.pipeline(ctx, parts, true)
	}
	for _, part := range parts {
		l.askEach(ctx, part)
	}
}

// pipeline makes a call for each part, and returns those parts that were refused
// and may be asked again.
func (l *Limiter) pipeline(ctx context.Context, parts [][]*question, load bool) (again [][]*question) {
	pipe := l.client.Pipeline()
	calls, wants := make([]*call, len(parts)), make([]int, len(parts))
	for i, part := range parts {
		m := l.compose(part)
		m.args[0], m.args[1], m.args[2] = "evalsha", decideScript.sha, m.keys
		if load && i == 0 {
			m.args[0], m.args[1] = "eval", decideScript.text
		}
		calls[i], wants[i] = newCall(ctx, m.args), m.want
		_ = pipe.Process(ctx, calls[i]) // only queues
	}
	_, _ = pipe.Exec(ctx) // each call has its own error
	for i, part := range parts {
		c := calls[i]
		err := c.Err()
		switch {
		case err == nil:
			err = decode(c.Val(), wants[i], part)
		case redis.HasErrorPrefix(err, "NOSCRIPT") || redis.IsReadOnlyError(err):
			again = append(again, part)
			continue
		case c.sent || !callers(ctx, err):
			err = explain(err, c.sent)
		}
		l.failEach(ctx, part, err)
	}
	return again
}

// size returns how many charges the server must look at.
func (q *question) size() int { return len(q.entries) }

// A manifest says which questions of a flight are one: those that ask the same,
// if nobody asked about their keys in between. The server is then asked once, as
// many times, and the first of them are granted.
type manifest struct {
	runs []*question    // each the first of its kind
	run  []int          // of each question
	nth  []int          // of its run
	last map[string]int // key: the last run that asked about it
}

var manifests = sync.Pool{New: func() any { return &manifest{last: make(map[string]int)} }}

func (m *manifest) merge(qs []*question) {
	m.runs, m.run, m.nth = m.runs[:0], m.run[:0], m.nth[:0]
	clear(m.last)
	for _, q := range qs {
		i := m.find(q)
		if i < 0 {
			i = len(m.runs)
			m.runs = append(m.runs, q)
			q.times = 0
			for j := range q.entries {
				m.last[q.entries[j].key] = i
			}
		}
		m.run, m.nth = append(m.run, i), append(m.nth, m.runs[i].times)
		m.runs[i].times++
	}
}

// find returns the run that q belongs to, or -1.
func (m *manifest) find(q *question) int {
	i, ok := m.last[q.entries[0].key]
	if !ok || len(m.runs[i].entries) != len(q.entries) {
		return -1
	}
	for j := range q.entries {
		e, o := &q.entries[j], &m.runs[i].entries[j]
		if last, ok := m.last[e.key]; !ok || last != i || !e.same(o) {
			return -1
		}
	}
	return i
}

// same reports whether e and o ask the same. Events of a log are each their own.
func (e *entry) same(o *entry) bool {
	return e.key == o.key && e.price == o.price && e.most == o.most && e.size == o.size && e.mark == o.mark && e.kind == o.kind
}

// settle gives each question its own part of the answer to its run, as if it had
// been asked alone.
func (m *manifest) settle(qs []*question) {
	for i, q := range slices.Backward(qs) { // the first of a run last
		first := m.runs[m.run[i]]
		q.now, q.failed = first.now, first.failed
		granted, nth := first.granted, m.nth[i]
		later := max(0, granted-1-nth) // what came after it is not in its answer
		q.times, q.granted = 0, min(1, max(0, granted-nth))
		for j := range q.entries {
			e := &q.entries[j]
			e.answer = first.entries[j].answer
			switch taken := q.charged(j) * int64(later); e.kind {
			case bucket:
				e.answer[0] -= taken
			case fixedWindow, slidingWindow:
				e.answer[1] -= taken
			}
		}
	}
	clear(m.runs)
}

// giveBack refunds what was granted to callers who had left: they were told that
// it is not known, and will not use it.
func (l *Limiter) giveBack(qs []*question) {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	qs = slices.DeleteFunc(qs, func(q *question) bool { return q.failed != nil || q.granted == 0 })
	// What cannot be given back stays taken.
	if !l.cluster && len(qs) > 0 {
		_ = l.refund(ctx, refundsOf(qs...))
		return
	}
	for _, q := range qs {
		_ = l.refund(ctx, refundsOf(q))
	}
}
