package redislimiter

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed clock.lua
var clockText string

//go:embed quick.lua
var quickText string

//go:embed state.lua
var stateText string

//go:embed decide.lua
var decideText string

//go:embed refund.lua
var refundText string

//go:embed reset.lua
var resetText string

// A script is its text and the name that the server keeps it by.
type script struct{ text, sha string }

func newScript(parts ...string) script {
	text := strings.Join(parts, "")
	sum := sha1.Sum([]byte(text))
	return script{text, hex.EncodeToString(sum[:])}
}

var (
	decideScript = newScript(clockText, quickText, stateText, decideText)
	refundScript = newScript(clockText, stateText, refundText)
	resetScript  = newScript(clockText, stateText, resetText)
)

// A call is one EVALSHA. go-redis asks it before it would send it again after a
// failure, and looks at Args when it writes it.
type call struct {
	*redis.IntSliceCmd
	sent bool
}

// NoRetry keeps any client from executing a call twice. Redirections by a
// cluster are followed nevertheless: nothing was executed then.
func (*call) NoRetry() bool { return true }

func (c *call) Args() []any {
	c.sent = true
	return c.IntSliceCmd.Args()
}

func (c *call) Clone() redis.Cmder {
	return &call{IntSliceCmd: c.IntSliceCmd.Clone().(*redis.IntSliceCmd)}
}

// newCall makes the call of a command with its arguments: EVALSHA, the script,
// the number of keys, the keys, the rest.
func newCall(ctx context.Context, args []any) *call {
	c := &call{IntSliceCmd: redis.NewIntSliceCmd(ctx, args...)}
	c.SetFirstKeyPos(3)
	return c
}

// evaluate runs s once. args has room for the command, the script and the number
// of keys in front. A server that does not know the script gets its text, which
// it then keeps; one that is only a replica is asked again by another connection.
// In both cases nothing was executed before. reads says that the call writes
// nothing, so that a cluster's client may send it to a replica.
func (l *Limiter) evaluate(ctx context.Context, s *script, reads bool, keys int, args []any) ([]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("redislimiter: %w", err)
	}
	text, suffix := false, ""
	if reads && l.replicas && !l.old.Load() {
		suffix = "_ro"
	}
	again := true
	args[2] = keys
	for {
		args[0], args[1] = "evalsha"+suffix, s.sha
		if text {
			args[0], args[1] = "eval"+suffix, s.text
		}
		c := newCall(ctx, args)
		err := l.client.Process(ctx, c)
		switch {
		case err == nil:
			return c.Val(), nil
		case redis.HasErrorPrefix(err, "NOSCRIPT") && !text:
			text = true
		case suffix != "" && redis.HasErrorPrefix(err, "unknown command"):
			// Before Redis 7. Replicas of those cannot be asked.
			l.old.Store(true)
			suffix = ""
		case again && redis.IsReadOnlyError(err):
			again = false
		case !c.sent && callers(ctx, err):
			return nil, fmt.Errorf("redislimiter: %w", err)
		default:
			err = explain(err, c.sent)
			l.lookAround(ctx, err)
			return nil, err
		}
	}
}

// lookAround lets a client of a cluster ask who has which slots, if err may come
// of not knowing: on its own it does so once a minute and when a node that is
// alive sends it elsewhere, so a dead one that was replaced would stay dead for
// as long. It waits for nothing, and the client does it no more than five times
// a second.
func (l *Limiter) lookAround(ctx context.Context, err error) {
	c, ok := l.client.(*redis.ClusterClient)
	if ok && (errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrCluster)) {
		c.ReloadState(ctx)
	}
}

// clock returns the time as scripts want it: 0 stands for the server's own.
func (l *Limiter) clock() int64 {
	if !l.clientClock {
		return 0
	}
	return min(max(1, l.now().UnixMicro()), maxTime)
}

// ask puts questions to the server, in order, by one script call, and fills in
// their answers. All keys must share a slot. After an error that does not match
// ErrUnknown none of them was decided.
func (l *Limiter) ask(ctx context.Context, qs ...*question) error {
	m := l.compose(qs)
	answer, err := l.evaluate(ctx, &decideScript, m.reads, m.keys, m.args)
	if err != nil {
		return err
	}
	return decode(answer, m.want, qs)
}

// A message is what one call says: its arguments, with room for what evaluate
// fills in.
type message struct {
	args  []any
	keys  int
	want  int  // how many numbers answer it
	reads bool // it writes nothing
}

func (l *Limiter) compose(qs []*question) message {
	var keys places
	want, charges, reads := 1, 0, true
	for _, q := range qs {
		charges += len(q.entries)
		for i := range q.entries {
			e := &q.entries[i]
			e.place = keys.place(e.key)
			want += e.answers()
			reads = reads && e.price == 0
		}
	}
	want += len(qs)
	args := make([]any, 3, 3+len(keys.all)+1+len(qs)+5*charges)
	for _, k := range keys.all {
		args = append(args, k)
	}
	args = append(args, l.clock())
	var before *entry // that of the question before, if it is one bucket's
	for _, q := range qs {
		n := len(q.entries)
		if q.times > 1 {
			n += q.times << 20
		}
		if e := &q.entries[0]; n == 1 && before != nil && e.follows(before) {
			args = append(args, 0)
			before = e
			continue
		}
		args = append(args, n)
		for i := range q.entries {
			e := &q.entries[i]
			args = append(args, int64(e.place)*4+int64(e.kind), e.price, e.most, e.size, e.mark)
		}
		before = nil
		if len(q.entries) == 1 && q.entries[0].kind == bucket {
			before = &q.entries[0]
		}
	}
	return message{args, len(keys.all), want, reads}
}

// follows reports whether what is asked for e is what was asked for o, about the
// next key.
func (e *entry) follows(o *entry) bool {
	return e.kind == bucket && e.place == o.place+1 && e.price == o.price && e.most == o.most && e.size == o.size && e.mark == o.mark
}

var errAnswer = errors.New("the answer is not what the script returns")

// decode hands out the numbers of an answer. It believes none of them that the
// arithmetic could not stand.
func decode(answer []int64, want int, qs []*question) error {
	fail := func() error { return explain(errServerAnswer(len(answer), want), true) }
	if len(answer) != want || answer[0] < 0 || answer[0] > 2*maxTime {
		return fail()
	}
	now, rest := answer[0], answer[1:]
	for _, q := range qs {
		q.now = now
		if rest[0] < 0 || rest[0] > int64(max(1, q.times)) {
			return fail()
		}
		q.granted = int(rest[0])
		rest = rest[1:]
		for i := range q.entries {
			e := &q.entries[i]
			n := copy(e.answer[:e.answers()], rest)
			rest = rest[n:]
			if !e.sane(now) {
				return fail()
			}
		}
	}
	return nil
}

func errServerAnswer(got, want int) error {
	return fmt.Errorf("%w: %d numbers for %d", errAnswer, got, want)
}

// sane reports whether the answer is within what the scripts can return.
func (e *entry) sane(now int64) bool {
	a := &e.answer
	switch e.kind {
	case bucket:
		return -now <= a[0] && a[0] <= 2*horizon && a[1] >= 0 && a[1] <= horizon
	case slidingLog:
		return a[0] >= 0 && a[1] >= 0 && a[2] >= 0 && a[3] >= 0 && max(a[1], a[2], a[3]) <= e.size
	}
	// The end of the window that is now, or of the next.
	if left := a[0] - now; left <= 0 || left > 2*e.size || a[1] < 0 || a[1] > maxUnits {
		return false
	}
	return e.kind == fixedWindow || a[1] <= maxSlidingUnits && a[2] >= 0 && a[2] <= maxSlidingUnits
}

// places numbers the keys of a call from 1, each once.
type places struct {
	all   []string
	index map[string]int // only when there are many
}

func (p *places) place(key string) int {
	if p.index == nil {
		for i, k := range p.all {
			if k == key {
				return i + 1
			}
		}
	} else if i := p.index[key]; i > 0 {
		return i
	}
	p.all = append(p.all, key)
	n := len(p.all)
	switch {
	case p.index != nil:
		p.index[key] = n
	case n == 16:
		p.index = make(map[string]int, 2*n)
		for i, k := range p.all {
			p.index[k] = i + 1
		}
	}
	return n
}
