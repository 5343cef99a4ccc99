package redislimiter

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
)

// FuzzAnswer reads any numbers as the answer of the script: an error, or Results
// that keep the rules of Results.
func FuzzAnswer(f *testing.F) {
	add := func(which uint8, numbers ...int64) {
		var b []byte
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
		f.Add(which, uint16(3), uint16(2), b)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	add(0, now, 1, 2_000_000, 0)
	add(0, now, 0, 9_000_000, 0)
	add(1, now, 1, -5, 12)
	add(2, now, 1, now+1, 2, now)
	add(3, now, 0, now+1, 2, 3, now)
	add(4, now, 0, 3, 1000, 1000, 1000)
	add(4, now)
	add(0, -1, 0, 0, 0)
	add(0, now, 2, 0, 0)
	add(0, now, 1, -1<<63+1<<20, 0)
	add(3, now, 1, 1<<62, 1<<62, -1, -1)
	l, err := New(nobody{}, &Options{DangerouslyAllowRetries: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, limit, cost uint16, data []byte) {
		p := limiter.Policy{Name: "p", Algorithm: limiter.Algorithm(which % 5), Limit: 1 + int(limit), Window: time.Duration(1+int(limit)) * time.Second}
		c := limiter.Charge{Policy: p, Key: "k", Cost: int(cost)}
		q := question{entries: make([]entry, 1)}
		e := &q.entries[0]
		e.encode(l, &c)
		var answer []int64
		for ; len(data) >= 8; data = data[8:] {
			answer = append(answer, int64(binary.BigEndian.Uint64(data)))
		}
		if decode(answer, 2+e.answers(), []*question{&q}) != nil {
			return
		}
		q.results(0, false, func(_ *entry, r limiter.Result) {
			if r.Allowed != (q.granted > 0) && c.Cost > 0 && r.Receipt != (limiter.Receipt{}) ||
				r.Remaining < 0 || r.Remaining > p.Limit || r.RetryAfter < 0 || r.ResetAfter < 0 || r.Delay < 0 || r.MoreAfter < 0 {
				t.Errorf("%v of %+v is %+v", answer, c, r)
			}
		})
	})
}
