package limitertest

import (
	"fmt"
	"strings"

	"github.com/goweir/weir/limiter"
)

var keyChecks = []check{
	{name: "keys", run: keys},
	{name: "many keys", run: manyKeys},
	{name: "names", run: names},
}

// hostile returns keys that may be taken for one another by who joins, cuts,
// folds or interprets them.
func hostile() []string {
	long := strings.Repeat("x", 1<<20)
	return []string{
		"", " ", "k", "K", "k ", " k", "k\x00", "k\x00\x00", "\x00k", "\x00", "\x00\x00",
		"{}", "{", "}", "}{", "{k}", "{k}k", "k{k}", "{k", "k}", "{}k", "{{k}}",
		"a:b", "a", "b", "a::b", ":a:b", "a:b:", "a|b", "a\nb", "a,b", "a;b", "a/b", "a_b", "a\x1fb",
		"p", "p:k", "p:", "*", "?", "[k]", "%00", "%6b", "\\", "'", "\"", "k\r\nDEL k",
		"é", "e\u0301", "É", "ß", "ss", "\u200b", "k\u200b", "\ufeffk", "\u212a", "\U0001f4a7",
		"\xff", "\xfe", "\xc3", "\xed\xa0\x80", "\ufffd",
		"1", "01", "1.0", "-1", "0", "nil", "null", "true",
		long, long + "x", long[1:], long[1:] + "y", "y" + long[1:],
	}
}

// keys drains one key after the other: each is whole until its own turn, and
// none of them drains another.
func keys(x *trial) {
	x.untimed()
	p := x.still("p", 1)
	all := hostile()
	for i, k := range all {
		c := limiter.Charge{Policy: p, Key: k, Cost: 1}
		if r := x.take(c); !r.Allowed {
			x.errorf("key %d: Take(%s) = %+v; it shares its quota with a key before it", i, brief(c), r)
		}
	}
	for i, k := range all {
		c := limiter.Charge{Policy: p, Key: k, Cost: 1}
		if r := x.take(c); r.Allowed {
			x.errorf("key %d: Take(%s) = %+v; what was taken from it is forgotten", i, brief(c), r)
		}
	}
	x.reset(limiter.Charge{Policy: p, Key: "k"})
	for _, k := range all {
		want := 0
		if k == "k" {
			want = 1
		}
		x.remaining(limiter.Charge{Policy: p, Key: k}, want)
	}
}

// manyKeys uses so many keys that a table has to grow, or slots to be shared.
func manyKeys(x *trial) {
	x.untimed()
	n := 20_000
	if x.tolerance > 0 {
		n = 300
	}
	p := x.still("p", 2)
	for round := range 3 {
		for i := range n {
			if r := x.take(limiter.Charge{Policy: p, Key: fmt.Sprint(i), Cost: 1}); r.Allowed != (round < 2) {
				x.fatalf("round %d: charge of key %d: %+v", round, i, r)
			}
		}
	}
}

// names are as much a part of a quota's identity as keys, and their border is
// where it is; so is the algorithm.
func names(x *trial) {
	x.untimed()
	pairs := [][2]string{
		{"a", "b:c"}, {"a:b", "c"}, {"a:b:c", ""}, {"a", "b"}, {"ab", ""}, {"a", ""}, {"a ", "b"}, {"a", " b"},
		{"b", "a"}, {"A", "b"}, {"{a}", "b"}, {"a", "{b}"}, {"a}", "b"}, {"a{", "b"}, {"a", "b|c"}, {"a|b", "c"},
		{"a_b", "c"}, {"a", "b_c"}, {"1", "2"}, {"12", ""}, {"2", "1"}, {"1:1", "2"}, {"1", "1:2"},
		{"*", "*"}, {strings.Repeat("n", 1<<16), "k"}, {strings.Repeat("n", 1<<16-1), "nk"},
	}
	for round := range 2 {
		for _, pair := range pairs {
			c := limiter.Charge{Policy: x.still(pair[0], 1), Key: pair[1], Cost: 1}
			if r := x.take(c); r.Allowed != (round == 0) {
				c.Policy.Name = c.Policy.Name[:min(20, len(c.Policy.Name))]
				x.errorf("round %d: Take(%s) = %+v", round, brief(c), r)
			}
		}
	}
}
