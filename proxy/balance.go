package proxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Balance is how an upstream is chosen among those that can be used. Each way
// gives an upstream a share that is proportional to its Weight. A choice looks at
// all upstreams; with one there is none.
type Balance uint8

const (
	// RoundRobin takes them in turn, and costs a lock. It suits requests that cost
	// about the same.
	RoundRobin Balance = iota

	// LeastInFlight draws two at random and takes the one with fewer requests
	// under way for its weight. It suits requests that cost very different
	// amounts, and upstreams of which one may be slow. Of all that are idle it is
	// even only on average.
	LeastInFlight

	// ByKey sends requests with the same key (Config.Key) to the same upstream,
	// in every process that has the same list, by rendezvous hashing: where an
	// upstream comes or goes only its own share of the keys moves. Requests with
	// an empty key go round in turn. Who chooses keys can choose them to fall on
	// one upstream.
	ByKey
)

// A pool is a list of upstreams, which does not change.
type pool struct {
	upstreams []*upstream
	weights   []int

	mu      sync.Mutex
	credits []int // for turn
}

// usable appends to buf the indexes of the upstreams that may be tried. Those in
// tried come only if there is no other.
func (p *pool) usable(buf []int, tried []*upstream) []int {
	if len(p.upstreams) == 1 {
		if up := p.upstreams[0]; up.health.down.Load() || up.breaker.refuses() {
			return buf
		}
		return append(buf, 0)
	}
	now := time.Now()
	for _, want := range [...]struct{ ejected, tried bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		for i, up := range p.upstreams {
			if !up.health.down.Load() && up.health.ejected(now) == want.ejected && slices.Contains(tried, up) == want.tried && !up.breaker.refuses() {
				buf = append(buf, i)
			}
		}
		if len(buf) > 0 {
			break
		}
	}
	return buf
}

// choose returns which of the candidates comes next, as an index into them.
func (p *pool) choose(balance Balance, key func(*http.Request) string, r *http.Request, candidates []int) int {
	if len(candidates) == 1 {
		return 0
	}
	switch balance {
	case LeastInFlight:
		return p.lessBusy(candidates)
	case ByKey:
		if k := key(r); k != "" {
			return p.rendezvous(k, candidates)
		}
	}
	return p.turn(candidates)
}

// turn is smooth weighted round robin: each gets credit by its weight, the
// richest is taken and pays for all.
func (p *pool) turn(candidates []int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, sum := 0, 0
	for c, i := range candidates {
		p.credits[i] += p.weights[i]
		sum += p.weights[i]
		if p.credits[i] > p.credits[candidates[best]] {
			best = c
		}
	}
	p.credits[candidates[best]] -= sum
	return best
}

func (p *pool) lessBusy(candidates []int) int {
	a := p.draw(candidates, -1)
	b := p.draw(candidates, a)
	i, j := candidates[a], candidates[b]
	if p.upstreams[j].inFlight.Load()*int64(p.weights[i]) < p.upstreams[i].inFlight.Load()*int64(p.weights[j]) {
		return b
	}
	return a
}

// draw returns a random candidate but one, with weights.
func (p *pool) draw(candidates []int, but int) int {
	sum := 0
	for c, i := range candidates {
		if c != but {
			sum += p.weights[i]
		}
	}
	r := rand.IntN(sum)
	for c, i := range candidates {
		if c == but {
			continue
		}
		if r -= p.weights[i]; r < 0 {
			return c
		}
	}
	panic("unreachable")
}

// rendezvous gives each candidate a score from the key and its name, and takes
// the highest. The logarithm makes the shares proportional to the weights.
func (p *pool) rendezvous(key string, candidates []int) int {
	h := hash(key)
	best, highest := 0, math.Inf(-1)
	for c, i := range candidates {
		u := (float64(mix(h^p.upstreams[i].id)>>11) + 0.5) / (1 << 53) // within 0 and 1, never one of them
		if score := -float64(p.weights[i]) / math.Log(u); score > highest {
			best, highest = c, score
		}
	}
	return best
}

// hash is FNV-1a: the same in every process, unlike hash/maphash.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64. Names that differ in one character must
// not give scores that go together.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
