package inspect

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goweir/weir/limiter"
)

// Between decisions the curve is what the limiter itself says when it is asked
// without taking anything, for every algorithm, until the quota is whole.
func TestCurveIsTheLimitersOwn(t *testing.T) {
	for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
		t.Run(a.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, uint64(a)))
				l, k := limiter.NewMemory(nil), newKeys()
				p := limiter.Policy{Name: "p", Algorithm: a, Limit: 20, Window: 10 * time.Second}
				asked, worst, grew := 0, 0.0, 0
				blur := 0.0 // ms
				if a == limiter.SlidingLog {
					blur = 2 * 10_000 / (maxSamples - 16) // events that come close together leave together
				}
				for step := range 400 {
					time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
					if step%40 == 0 {
						time.Sleep(time.Duration(r.IntN(30)) * time.Second) // whole windows pass
					}
					c := limiter.Charge{Policy: p, Key: "k", Cost: 1 + r.IntN(6)}
					res, err := l.Take(t.Context(), c)
					if err != nil {
						t.Fatal(err)
					}
					verdict := "allowed"
					if !res.Allowed {
						verdict = "refused"
					}
					hash, _ := k.note(l, c, res, verdict, levelOf(p, res), time.Now())
					if step%8 != 0 {
						continue
					}
					var line []point
					k.find("p", hash, func(s *keyState) { line = course(p, s.samples) })
					for range 12 { // a look takes nothing
						time.Sleep(time.Duration(r.IntN(1200)) * time.Millisecond)
						now, err := l.Take(t.Context(), limiter.Charge{Policy: p, Key: "k"})
						if err != nil {
							t.Fatal(err)
						}
						at, want := float64(time.Now().UnixMilli()), levelOf(p, now)
						off := max(levelAt(line, at-blur)-want, want-levelAt(line, at+blur))
						worst = max(worst, off)
						if off > 1.01 { // a sliding window rounds up what still weighs
							t.Fatalf("step %d: the curve says %.2f of %d, the limiter %d; its line is %.1f", step, levelAt(line, at), p.Limit, now.Remaining, line)
						}
						asked++
						if levelAt(line, at) > line[0][1] {
							grew++
						}
					}
				}
				if grew < asked/4 {
					t.Errorf("in %d of %d looks the level had grown: that shows nothing", grew, asked)
				}
				t.Logf("%d looks, at most %.2f units off", asked, worst)
			})
		})
	}
}

// The picture of a refusal has its past, the moment, and where the same fits.
func TestCurveAroundARefusal(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow, limiter.SlidingWindow, limiter.SlidingLog} {
		t.Run(a.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newInspector(t, Options{})
				p := limiter.Policy{Name: "p", Algorithm: a, Limit: 4, Window: 8 * time.Second}
				rules := limiter.Rules{{Policy: p, Key: limiter.KeyGlobal}}
				h := chain(in, in.Limits("/", limiter.NewMemory(nil), rules, []string{"global"}, nil), ok)
				n, status := 0, 200
				for ; n < 30 && status == 200; n++ {
					time.Sleep(700 * time.Millisecond)
					status = serve(h, "/")
				}
				detail := ask[struct {
					Row    row
					Trace  struct{ Decisions []decision }
					Curves []curve
				}](t, in, fmt.Sprint("exchanges/", n))
				if len(detail.Curves) != 1 || detail.Row.Verdict != "refused" {
					t.Fatalf("after %d requests: %+v", n, detail)
				}
				c, d := detail.Curves[0], detail.Trace.Decisions[0]
				at := float64(d.At.UnixMilli())
				for i, line := range [][]point{c.Past, c.Soon} {
					for j, p := range line {
						if p[1] < 0 || p[1] > 4 || p[0] < c.Begin || p[0] > c.End || j > 0 && p[0] < line[j-1][0] {
							t.Errorf("line %d has %v in %v, want times that grow from %v to %v", i, p, line, c.Begin, c.End)
						}
					}
				}
				if first := c.Past[0]; first[1] != 4 {
					t.Errorf("it begins at %v, want whole", first)
				}
				if last := c.Past[len(c.Past)-1]; last != (point{at, d.Level}) || c.Soon[0] != last {
					t.Errorf("the past ends at %v and what follows begins at %v, want %v", last, c.Soon[0], point{at, d.Level})
				}
				if m := c.Marks[len(c.Marks)-1]; !m.Refused || m.At != at || len(c.Marks) < 3 {
					t.Errorf("the marks are %v", c.Marks)
				}
				// A millisecond is what the times are rounded to.
				fits := at + millis(d.Retry)
				if before, after := levelAt(c.Soon, fits-50), levelAt(c.Soon, fits+1); before >= 1 || after < 0.99 || c.Fits == nil || c.Fits[0] != fits {
					t.Errorf("the level is %.3f just before the same is to fit and %.3f after; the mark is %v", before, after, c.Fits)
				}
			})
		})
	}
}

// Who resets a quota sees it whole, and no old event leave a second time.
func TestCurveAfterAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for a := limiter.TokenBucket; a <= limiter.SlidingLog; a++ {
			l, k := limiter.NewMemory(nil), newKeys()
			c := limiter.Charge{Policy: limiter.Policy{Name: "p", Algorithm: a, Limit: 5, Window: 8 * time.Second}, Key: "k", Cost: 4}
			res, _ := l.Take(t.Context(), c)
			hash, _ := k.note(l, c, res, "allowed", levelOf(c.Policy, res), time.Now())
			time.Sleep(time.Second)
			_ = l.Reset(t.Context(), c)
			k.find("p", hash, func(s *keyState) { s.whole(time.Now()) })
			if top := k.top(1, time.Now()); len(top) != 1 || top[0].Level != 5 {
				t.Errorf("%v: the key is shown as %+v", a, top)
			}
			time.Sleep(time.Second)
			c.Cost = 3
			res, _ = l.Take(t.Context(), c)
			k.note(l, c, res, "allowed", levelOf(c.Policy, res), time.Now())
			for range 9 {
				time.Sleep(time.Second)
				now, _ := l.Take(t.Context(), limiter.Charge{Policy: c.Policy, Key: "k"})
				if got := k.top(1, time.Now())[0].Level; math.Abs(got-levelOf(c.Policy, now)) > 1.01 {
					t.Errorf("%v: the level is shown as %.2f, the limiter says %d", a, got, now.Remaining)
				}
			}
		}
	})
}
