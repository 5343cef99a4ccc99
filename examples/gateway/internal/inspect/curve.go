package inspect

import (
	"math"
	"slices"
	"time"

	"github.com/goweir/weir/limiter"
)

// A point is a time, in ms since the epoch, and how many units a quota holds.
type point [2]float64

// A curve is the level of a quota around a decision.
type curve struct {
	Policy   string  `json:"policy"`
	Key      string  `json:"key"`
	Capacity int     `json:"capacity"`
	Allowed  int64   `json:"allowed"` // in all
	Refused  int64   `json:"refused"`
	Begin    float64 `json:"begin"` // ms since the epoch
	End      float64 `json:"end"`
	Past     []point `json:"past"`           // what is known of it, up to the decision
	Soon     []point `json:"soon"`           // what follows if nobody asks any more
	Fits     *point  `json:"fits,omitempty"` // when the same would
	Marks    []mark  `json:"marks"`
}

// A mark is a decision, or several that came close together.
type mark struct {
	At      float64 `json:"at"` // ms since the epoch
	Level   float64 `json:"level"`
	Refused bool    `json:"refused"`
}

// course returns how the level goes on after the last of the samples until the
// quota is whole, if nobody asks. A bucket fills evenly; a fixed window begins
// anew at its end; of a sliding window the units of the window before fade away,
// and after its end its own; from a log each event leaves when it is a Window old.
func course(p limiter.Policy, samples []sample) []point {
	s := samples[len(samples)-1]
	at, level, capacity := float64(s.At), s.Level, float64(capacityOf(p))
	line := []point{{at, level}}
	if s.whole <= 0 { // it is whole, or nobody knows when
		return line
	}
	whole, window := at+millis(s.whole), millis(p.Window)
	switch p.Algorithm {
	case limiter.FixedWindow:
		line = append(line, point{whole, level})
	case limiter.SlidingWindow:
		if end := whole - window; end > at {
			line = append(line, point{end, min(capacity, level+s.fading)})
		}
	case limiter.SlidingLog:
		for _, event := range samples {
			if t := float64(event.At) + window; event.taken > 0 && t > at && t < whole {
				line = append(line, point{t, level})
				level = min(capacity, level+event.taken)
				line = append(line, point{t, level})
			}
		}
		line = append(line, point{whole, level})
	}
	return append(line, point{whole, capacity})
}

// levelAt returns the level that a course has at a time.
func levelAt(line []point, at float64) float64 {
	for i := len(line) - 1; i >= 0; i-- {
		from := line[i]
		if from[0] > at {
			continue
		}
		if i == len(line)-1 {
			return from[1]
		}
		to := line[i+1]
		return from[1] + (to[1]-from[1])*(at-from[0])/(to[0]-from[0])
	}
	return line[0][1]
}

// cut returns the part of a course between two times.
func cut(line []point, from, to float64) []point {
	part := []point{{from, levelAt(line, from)}}
	for _, p := range line {
		if p[0] > from && p[0] < to {
			part = append(part, p)
		}
	}
	// A step at the very end belongs to what comes after.
	return append(part, point{to, levelAt(line, math.Nextafter(to, from))})
}

// around returns the curve for a decision about the key.
func (s *keyState) around(d *decision) curve {
	c := curve{Policy: d.Policy, Key: s.hash, Capacity: d.Capacity, Allowed: s.allowed, Refused: s.refused, Marks: []mark{}}
	p := s.charge.Policy
	p.Limit, p.Window = d.Limit, d.Window // those of then
	if isBucket(p.Algorithm) {
		p.Burst = d.Capacity
	}
	own := sample{At: d.At.UnixMilli(), Level: d.Level, whole: d.Reset, fading: d.Fading}
	at := float64(own.At)
	refused := d.Verdict != "allowed"
	n, _ := slices.BinarySearchFunc(s.samples, own.At, func(s sample, at int64) int { return int(s.At - at) })
	for n < len(s.samples) && s.samples[n].At == own.At && (s.samples[n].Refused > 0) != refused {
		n++ // it came before; of the same kind, it would be this one
	}
	if !refused {
		own.taken = float64(d.Cost)
	} else {
		own.Refused = 1
	}
	known := append(slices.Clone(s.samples[:n]), own)

	span := millis(s.span())
	c.Begin = at - max(span, 400)
	if !s.cut {
		c.Begin = max(c.Begin, min(float64(known[0].At), at-max(span/2, 400)))
	}
	after := min(millis(d.Reset), span) * 1.08
	if d.Retry < limiter.Never {
		after = max(after, millis(d.Retry)*1.6)
	}
	c.End = at + max(after, 400)

	first := known[0]
	if t := float64(first.At); !s.cut && t > c.Begin && first.Level+first.taken > float64(c.Capacity)-0.5 {
		c.Past = append(c.Past, point{c.Begin, float64(c.Capacity)}, point{t, float64(c.Capacity)}) // it was whole
	}
	for i := range known {
		from := max(c.Begin, float64(known[i].At))
		if i == len(known)-1 {
			c.Past = append(c.Past, point{at, d.Level})
			c.Soon = cut(course(p, known), at, c.End)
			if fits := at + millis(d.Retry); refused && d.Retry > 0 && d.Retry < limiter.Never {
				c.Fits = &point{fits, levelAt(c.Soon, fits)}
			}
		} else if to := float64(known[i+1].At); to > c.Begin {
			c.Past = append(c.Past, cut(course(p, known[:i+1]), from, to)...)
		}
		if t := float64(known[i].At); t >= c.Begin {
			c.Marks = append(c.Marks, mark{t, known[i].Level, known[i].Refused > 0})
		}
	}
	return c
}

// count makes out how the units of a sliding window are spread over it and the
// one before, which a Result does not say, and returns those of the window
// before that weigh now.
func (s *keyState) count(p limiter.Policy, level float64, reset time.Duration, now time.Time) (fading float64) {
	used := float64(capacityOf(p)) - level
	if reset <= 0 || used <= 0 {
		s.units, s.before = 0, 0
		return 0
	}
	end := now.Add(min(reset, math.MaxInt64/4))
	if reset > p.Window {
		end = end.Add(-p.Window)
	}
	switch moved := end.Sub(s.end); {
	case moved.Abs() < p.Window/4: // clocks differ
	case (moved - p.Window).Abs() < p.Window/4:
		s.before, s.units = s.units, 0
	default:
		s.before, s.units = 0, 0
	}
	s.end = end
	left := float64(end.Sub(now)) / float64(p.Window)
	if reset <= p.Window { // there are none in this window
		if s.before == 0 && left > 0 {
			s.before = used / left
		}
		s.units = 0
		return used
	}
	s.units = max(0, used-math.Ceil(s.before*left))
	return used - s.units
}
