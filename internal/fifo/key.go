package fifo

import "math"

// A key is what is known of those with the same key.
//
// In the order of class and arrival, the first of those who wait claim the slots
// of the key that are not in use, as far as these go, and stand in the line; the
// others stand aside.
type key struct {
	name    string
	inUse   int
	claimed int // by those in the line
	waiting int
	lines   []keyLine // of each class; nil until somebody waits
}

type keyLine struct {
	claimed   int
	claimants queue // those in the line
	aside     queue
}

func (k *key) line(class, classes int) *keyLine {
	if k.lines == nil {
		k.lines = make([]keyLine, classes)
	}
	return &k.lines[class]
}

// fits reports whether one more of a class would find its slots free, if it
// stood behind those of its own and better classes.
func (k *key) fits(n, class, size int) bool {
	taken := k.inUse
	if k.waiting > 0 {
		for i := range k.lines[:class+1] {
			if k.lines[i].aside.first != nil {
				return false
			}
			taken += k.lines[i].claimed
		}
	}
	return fits(n, taken, size)
}

// worst returns the last of the worst class that is worse than this one.
func (k *key) worst(class int) *waiter {
	for i := len(k.lines) - 1; i > class; i-- {
		if w := k.lines[i].aside.last; w != nil {
			return w
		}
		if w := k.lines[i].claimants.last; w != nil {
			return w
		}
	}
	return nil
}

// lastClaimant returns who would have to stand aside first, of the classes from
// this one on.
func (k *key) lastClaimant(class int) *waiter {
	for i := len(k.lines) - 1; i >= class; i-- {
		if w := k.lines[i].claimants.last; w != nil {
			return w
		}
	}
	return nil
}

// settleLocked makes those claim the key's slots who are first by class and
// arrival, and the others stand aside. k may be nil.
func (l *Line) settleLocked(k *key) {
	if k == nil || k.waiting == 0 {
		return
	}
	l.trimLocked(k)
	size := l.perKey()
	for class := range k.lines {
		line := &k.lines[class]
		for w := line.aside.first; w != nil; w = line.aside.first {
			// Those of worse classes stand behind it.
			for !fits(w.n, k.inUse+k.claimed, size) {
				last := k.lastClaimant(class + 1)
				if last == nil {
					return
				}
				l.asideLocked(last)
			}
			line.aside.remove(w, inKey)
			line.claimants.push(w, inKey)
			line.claimed += w.n
			k.claimed += w.n
			w.claims = true
			l.ready[class].push(w, inReady)
		}
	}
}

// trimLocked makes those stand aside who claim slots that are there no more: there
// are fewer, or somebody took them past those who wait.
func (l *Line) trimLocked(k *key) {
	for k.claimed > 0 {
		w := k.lastClaimant(0)
		if fits(w.n, k.inUse+k.claimed-w.n, l.perKey()) {
			return
		}
		l.asideLocked(w)
	}
}

func (l *Line) perKey() int {
	if l.size.PerKey == 0 {
		return math.MaxInt
	}
	return l.size.PerKey
}

// asideLocked takes w out of the line, to stand aside before those who came
// later.
func (l *Line) asideLocked(w *waiter) {
	l.unclaimLocked(w)
	w.key.lines[w.class].aside.pushFront(w, inKey)
}

func (l *Line) unclaimLocked(w *waiter) {
	l.ready[w.class].remove(w, inReady)
	line := &w.key.lines[w.class]
	line.claimants.remove(w, inKey)
	line.claimed -= w.n
	w.key.claimed -= w.n
	w.claims = false
}

// keys are those with slots or with somebody who waits.
type keys struct {
	byName map[string]*key
	spare  []*key // so that a key alone on its way allocates nothing
	peak   int    // the most there were since the map was made
}

// maxSpare is how many are kept for later.
const maxSpare = 64

func (ks *keys) add(name string) *key {
	if ks.byName == nil {
		ks.byName, ks.peak = make(map[string]*key), 0
	}
	var k *key
	if n := len(ks.spare); n > 0 {
		k, ks.spare = ks.spare[n-1], ks.spare[:n-1]
	} else {
		k = new(key)
	}
	k.name = name
	ks.byName[name] = k
	ks.peak = max(ks.peak, len(ks.byName))
	return k
}

// forget drops k, which may be nil, if nothing is known of it.
func (ks *keys) forget(k *key) {
	if k == nil || k.inUse > 0 || k.waiting > 0 || k.name == "" {
		return
	}
	delete(ks.byName, k.name)
	k.name = ""
	if len(ks.spare) < maxSpare {
		ks.spare = append(ks.spare, k)
	}
	// A map keeps the room of the most it ever held.
	if ks.peak > 1024 && len(ks.byName) == 0 {
		ks.byName = nil
	}
}
