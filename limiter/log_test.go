package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// checkLogs verifies that slots and logs belong together and that every byte is
// accounted for. Nobody else may use m.
func (m *Memory) checkLogs(t *testing.T) {
	t.Helper()
	bytes := int64(0)
	for i := range m.shards {
		s := &m.shards[i]
		if s.logs == nil {
			continue
		}
		s.checkLocked(t)
		held := 0
		for j, l := range s.logs.all {
			if l == nil {
				continue
			}
			held++
			bytes += l.bytes()
			at, found := s.findLocked(l.id)
			if !found || s.slots[at].rest != uint64(j)+1 || s.slots[at].at < l.last() {
				t.Fatalf("log %d of shard %d: its slot is %v, %+v", j, i, found, s.slots[at])
			}
			units, dead := uint64(0), 0
			for k := range l.n {
				e := l.at(k)
				if units += e.units; e.units == 0 {
					dead++
				}
				if k > 0 && e.until <= l.at(k-1).until {
					t.Fatalf("event %d leaves at %d, the one before at %d", k, e.until, l.at(k-1).until)
				}
			}
			if units != l.units || dead != l.dead {
				t.Fatalf("log of %d events: %d units and %d dead, counted %d and %d", l.n, units, dead, l.units, l.dead)
			}
		}
		if held+len(s.logs.free) != len(s.logs.all) {
			t.Fatalf("shard %d: %d logs and %d free of %d", i, held, len(s.logs.free), len(s.logs.all))
		}
		for j := range s.slots {
			if s.slots[j].shape() == shapeOf(SlidingLog) && s.slots[j].rest == 0 {
				t.Fatalf("shard %d: slot %d has no log", i, j)
			}
		}
	}
	if used := m.logMax - m.logRoom.Load(); used != bytes || used > m.logMax {
		t.Fatalf("%d bytes grabbed of %d, %d in use", used, m.logMax, bytes)
	}
}

// However keys come and go, the bytes of their logs are bounded and none leak.
func TestLogsAreBounded(t *testing.T) {
	runs := uint64(60)
	if testing.Short() {
		runs = 10
	}
	for seed := range runs {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 21))
			bound := int64(8<<10) << rnd.IntN(4)
			m := NewMemory(&MemoryOptions{MaxBytes: bound, LogBytes: bound / 4, RefuseNew: rnd.IntN(2) == 0})
			p := Policy{Name: "p", Algorithm: SlidingLog, Limit: 1 + rnd.IntN(200), Window: time.Second}
			keys := 1 + rnd.IntN(300)
			type held struct {
				c Charge
				r Result
			}
			var open []held
			for range 3000 {
				c := Charge{Policy: p, Key: fmt.Sprint(rnd.IntN(keys)), Cost: 1 + rnd.IntN(1+p.Limit/8)}
				switch rnd.IntN(12) {
				case 0:
					time.Sleep(time.Duration(rnd.Int64N(int64(time.Second / 20))))
				case 1:
					if rnd.IntN(20) == 0 {
						time.Sleep(time.Second)
					}
				case 2, 3, 4:
					if len(open) > 0 {
						j := rnd.IntN(len(open))
						h := open[j]
						open = append(open[:j], open[j+1:]...)
						m.Refund(context.Background(), h.c, &h.r)
					}
				case 5:
					if rnd.IntN(20) == 0 {
						m.Reset(context.Background(), c)
					}
				case 6:
					other := Charge{Policy: Policy{Name: "q", Limit: 1, Window: time.Hour}, Key: fmt.Sprint(rnd.Int()), Cost: 1}
					rs, err := m.TakeAll(context.Background(), []Charge{c, other, c})
					if err != nil {
						t.Fatal(err)
					}
					for i, r := range rs {
						if r.Receipt != (Receipt{}) && i != 1 {
							open = append(open, held{c, r})
						}
					}
				default:
					time.Sleep(1)
					r, err := m.Take(context.Background(), c)
					if err != nil || !r.Allowed && r.RetryAfter <= 0 {
						t.Fatalf("seed %d: %+v, %v", seed, r, err)
					}
					if r.Allowed {
						open = append(open, held{c, r})
					}
				}
				m.checkLogs(t)
			}
			if st := m.Stats(); st.Bytes > bound {
				t.Fatalf("stats %+v: more than %d bytes", st, bound)
			}
		})
	}
}

// The same by many goroutines at once, which look for room in each other's
// shards.
func TestLogsUnderContention(t *testing.T) {
	m := NewMemory(&MemoryOptions{MaxBytes: 1 << 20, LogBytes: 64 << 10})
	p := Policy{Name: "p", Algorithm: SlidingLog, Limit: 100, Window: 5 * time.Millisecond}
	lasting := Policy{Name: "lasting", Algorithm: SlidingLog, Limit: 100, Window: time.Hour}
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 22))
			for range 500 {
				c := Charge{Policy: p, Key: fmt.Sprint(rnd.IntN(2000)), Cost: 1}
				d := Charge{Policy: lasting, Key: fmt.Sprint(rnd.IntN(2000)), Cost: 1}
				rs, err := m.TakeAll(context.Background(), []Charge{c, d})
				if err != nil {
					t.Error(err)
				}
				if rnd.IntN(3) == 0 {
					m.Refund(context.Background(), c, &rs[0])
				}
			}
		})
	}
	wg.Wait()
	m.checkLogs(t)
	if st := m.Stats(); st.Evicted == 0 {
		t.Errorf("stats %+v: there was always room", st)
	}
}

// Rings grow with what is held and shrink again, whatever the Limit was.
func TestLogIsNotSizedByLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(nil)
		c := Charge{Policy: Policy{Name: "p", Algorithm: SlidingLog, Limit: 1 << 62, Window: time.Second}, Key: "k", Cost: 1}
		charge := func(n int) {
			t.Helper()
			for range n {
				time.Sleep(1)
				if r, err := m.Take(t.Context(), c); err != nil || !r.Allowed {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			m.checkLogs(t)
		}
		bytes := func(most int64) {
			t.Helper()
			if got := m.logMax - m.logRoom.Load(); got > most {
				t.Errorf("%d bytes, want at most %d", got, most)
			}
		}
		charge(1)
		bytes(logBytes + 4*16)
		c.Policy.Limit = 1
		if r, _ := m.Take(t.Context(), c); r.Allowed {
			t.Error("the old Limit counts")
		}
		c.Policy.Limit = 10_000
		charge(9999)
		bytes(logBytes + 10_000*24)
		// Merged at one instant, however many.
		time.Sleep(time.Second)
		c.Cost = 10_000
		charge(1)
		time.Sleep(time.Second)
		c.Cost = 1
		for range 20 {
			charge(1)
			time.Sleep(time.Second)
		}
		bytes(logBytes + 32*16)
	})
}

// What is refunded leaves no more traces than there are others.
func TestLogForgetsRefunds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(nil)
		c := Charge{Policy: Policy{Name: "p", Algorithm: SlidingLog, Limit: 3, Window: time.Hour}, Key: "k", Cost: 1}
		var last Result
		for i := range 10_000 {
			time.Sleep(1)
			r, err := m.Take(t.Context(), c)
			if err != nil || !r.Allowed {
				t.Fatalf("charge %d: %+v, %v", i, r, err)
			}
			// Always one is held, so that what is given back is in the middle.
			m.Refund(t.Context(), c, &last)
			last = r
		}
		m.checkLogs(t)
		if got := m.logMax - m.logRoom.Load(); got > logBytes+16*16 {
			t.Errorf("%d bytes for one event", got)
		}
	})
}
