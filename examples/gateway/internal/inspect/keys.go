package inspect

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/goweir/weir/limiter"
)

// Bounds of what is known of keys: about half a MiB.
const (
	maxKeys    = 256
	maxSamples = 64
	halfLife   = 20 * time.Second // of what a key was asked for
)

// keys are the busiest keys, each with the recent past of its quota. When they
// are too many the one that was asked for least makes room, and its score passes
// to the newcomer (space-saving, Metwally and others, 2005): so a flood of keys
// pushes out nobody who is busy.
type keys struct {
	secret []byte // so that nobody can find out an address by trying them all
	mu     sync.Mutex
	known  map[keyID]*keyState
}

type keyID struct {
	policy string
	window time.Duration
	key    string
}

type keyState struct {
	limiter   limiter.Limiter
	charge    limiter.Charge // the last one
	hash      string
	allowed   int64
	refused   int64
	score     float64 // of requests, halved every halfLife
	inherited float64 // the part of it that was another key's
	at        time.Time
	samples   []sample // oldest first
	cut       bool     // there were older ones

	// Of a sliding window, see count.
	end           time.Time
	units, before float64
}

// A sample is the level of a quota after a decision, or after several that came
// close together.
type sample struct {
	began   int64 // the first of them, in ms since the epoch
	At      int64 // the last of them
	Level   float64
	Allowed int
	Refused int

	whole  time.Duration // until it is, if nobody asks
	taken  float64       // units
	fading float64       // SlidingWindow: units of the window before that weigh
}

func newKeys() *keys {
	secret := make([]byte, 32)
	rand.Read(secret)
	return &keys{secret: secret, known: make(map[keyID]*keyState, maxKeys)}
}

func (k *keys) hash(id keyID) string {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(id.policy))
	mac.Write([]byte{0})
	mac.Write([]byte(id.key))
	return hex.EncodeToString(mac.Sum(nil)[:6])
}

// note adds a decision to what is known of its key. It returns the key's hash,
// and for sample.fading.
func (k *keys) note(l limiter.Limiter, c limiter.Charge, res limiter.Result, verdict string, level float64, now time.Time) (hash string, fading float64) {
	id := keyID{c.Policy.Name, c.Policy.Window, c.Key}
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.known[id]
	if !ok {
		s = k.newLocked(id, now)
	}
	if verdict == "spared" { // nobody looked at it
		return s.hash, 0
	}
	s.limiter, s.charge = l, c
	s.decay(now)
	s.score++
	refused := verdict != "allowed"
	if refused {
		s.refused++
	} else {
		s.allowed++
	}
	if res.Remaining < 0 { // nobody counted
		return s.hash, 0
	}
	if c.Policy.Algorithm == limiter.SlidingWindow {
		fading = s.count(c.Policy, level, res.ResetAfter, now)
	}
	// Those that come close together are one, or a flood would leave no past.
	gap := int64(s.span() / (maxSamples - 16) / time.Millisecond)
	at := now.UnixMilli()
	n := len(s.samples)
	if n == 0 || at-s.samples[n-1].began > gap || (s.samples[n-1].Refused > 0) != refused {
		s.add(sample{began: at})
		n = len(s.samples)
	}
	last := &s.samples[n-1]
	last.At, last.Level, last.whole, last.fading = at, level, res.ResetAfter, fading
	if refused {
		last.Refused++
	} else {
		last.Allowed++
		last.taken += float64(c.Cost)
	}
	return s.hash, fading
}

func (s *keyState) add(next sample) {
	if len(s.samples) == maxSamples {
		s.samples = slices.Delete(s.samples, 0, 1)
		s.cut = true
	}
	s.samples = append(s.samples, next)
}

func (k *keys) newLocked(id keyID, now time.Time) *keyState {
	s := &keyState{hash: k.hash(id), at: now}
	if len(k.known) >= maxKeys {
		var least keyID
		lowest := math.Inf(1)
		for id, other := range k.known {
			other.decay(now)
			if other.score < lowest {
				least, lowest = id, other.score
			}
		}
		delete(k.known, least)
		s.score, s.inherited = lowest, lowest
	}
	k.known[id] = s
	return s
}

// decay forgets by half every halfLife.
func (s *keyState) decay(now time.Time) {
	f := math.Exp2(-float64(max(0, now.Sub(s.at))) / float64(halfLife))
	s.score *= f
	s.inherited *= f
	s.at = now
}

// span is how much time a picture of the quota shows.
func (s *keyState) span() time.Duration {
	p := s.charge.Policy
	if isBucket(p.Algorithm) && p.Limit > 0 {
		full := float64(p.Window) * float64(capacityOf(p)) / float64(p.Limit)
		return time.Duration(min(1.5*full, math.MaxInt64/2))
	}
	return min(p.Window, math.MaxInt64/4) * 2
}

// A keyView is what is shown of a key.
type keyView struct {
	Policy    string  `json:"policy"`
	Key       string  `json:"key"`
	PerSecond float64 `json:"per_second"`
	Allowed   int64   `json:"allowed"`
	Refused   int64   `json:"refused"`
	Algorithm string  `json:"algorithm"`
	Limit     int     `json:"limit"`
	WindowMS  float64 `json:"window_ms"`
	Capacity  int     `json:"capacity"`
	Level     float64 `json:"level"` // now; -1: nobody counts
}

func (s *keyState) view(now time.Time) keyView {
	p := s.charge.Policy
	v := keyView{
		Policy: p.Name, Key: s.hash, Allowed: s.allowed, Refused: s.refused,
		PerSecond: max(0, s.score-s.inherited) * math.Ln2 / halfLife.Seconds(),
		Algorithm: p.Algorithm.String(), Limit: p.Limit, WindowMS: millis(p.Window), Capacity: capacityOf(p),
		Level: -1,
	}
	if len(s.samples) > 0 {
		v.Level = levelAt(course(p, s.samples), float64(now.UnixMilli()))
	}
	return v
}

// top returns the n busiest.
func (k *keys) top(n int, now time.Time) []keyView {
	k.mu.Lock()
	defer k.mu.Unlock()
	views := make([]keyView, 0, len(k.known))
	for _, s := range k.known {
		s.decay(now)
		if v := s.view(now); v.Allowed+v.Refused > 0 && v.PerSecond > 0.01 {
			views = append(views, v)
		}
	}
	slices.SortFunc(views, func(a, b keyView) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Key, b.Key))
	})
	return views[:min(n, len(views))]
}

// find calls do with the key that has this hash, if it is still known, and
// reports whether it is.
func (k *keys) find(policy, hash string, do func(s *keyState)) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.known {
		if id.policy == policy && s.hash == hash && s.limiter != nil {
			do(s)
			return true
		}
	}
	return false
}

// whole notes that the quota was reset.
func (s *keyState) whole(now time.Time) {
	for i := range s.samples {
		s.samples[i].taken = 0 // it is forgotten
	}
	s.units, s.before = 0, 0
	s.add(sample{began: now.UnixMilli(), At: now.UnixMilli(), Level: float64(capacityOf(s.charge.Policy))})
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
