package config

import (
	"fmt"
	"strconv"
	"time"

	"github.com/goweir/weir/proxy"
)

// An Upstream is a server to forward to. In the file it is a URL, or fields.
type Upstream struct {
	URL    URL   `yaml:"url" required:"true"`
	Weight Count `yaml:"weight"` // 0: 1
}

func (u *Upstream) UnmarshalText(text []byte) error { return u.URL.UnmarshalText(text) }

// A URL is where an upstream is.
type URL string

// Demo stands for the upstream inside this program.
const Demo URL = "demo"

func (u *URL) UnmarshalText(text []byte) error {
	*u = URL(text)
	if *u == Demo {
		return nil
	}
	_, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: string(text)}}})
	if err != nil {
		return fmt.Errorf("%w; want http://HOST:PORT, https://HOST or %s", verdict(err, "proxy: Upstreams[0].URL "), Demo)
	}
	return nil
}

// A Pool says how the upstreams of a route share its requests, and what becomes
// of those that fail.
type Pool struct {
	Pos
	Balance  Balance      `yaml:"balance" default:"round_robin"`
	Key      Key          `yaml:"key"`       // for by_key
	InFlight PoolInFlight `yaml:"in_flight"` // of each upstream
	Health   Health       `yaml:"health"`
	Ejection Ejection     `yaml:"ejection"`
	Breaker  Breaker      `yaml:"breaker"`
	Retries  Retries      `yaml:"retries"`
}

// Balance is how an upstream is chosen.
type Balance proxy.Balance

var balanceNames = []string{proxy.RoundRobin: "round_robin", proxy.LeastInFlight: "least_in_flight", proxy.ByKey: "by_key"}

func (b *Balance) UnmarshalText(text []byte) error { return fromName(b, balanceNames, text) }

func (b Balance) String() string { return balanceNames[b] }

// PoolInFlight bounds the requests under way to each upstream.
type PoolInFlight struct {
	Max   Count    `yaml:"max"`
	Queue Count    `yaml:"queue"`
	Wait  Duration `yaml:"wait" default:"1s"`
}

// Health is what upstreams are asked.
type Health struct {
	Path     string   `yaml:"path"` // empty: nothing
	Interval Duration `yaml:"interval" default:"5s"`
	Timeout  Duration `yaml:"timeout" default:"2s"`
	Down     Count    `yaml:"down" default:"3"`
	Up       Count    `yaml:"up" default:"2"`
}

// Ejection takes out upstreams whose requests fail one after the other.
type Ejection struct {
	Failures Count    `yaml:"failures"` // 0: never
	For      Duration `yaml:"for" default:"5s"`
	Max      Duration `yaml:"max" default:"5m"`
	Share    Share    `yaml:"share" default:"0.5"`
}

// Breaker lets upstreams rest of which too many requests fail.
type Breaker struct {
	FailureRatio Share    `yaml:"failure_ratio"` // 0: never
	MinRequests  Count    `yaml:"min_requests" default:"20"`
	Window       Duration `yaml:"window" default:"10s"`
	OpenFor      Duration `yaml:"open_for" default:"5s"`
	Probes       Count    `yaml:"probes" default:"1"`
}

// Retries send requests again.
type Retries struct {
	Max      Count    `yaml:"max"` // 0: none
	Statuses []Count  `yaml:"statuses"`
	MaxBody  Size     `yaml:"max_body"`
	Budget   Share    `yaml:"budget" default:"0.2"`
	Hedge    Duration `yaml:"hedge"` // 0: none
}

// A Share is a part of a whole, above 0 and up to 1.
type Share float64

func (s *Share) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(v > 0 && v <= 1) {
		return fmt.Errorf("%.60q is no share: want a number above 0 and up to 1, such as 0.5", text)
	}
	*s = Share(v)
	return nil
}

// Proxy returns what the fields of a route say to the room, but for functions,
// the fallback and the log. demo is the URL for [Demo].
func (r *Route) Proxy(t Timeouts, demo string) proxy.Config {
	p := r.Pool
	c := proxy.Config{
		Upstreams:    Servers(r.Upstreams, demo),
		StripPrefix:  r.StripPrefix.Text,
		PreserveHost: r.PreserveHost,

		Forwarded: r.Forwarded, Via: string(r.Via), RequestIDHeader: string(r.RequestID),
		Query: proxy.QueryPolicy(r.Query), RefuseEscapedSlashes: r.NoSlashes, FullDuplex: r.FullDuplex,
		MaxResponseHeaderBytes: int64(r.MaxHeader),

		Balance:  proxy.Balance(p.Balance),
		InFlight: proxy.InFlight{Max: int(p.InFlight.Max), Queue: int(p.InFlight.Queue), Wait: time.Duration(p.InFlight.Wait)},
		HealthCheck: proxy.HealthCheck{
			Path: p.Health.Path, Interval: time.Duration(p.Health.Interval), Timeout: time.Duration(p.Health.Timeout),
			Down: int(p.Health.Down), Up: int(p.Health.Up),
		},
		Ejection: proxy.Ejection{
			Failures: int(p.Ejection.Failures), For: time.Duration(p.Ejection.For),
			Max: time.Duration(p.Ejection.Max), Share: float64(p.Ejection.Share),
		},
		Breaker: proxy.Breaker{
			FailureRatio: float64(p.Breaker.FailureRatio), MinRequests: int(p.Breaker.MinRequests),
			Window: time.Duration(p.Breaker.Window), OpenFor: time.Duration(p.Breaker.OpenFor), Probes: int(p.Breaker.Probes),
		},
		Retries: proxy.Retries{
			Max: int(p.Retries.Max), MaxBody: int64(p.Retries.MaxBody),
			Budget: float64(p.Retries.Budget), Hedge: time.Duration(p.Retries.Hedge),
		},
		MaxTunnels: int(r.MaxTunnels),
		Timeouts:   r.Timeouts.over(t),
	}
	for _, s := range p.Retries.Statuses {
		c.Retries.Statuses = append(c.Retries.Statuses, int(s))
	}
	return c
}

// Servers returns upstreams as the room takes them.
func Servers(us []Upstream, demo string) []proxy.Upstream {
	servers := make([]proxy.Upstream, len(us))
	for i, u := range us {
		servers[i] = proxy.Upstream{URL: string(u.URL), Weight: int(u.Weight)}
		if u.URL == Demo {
			servers[i].URL = demo
		}
	}
	return servers
}

// RouteTimeouts are those of a route, where they differ from the others.
type RouteTimeouts struct {
	Dial       Duration `yaml:"dial"`
	Header     Duration `yaml:"header"`
	Idle       Duration `yaml:"idle"`
	TunnelIdle Duration `yaml:"tunnel_idle"`
	Total      Duration `yaml:"total"`
}

func (r RouteTimeouts) over(t Timeouts) proxy.Timeouts {
	or := func(a, b Duration) time.Duration {
		if a == 0 {
			a = b
		}
		return time.Duration(a)
	}
	return proxy.Timeouts{
		Dial:           or(r.Dial, t.Upstream.Dial),
		ResponseHeader: or(r.Header, t.Upstream.Header),
		UpstreamIdle:   or(r.Idle, t.Upstream.Idle),
		TunnelIdle:     or(r.TunnelIdle, t.Upstream.TunnelIdle),
		Total:          or(r.Total, t.Upstream.Total),
		TLSHandshake:   time.Duration(t.Upstream.TLS),
		IdleConn:       time.Duration(t.Upstream.IdleConn),
		ConnAge:        time.Duration(t.Upstream.ConnAge),
		ClientIdle:     time.Duration(t.Stall),
	}
}
