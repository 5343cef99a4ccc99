package proxy

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

// StaleOptions bound a [Stale]. Nil and the zero value are the defaults.
type StaleOptions struct {
	_ [0]func() // keyed literals only: fields will be added

	// MaxBytes is how much memory all answers together may take, by what is kept
	// of headers, bodies and targets. The one not used for longest goes first. 0
	// means 16 MiB; negative is a fault.
	MaxBytes int64

	// MaxBody is the largest body that is kept. While an answer passes, as much
	// is held beyond MaxBytes. 0 means 256 KiB; negative is a fault.
	MaxBody int64

	// MaxStale is how long after it has become stale an answer may be served that
	// does not say so itself by stale-if-error (RFC 5861 section 4). It is the
	// operator's word in place of the upstream's (RFC 9111 section 4.2.4). 0
	// means that only stale-if-error counts; negative is a fault.
	MaxStale time.Duration
}

// A Stale keeps good answers to GET requests and serves the last one when there
// is no better: it is a fallback, for Config.Fallback, and its [Stale.Middleware]
// must stand around the Proxy to see the answers. It is safe for concurrent use
// and must be made by [NewStale].
//
// It is no cache: while the upstream works it answers nothing. It keeps to the
// rules for a shared one (RFC 9111). Kept are answers with status 200, without
// no-store, private, no-cache or Set-Cookie, without "Vary: *", and to a request
// with Authorization or Cookie only if they are public. They are served while
// they are fresh, and then for as long as their stale-if-error (RFC 5861) or
// MaxStale allows, unless they have must-revalidate, proxy-revalidate or
// s-maxage, or the client asks for something newer (no-cache, no-store, max-age,
// min-fresh). Age says how old the answer is. Where there is none, [Problem]
// answers. A target keeps one answer, the latest, which is served to a request
// that has the same values in the fields that Vary names.
type Stale struct {
	maxBytes, maxBody int64
	maxStale          time.Duration

	mu      sync.Mutex
	bytes   int64
	entries map[string]*list.Element
	recent  list.List // of *kept, the latest used in front
}

// kept is an answer, which does not change.
type kept struct {
	key    string
	header http.Header
	body   []byte
	vary   map[string][]string // by name, as the request had them
	stored time.Time
	age    time.Duration // when it was stored
	fresh  time.Duration // for so long after it was made
	stale  time.Duration // and for so long after that
	size   int64
}

const (
	forEver = 1 << 31 * time.Second // RFC 9111 section 1.2.2; two of them can be added
	maxKept = math.MaxInt32 - 1     // as a body, for an int to count
)

// NewStale returns an empty Stale. The error joins all faults of opts.
func NewStale(opts *StaleOptions) (*Stale, error) {
	var o StaleOptions
	if opts != nil {
		o = *opts
	}
	var faults []error
	if o.MaxBytes < 0 {
		faults = append(faults, fmt.Errorf("proxy: StaleOptions.MaxBytes is %d: 0 (meaning 16 MiB) and more are allowed", o.MaxBytes))
	}
	if o.MaxBody < 0 {
		faults = append(faults, fmt.Errorf("proxy: StaleOptions.MaxBody is %d: 0 (meaning 256 KiB) and more are allowed", o.MaxBody))
	}
	if o.MaxStale < 0 {
		faults = append(faults, fmt.Errorf("proxy: StaleOptions.MaxStale is %s: 0 (meaning what stale-if-error allows) and more are allowed", o.MaxStale))
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return &Stale{
		maxBytes: cmp.Or(o.MaxBytes, 16<<20),
		maxBody:  min(cmp.Or(o.MaxBody, 256<<10), maxKept),
		maxStale: min(o.MaxStale, forEver),
		entries:  map[string]*list.Element{},
	}, nil
}

// Middleware keeps the good answers of next, which is the Proxy that has the
// Stale as its fallback. It costs a copy of each body that is kept and seven
// allocations. It panics if next is nil.
func (s *Stale) Middleware(next http.Handler) http.Handler {
	if next == nil {
		panic("proxy: Stale.Middleware needs a handler, not nil")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodOptions, http.MethodTrace:
			next.ServeHTTP(w, r)
			return
		default:
			c := &changing{stale: s, key: targetKey(r)}
			defer c.writer.Finish(true)
			next.ServeHTTP(c.writer.Wrap(w, c), r)
			return
		}
		k := &keeping{stale: s, in: r}
		keeps := r.Method == http.MethodGet && !directives(r.Header).has("no-store") && r.Header.Get("Range") == "" && r.Header.Get("Upgrade") == ""
		if keeps {
			k.before = w.Header().Clone()
			w = k.writer.Wrap(w, k)
		}
		inner := r.WithContext(context.WithValue(r.Context(), keepingKey{}, k))
		returned := false
		defer func() {
			if keeps {
				k.writer.Finish(returned)
			}
			if returned && k.answer != nil && !k.spoiled {
				k.finish()
			}
			// Middleware outside may ask for the one, and http.Server removes the
			// temporary files of the other.
			if r.Pattern != inner.Pattern {
				r.Pattern = inner.Pattern
			}
			if r.MultipartForm != inner.MultipartForm {
				r.MultipartForm = inner.MultipartForm
			}
		}()
		next.ServeHTTP(w, inner)
		returned = true
	})
}

type keepingKey struct{}

// targetKey is what RFC 9111 section 2 calls the primary key.
func targetKey(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + r.URL.RequestURI()
}

// changing forgets what is kept of a target that a request has changed, RFC 9111
// section 4.4.
type changing struct {
	respwriter.NoHooks
	writer respwriter.Writer
	stale  *Stale
	key    string
}

func (c *changing) Header(status int, _ http.Header) {
	if status >= 200 && status < 400 {
		c.stale.forget(c.key)
	}
}

// keeping copies one answer on its way, if it may be kept.
type keeping struct {
	respwriter.NoHooks
	writer respwriter.Writer
	stale  *Stale
	in     *http.Request
	before http.Header // as middleware outside has set it
	answer *kept       // nil: not to be kept
	length int64       // as the header says; -1: it does not

	spoiled bool // a fallback answers, or the answer broke off: that is none of the good ones
}

// spoil says that what answers r is no good answer.
func spoil(r *http.Request) {
	if k, ok := r.Context().Value(keepingKey{}).(*keeping); ok {
		k.spoiled = true
	}
}

// Header decides whether the answer is kept.
func (k *keeping) Header(status int, h http.Header) {
	k.answer = nil
	if status != http.StatusOK {
		return
	}
	k.length = -1
	if v := h.Get("Content-Length"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > k.stale.maxBody {
			return
		}
		k.length = n
	}
	k.answer = k.stale.keepable(k.in, k.before, h)
}

func (k *keeping) Want() int {
	if k.answer == nil {
		return 0
	}
	return int(k.stale.maxBody) + 1 - len(k.answer.body)
}

func (k *keeping) Body(p []byte, n int64, err error) {
	a := k.answer
	if a == nil || n == 0 && err == nil {
		return
	}
	if err != nil || int64(len(p)) != n || int64(len(a.body))+n > k.stale.maxBody {
		k.answer = nil
		return
	}
	a.body = append(a.body, p...)
}

func (k *keeping) finish() {
	if k.length >= 0 && int64(len(k.answer.body)) != k.length {
		return
	}
	k.stale.keep(k.answer)
}

// keepable returns what is to be kept of an answer with header h, but for its
// body, or nil.
func (s *Stale) keepable(r *http.Request, before, h http.Header) *kept {
	d := directives(h)
	vary := listed(h["Vary"])
	switch {
	case d.has("no-store"), d.has("private"), d.has("no-cache"), slices.Contains(vary, "*"):
		return nil
	case len(h["Set-Cookie"]) > 0, len(h["Trailer"]) > 0:
		return nil
	case (len(r.Header["Authorization"]) > 0 || len(r.Header["Cookie"]) > 0) && !d.has("public"):
		return nil
	}
	now := time.Now()
	k := &kept{key: targetKey(r), header: http.Header{}, stored: now, stale: s.maxStale}
	for name, values := range h {
		if slices.Equal(values, before[name]) || name == "Connection" || name == "Age" {
			continue // what is outside will be set for the next request, too
		}
		k.header[name] = slices.Clone(values)
	}
	made := now
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		made = t
	} else {
		k.header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	// RFC 9111 section 4.2.3, without the delay of the answer.
	k.age = max(0, now.Sub(made))
	if n, ok := seconds(h.Get("Age")); ok {
		k.age = max(k.age, n)
	}
	if n, ok := d.seconds("s-maxage"); ok {
		k.fresh = n
	} else if n, ok := d.seconds("max-age"); ok {
		k.fresh = n
	} else if t, err := http.ParseTime(h.Get("Expires")); err == nil {
		k.fresh = max(0, t.Sub(made))
	}
	if n, ok := d.seconds("stale-if-error"); ok {
		k.stale = n
	}
	if d.has("must-revalidate") || d.has("proxy-revalidate") || d.has("s-maxage") {
		k.stale = 0
	}
	if k.fresh+k.stale <= k.age {
		return nil // it could never be served
	}
	k.vary = map[string][]string{}
	for _, name := range vary {
		name = http.CanonicalHeaderKey(name)
		k.vary[name] = slices.Clone(r.Header[name])
	}
	return k
}

func (s *Stale) keep(k *kept) {
	k.size = int64(len(k.key)+cap(k.body)) + 512 // for what holds them
	for _, h := range []map[string][]string{k.header, k.vary} {
		for name, values := range h {
			k.size += int64(len(name)) + 64
			for _, v := range values {
				k.size += int64(len(v)) + 16
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(k.key)
	if k.size > s.maxBytes {
		return
	}
	s.entries[k.key] = s.recent.PushFront(k)
	for s.bytes += k.size; s.bytes > s.maxBytes; {
		s.forgetLocked(s.recent.Back().Value.(*kept).key)
	}
}

func (s *Stale) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(key)
}

func (s *Stale) forgetLocked(key string) {
	if e := s.entries[key]; e != nil {
		s.bytes -= e.Value.(*kept).size
		s.recent.Remove(e)
		delete(s.entries, key)
	}
}

// Len returns how many answers are kept, and how much memory they take.
func (s *Stale) Len() (answers int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.bytes
}

// ServeHTTP answers with what is kept for r, or as [Problem] does.
func (s *Stale) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, age := s.find(r)
	if k == nil {
		Problem(w, r)
		return
	}
	h := w.Header()
	for name, values := range k.header {
		h[name] = slices.Clone(values)
	}
	h.Set("Age", strconv.FormatInt(int64(age/time.Second), 10))
	h.Set("Content-Length", strconv.Itoa(len(k.body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		writePatiently(w, r, k.body)
	}
}

// find returns the answer that may be served to r now, and its age.
func (s *Stale) find(r *http.Request) (*kept, time.Duration) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, 0
	}
	if k, ok := r.Context().Value(keepingKey{}).(*keeping); ok && k.stale == s {
		r = k.in // as it was when it was kept: a prefix may have been removed meanwhile
	}
	s.mu.Lock()
	e := s.entries[targetKey(r)]
	if e == nil {
		s.mu.Unlock()
		return nil, 0
	}
	s.recent.MoveToFront(e)
	k := e.Value.(*kept)
	s.mu.Unlock()

	age := k.age + time.Since(k.stored)
	if age >= k.fresh+k.stale {
		return nil, 0
	}
	for name, values := range k.vary {
		if !slices.Equal(values, r.Header[name]) {
			return nil, 0
		}
	}
	d := directives(r.Header)
	if d.has("no-cache") || d.has("no-store") || len(r.Header["Cache-Control"]) == 0 && strings.Contains(r.Header.Get("Pragma"), "no-cache") {
		return nil, 0
	}
	if n, ok := d.seconds("max-age"); ok && age > n {
		return nil, 0
	}
	if n, ok := d.seconds("min-fresh"); ok && age+n > k.fresh {
		return nil, 0
	}
	return k, age
}

// control is a Cache-Control field: arguments by directive, in lower case.
type control map[string]string

func directives(h http.Header) control {
	if len(h["Cache-Control"]) == 0 {
		return nil
	}
	c := control{}
	for _, d := range listed(h["Cache-Control"]) {
		name, arg, _ := strings.Cut(d, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, twice := c[name]; twice {
			arg = "0" // RFC 9111 section 4.2.1: rather stale than wrong
		}
		c[name] = strings.Trim(strings.TrimSpace(arg), `"`)
	}
	return c
}

func (c control) has(name string) bool { _, ok := c[name]; return ok }

// seconds returns the argument of a directive. One that cannot be read is taken
// for 0.
func (c control) seconds(name string) (time.Duration, bool) {
	arg, ok := c[name]
	if !ok {
		return 0, false
	}
	d, _ := seconds(arg)
	return d, true
}

// seconds parses a delta-seconds, RFC 9111 section 1.2.2.
func seconds(s string) (time.Duration, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > int64(forEver/time.Second) {
		return forEver, true
	}
	return time.Duration(n) * time.Second, true
}

// listed returns the elements of a field's lines. A comma within quotes cuts
// too, which at worst makes a directive of what is none.
func listed(lines []string) (elements []string) {
	for _, line := range lines {
		for e := range strings.SplitSeq(line, ",") {
			if e = strings.TrimSpace(e); e != "" {
				elements = append(elements, e)
			}
		}
	}
	return elements
}
