package main_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/goweir/weir/benchmarks/floor"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/limiter"
)

// field holds the key of a request.
const field = "X-User"

// nowhere is a response writer that does nothing.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}

func newRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(field, "ann")
	return r
}

// requests serves one request over and over. The response's header is emptied
// each time, and so is that of the bare handler.
func requests(h http.Handler) func(int) {
	r, w := newRequest(), &nowhere{http.Header{}}
	return func(n int) {
		for range n {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
	}
}

// A link is a middleware with a name.
type link struct {
	name string
	wrap func(http.Handler) http.Handler
}

func weirLink(name string, q peer.Quota, key limiter.KeyFunc, form limiter.HeaderForm) link {
	rules := limiter.Rules{{Policy: policies[q], Key: key}}
	return link{name, limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{Headers: form})}
}

func floorLink(name string, q peer.Quota, f func(*floor.Table, string) func(http.Handler) http.Handler) link {
	p := policies[q]
	return link{name, f(floor.NewTable(1, p.Limit, p.Window, max(p.Burst, p.Limit)), field)}
}

func peerLinks(q peer.Quota) []link {
	var links []link
	for _, p := range peer.Middlewares {
		links = append(links, link{p.Name, p.New(q, field)})
	}
	return links
}

var (
	byHeader = limiter.KeyByHeader(field)
	empty    = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
)

// compareLinks prints what each link adds to the bare handler, and the same in
// full.
func compareLinks(t *testing.T, title string, links ...link) {
	t.Helper()
	cases := []pace.Case{{Name: "bare", Run: requests(empty)}}
	for _, l := range links {
		cases = append(cases, pace.Case{Name: l.name, Run: requests(l.wrap(empty))})
	}
	rows := pace.Compare(options(false), cases...)
	pace.Print(t.Output(), title+", in full", append(slices.Clone(rows[1:]), rows[0]))
	for i := range rows[1:] {
		rows[i+1] = rows[i+1].Minus(rows[0])
	}
	pace.Print(t.Output(), title+", added to bare", rows[1:])
}

// TestMiddlewareSilent compares middlewares that set no header fields with the
// floor that decides only.
func TestMiddlewareSilent(t *testing.T) {
	compareLinks(t, "no header fields",
		weirLink("weir", peer.Plenty, byHeader, limiter.NoHeaders),
		floorLink("floor", peer.Plenty, floor.Decide))
}

// TestMiddleware compares middlewares with header fields: with the floors that
// set three by hand, and with the peers' own.
func TestMiddleware(t *testing.T) {
	compareLinks(t, "header fields", append([]link{
		weirLink("weir, key by header", peer.Plenty, byHeader, limiter.Draft10),
		weirLink("weir, key by address", peer.Plenty, limiter.KeyByClientIP, limiter.Draft10),
		weirLink("weir, X-RateLimit", peer.Plenty, byHeader, limiter.XRateLimit),
		floorLink("floor, three fields", peer.Plenty, floor.Fields),
		floorLink("floor, three fields packed", peer.Plenty, floor.Packed),
	}, peerLinks(peer.Plenty)...)...)
}

// TestMiddlewareRefused compares refusals in full.
func TestMiddlewareRefused(t *testing.T) {
	compareLinks(t, "refused", append([]link{
		weirLink("weir, key by header", peer.Few, byHeader, limiter.Draft10),
		weirLink("weir, key by address", peer.Few, limiter.KeyByClientIP, limiter.Draft10),
		weirLink("weir, no header fields", peer.Few, byHeader, limiter.NoHeaders),
		floorLink("floor, three fields", peer.Few, floor.Fields),
	}, peerLinks(peer.Few)...)...)
}

func TestMiddlewareAllocations(t *testing.T) {
	for _, tt := range []struct {
		link
		want float64
	}{
		{weirLink("no header fields", peer.Plenty, byHeader, limiter.NoHeaders), 0},
		{weirLink("header fields, key by header", peer.Plenty, byHeader, limiter.Draft10), 4},
		{weirLink("header fields, key by address", peer.Plenty, limiter.KeyByClientIP, limiter.Draft10), 5},
	} {
		serve := requests(tt.wrap(empty))
		serve(1000) // the first of them are looked at for mistakes
		if got := testing.AllocsPerRun(100, func() { serve(1) }); got > tt.want {
			t.Errorf("%s: %v allocations a request, want at most %v", tt.name, got, tt.want)
		}
	}
}

func BenchmarkMiddleware(b *testing.B) {
	for _, group := range []struct {
		name  string
		links []link
	}{
		{"allowed", append([]link{
			{"bare", func(h http.Handler) http.Handler { return h }},
			weirLink("weir, no header fields", peer.Plenty, byHeader, limiter.NoHeaders),
			weirLink("weir, key by header", peer.Plenty, byHeader, limiter.Draft10),
			weirLink("weir, key by address", peer.Plenty, limiter.KeyByClientIP, limiter.Draft10),
			floorLink("floor, no header fields", peer.Plenty, floor.Decide),
			floorLink("floor, three fields", peer.Plenty, floor.Fields),
			floorLink("floor, three fields packed", peer.Plenty, floor.Packed),
		}, peerLinks(peer.Plenty)...)},
		{"refused", append([]link{
			weirLink("weir, no header fields", peer.Few, byHeader, limiter.NoHeaders),
			weirLink("weir, key by header", peer.Few, byHeader, limiter.Draft10),
		}, peerLinks(peer.Few)...)},
	} {
		for _, l := range group.links {
			h := l.wrap(empty)
			b.Run(group.name+"/"+l.name+"/serial", func(b *testing.B) {
				b.ReportAllocs()
				serve := requests(h)
				for b.Loop() {
					serve(1)
				}
			})
			b.Run(group.name+"/"+l.name+"/parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					serve := requests(h)
					for pb.Next() {
						serve(1)
					}
				})
			})
		}
	}
}

// TestRefusesOnce shows that what is measured does what it says: Few admits one
// request and Plenty all.
func TestRefusesOnce(t *testing.T) {
	for _, q := range []peer.Quota{peer.Plenty, peer.Few} {
		links := append(peerLinks(q), weirLink("weir", q, byHeader, limiter.Draft10),
			floorLink("floor", q, floor.Fields), floorLink("decides", q, floor.Decide), floorLink("packed", q, floor.Packed))
		for _, l := range links {
			h, admitted := l.wrap(empty), 0
			for range 100 {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, newRequest()); w.Code == http.StatusOK {
					admitted++
				}
			}
			want := 100
			if q == peer.Few {
				want = 1
			}
			if admitted != want {
				t.Errorf("%s admits %d of 100 requests, want %d", l.name, admitted, want)
			}
		}
		for _, d := range peer.Deciders {
			take, closer := d.New(q)
			first, second := take("ann"), take("ann")
			if !first || second != (q == peer.Plenty) {
				t.Errorf("%s with quota %d: %v, then %v", d.Name, q, first, second)
			}
			closer()
		}
	}
}
