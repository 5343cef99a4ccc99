package limiter

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goweir/weir/internal/diagnose"
)

// BandwidthLimits are rates in bytes per second; 0 means no limit. A byte needs
// room in each that applies to it. Bytes are those of bodies: header fields,
// chunk sizes, frames of HTTP/2 and TLS are not counted.
//
// A rate holds over time: after a pause, up to a tenth of a second's worth
// passes at once, or one slice, if that is more (512 bytes for low rates).
type BandwidthLimits struct {
	PerResponse int64            // each body on its own
	PerKey      int64            // all bodies of one key together: needs BandwidthOptions.Key
	PerRoute    int64            // all bodies of one route together, which is the request's Pattern
	Routes      map[string]int64 // rates of routes, in place of PerRoute; 0: no limit for that one
	Total       int64            // all bodies together

	// Classes share Total: see BandwidthOptions.Class.
	Classes []BandwidthClass
}

// A BandwidthClass is a part of the traffic that has a share of Total.
type BandwidthClass struct {
	Name string // required

	// Weight is the share of Total that the class has while the others want
	// theirs, in proportion to the sum of the weights of those that do. What a
	// class does not use, the others may. Any unit will do: 512 beside 128, or
	// bytes per second that add up to Total. 0: 1; at most 1<<40.
	Weight int64

	// Max is the most that the class gets, also while the others leave room, in
	// bytes per second. 0: no limit of its own.
	Max int64
}

// Bodies says which bodies are paced.
type Bodies uint8

const (
	ResponseBodies Bodies = iota // what clients download
	RequestBodies                // what they upload
	AllBodies                    // both, drawing on the same rates; PerResponse is for each
)

// BandwidthOptions are the options of [NewBandwidth]. Functions are called by
// many goroutines at once, with no lock held.
type BandwidthOptions struct {
	Limits BandwidthLimits // SetLimits changes them later

	// Key says whose PerKey rate a body draws on: two connections of one client
	// share it. Required if PerKey is not 0.
	Key KeyFunc

	// Class returns the name of the class that a request belongs to. One that is
	// not in Classes means the last of them. Required for two Classes and more.
	Class func(*http.Request) string

	// Bodies says what is paced. The zero value means responses. To give uploads
	// rates of their own, use two Bandwidths.
	Bodies Bodies

	// Free is how many bytes of each body pass before pacing begins. They are
	// counted nowhere: whoever may ask for many small files is not paced.
	Free int64

	// ExemptEvents leaves responses of type text/event-stream alone, and
	// ExemptUpgrades connections that a handler takes over, such as WebSockets.
	ExemptEvents, ExemptUpgrades bool

	// MaxKeys is how many keys have rates of their own at one time, among those
	// that have a request under way. The keys that come while there are so many
	// share one rate of PerKey, all together: nobody is unpaced, memory stays
	// bounded (about 500 bytes a key), and those who came before do not notice.
	// 0: 65,536.
	MaxKeys int

	// Unkeyed says what becomes of a request whose Key is empty or fails, or
	// that has no Pattern where PerRoute is set. The zero value refuses it as
	// Middleware does; SkipUnkeyed leaves that rate out.
	Unkeyed Unkeyed

	// Observer is told the end of each paced body: EventSent, EventReceived.
	// nil: nobody.
	Observer Observer
}

// DefaultMaxKeys is the default of [BandwidthOptions.MaxKeys].
const DefaultMaxKeys = 65536

// maxByteRate keeps arithmetic far from overflow: a TiB per second.
const maxByteRate = 1 << 40

// A BandwidthError is one fault of [BandwidthOptions] or [BandwidthLimits].
type BandwidthError struct {
	Field string // as in Limits.PerKey or Limits.Classes[1].Weight
	Err   string // what is wrong with it, and what is allowed
}

func (e *BandwidthError) Error() string { return "limiter: bandwidth: " + e.Field + " " + e.Err }

// A Bandwidth paces bodies to rates in bytes per second: for each of them, for
// each key, for each route, for classes that share, and in total.
//
// It slices and never buffers: a Write returns when its last slice has been
// handed on, so a handler is slowed down, and what the handler reads from, such
// as the upstream of a proxy, with it. A handler that waits holds no lock and has
// no goroutine but its own.
//
// All methods are safe for concurrent use. There is nothing to close.
type Bandwidth struct {
	opts     BandwidthOptions // Limits aside
	limits   atomic.Pointer[BandwidthLimits]
	change   sync.Mutex // held by SetLimits
	keys     *sharers
	routes   *sharers
	total    *share
	ceilings []*share // of the classes
	counters []bandwidthCounters
}

// bandwidthCounters are those of a class; without classes there is one.
type bandwidthCounters struct {
	bodies, bytes, waited atomic.Int64
}

// NewBandwidth returns a Bandwidth, or every fault of opts, joined; each is a
// [*BandwidthError].
func NewBandwidth(opts BandwidthOptions) (*Bandwidth, error) {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, &BandwidthError{field, fmt.Sprintf(format, args...)})
	}
	opts.Limits.validate(fault)
	if opts.Limits.PerKey > 0 && opts.Key == nil {
		fault("Key", "is nil; Limits.PerKey needs one, such as KeyByClientIP")
	}
	if opts.Class == nil && len(opts.Limits.Classes) > 1 {
		fault("Class", "is nil; %d Classes need it", len(opts.Limits.Classes))
	}
	if opts.Class != nil && len(opts.Limits.Classes) == 0 {
		fault("Class", "is set, but there are no Limits.Classes")
	}
	if opts.Bodies > AllBodies {
		fault("Bodies", "is %d; allowed: ResponseBodies, RequestBodies, AllBodies", opts.Bodies)
	}
	if opts.Free < 0 {
		fault("Free", "is %d; allowed: 0 or more", opts.Free)
	}
	if opts.MaxKeys < 0 {
		fault("MaxKeys", "is %d; allowed: 0 (%d) or more", opts.MaxKeys, DefaultMaxKeys)
	}
	if opts.Unkeyed > SkipUnkeyed {
		fault("Unkeyed", "is %d; allowed: RefuseUnkeyed, SkipUnkeyed", opts.Unkeyed)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if opts.MaxKeys == 0 {
		opts.MaxKeys = DefaultMaxKeys
	}
	diagnose.Built("limiter.NewBandwidth")
	limits := opts.Limits.clone()
	opts.Limits = BandwidthLimits{}
	b := &Bandwidth{
		opts:     opts,
		keys:     newSharers(opts.MaxKeys, limits.ofKey),
		routes:   newSharers(math.MaxInt, limits.ofRoute), // a program has only so many
		total:    newShare(limits.Total, ticksOfAll, limits.weights()...),
		counters: make([]bandwidthCounters, max(1, len(limits.Classes))),
	}
	for i := range limits.Classes {
		b.ceilings = append(b.ceilings, newShare(limits.Classes[i].Max, ticksOfAll))
	}
	b.limits.Store(limits)
	return b, nil
}

// ticksOfAll makes slices fine where everybody draws on one rate.
const ticksOfAll = 200

// SetLimits changes the limits, for what is under way too: at once for those who
// wait for a rate that others share, and for PerResponse with the next slice. A
// limit that was 0 when a body began does not apply to it, though. Classes must
// be those of NewBandwidth, by name and order; their weights may differ. If it
// returns an error, every fault joined, nothing has changed.
func (b *Bandwidth) SetLimits(limits BandwidthLimits) error {
	b.change.Lock()
	defer b.change.Unlock()
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, &BandwidthError{field, fmt.Sprintf(format, args...)})
	}
	limits.validate(fault)
	if limits.PerKey > 0 && b.opts.Key == nil {
		fault("Limits.PerKey", "is set, but BandwidthOptions.Key was nil")
	}
	old := b.limits.Load()
	if !slices.EqualFunc(old.Classes, limits.Classes, func(x, y BandwidthClass) bool { return x.Name == y.Name }) {
		fault("Limits.Classes", "are other classes than before; only Weight and Max may change")
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	l := limits.clone()
	b.limits.Store(l)
	b.keys.set(l.ofKey)
	b.routes.set(l.ofRoute)
	b.total.weigh(l.weights())
	b.total.set(l.Total)
	for i := range l.Classes {
		b.ceilings[i].set(l.Classes[i].Max)
	}
	return nil
}

// Limits returns the limits in force.
func (b *Bandwidth) Limits() BandwidthLimits { return *b.limits.Load().clone() }

func (l *BandwidthLimits) validate(fault func(field, format string, args ...any)) {
	rate := func(field string, n int64) {
		if n < 0 || n > maxByteRate {
			fault("Limits."+field, "is %d; allowed: 0 (no limit) to 1<<40 bytes per second", n)
		}
	}
	rate("PerResponse", l.PerResponse)
	rate("PerKey", l.PerKey)
	rate("PerRoute", l.PerRoute)
	for _, route := range slices.Sorted(maps.Keys(l.Routes)) {
		rate(fmt.Sprintf("Routes[%q]", route), l.Routes[route])
	}
	rate("Total", l.Total)
	for i, c := range l.Classes {
		field := fmt.Sprintf("Classes[%d]", i)
		if c.Name == "" {
			fault("Limits."+field+".Name", "is empty")
		} else if j := slices.IndexFunc(l.Classes[:i], func(d BandwidthClass) bool { return d.Name == c.Name }); j >= 0 {
			fault("Limits."+field+".Name", "is %q, as that of Classes[%d]", c.Name, j)
		}
		if c.Weight < 0 || c.Weight > 1<<40 {
			fault("Limits."+field+".Weight", "is %d; allowed: 0 (counts as 1) to 1<<40", c.Weight)
		}
		rate(field+".Max", c.Max)
	}
}

func (l *BandwidthLimits) clone() *BandwidthLimits {
	c := *l
	c.Routes = maps.Clone(l.Routes)
	c.Classes = slices.Clone(l.Classes)
	return &c
}

func (l *BandwidthLimits) ofKey(string) int64 { return l.PerKey }

func (l *BandwidthLimits) ofRoute(pattern string) int64 {
	if rate, ok := l.Routes[pattern]; ok {
		return rate
	}
	return l.PerRoute
}

func (l *BandwidthLimits) weights() []int64 {
	var weights []int64
	for _, c := range l.Classes {
		weights = append(weights, max(1, c.Weight))
	}
	return weights
}

// BandwidthStats is what a Bandwidth is doing, and has done, all in all.
type BandwidthStats struct {
	Keys    int // with a rate of their own, or with one that has not yet refilled
	Classes []BandwidthClassStats
}

// BandwidthClassStats are those of a class. Without classes there is one, and
// its Name is empty.
type BandwidthClassStats struct {
	Name    string
	Bodies  int           // being paced now
	Waiting int           // of them, for their turn at Total
	Bytes   int64         // that have passed in paced bodies, free ones included
	Waited  time.Duration // by all bodies, for all rates; bodies under way included
}

// Stats returns a snapshot, for gauges and counters. Its parts are not of
// exactly the same instant.
func (b *Bandwidth) Stats() BandwidthStats {
	st := BandwidthStats{Keys: b.keys.count(), Classes: make([]BandwidthClassStats, len(b.counters))}
	classes := b.limits.Load().Classes
	for i := range st.Classes {
		c := &b.counters[i]
		st.Classes[i] = BandwidthClassStats{
			Bodies:  int(c.bodies.Load()),
			Waiting: b.total.waitingIn(i),
			Bytes:   c.bytes.Load(),
			Waited:  time.Duration(c.waited.Load()),
		}
		if i < len(classes) {
			st.Classes[i].Name = classes[i].Name
		}
	}
	return st
}
