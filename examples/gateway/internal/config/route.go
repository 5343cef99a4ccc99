package config

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/goweir/weir/proxy"
)

// maxRoutes bounds the search for what a pattern conflicts with.
const maxRoutes = 1000

// A Route says what happens to the requests that a pattern matches.
type Route struct {
	Pos
	Path         Pattern       `yaml:"path" required:"true"`
	Upstreams    []Upstream    `yaml:"upstreams" required:"true"`
	StripPrefix  PathPrefix    `yaml:"strip_prefix"`
	PreserveHost bool          `yaml:"preserve_host"`
	Forwarded    bool          `yaml:"forwarded"` // upstreams get that field, too
	Via          Via           `yaml:"via" default:"weir"`
	RequestID    IDHeader      `yaml:"request_id" default:"X-Request-Id"`
	Query        Query         `yaml:"query" default:"clean"`
	NoSlashes    bool          `yaml:"refuse_escaped_slashes"`
	FullDuplex   bool          `yaml:"full_duplex"`
	MaxBody      Size          `yaml:"max_body"` // of requests; 0: no bound
	MaxHeader    Size          `yaml:"max_response_header" default:"64KiB"`
	MaxTunnels   Count         `yaml:"max_tunnels" default:"10000"`
	TLS          UpstreamTLS   `yaml:"upstream_tls"`
	Timeouts     RouteTimeouts `yaml:"timeouts"`
	Pool         Pool          `yaml:"pool"`
	Fallback     Fallback      `yaml:"fallback" block:"true"`
	Limits       []Limit       `yaml:"limits"`
	Unkeyed      Unkeyed       `yaml:"unkeyed" default:"refuse"`
	InFlight     InFlight      `yaml:"in_flight" block:"true"`
	Priority     Count         `yaml:"priority"`               // of in_flight; 0: 1, which is served first
	Weight       Count         `yaml:"weight"`                 // slots of in_flight that a request takes; 0: 1
	Bandwidth    ByteRate      `yaml:"bandwidth"`              // in place of bandwidth.per_route; 0: that
	Class        string        `yaml:"class"`                  // of bandwidth
	Capture      bool          `yaml:"capture" default:"true"` // false: recorded without bodies
}

// A Pattern is what [http.ServeMux] takes: "[METHOD ][HOST]/[PATH]".
type Pattern struct {
	Pos
	Text string
}

func (p *Pattern) UnmarshalText(text []byte) error {
	p.Text = string(text)
	if err := register(http.NewServeMux(), p.Text); err != nil {
		return fmt.Errorf("%w: want [METHOD ][HOST]/PATH, such as /api/ or \"GET /users/{id}\"", err)
	}
	return nil
}

func (p Pattern) String() string { return p.Text }

// A PathPrefix is whole segments of a path: /api matches /api and /api/x, never
// /apis.
type PathPrefix struct {
	Pos
	Text string
}

func (p *PathPrefix) UnmarshalText(text []byte) error {
	p.Text = string(text)
	_, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://localhost"}}, StripPrefix: p.Text})
	if err != nil {
		return fmt.Errorf("%w; want whole segments, such as /api", verdict(err, "proxy: StripPrefix "))
	}
	return nil
}

func (p PathPrefix) String() string { return p.Text }

// register adds a pattern to mux, which panics if it is wrong or conflicts
// with an earlier one.
func register(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	mux.Handle(pattern, http.NotFoundHandler())
	return nil
}

// checkRoutes looks for faults between routes that are each well. A route with
// a fault of its own takes no part: its zero values stand for nothing.
func (d *decoder) checkRoutes(c *Config, inFlight map[string]Pos) {
	routes := c.Routes
	if len(routes) > maxRoutes {
		d.fault(routes[maxRoutes].Pos, "routes", "more than %d", maxRoutes)
		return
	}
	mux := http.NewServeMux()
	limits := map[string]*Limit{}
	for i := range routes {
		r := &routes[i]
		field := fmt.Sprintf("routes[%d]", i)
		if r.Path.Text != "" && register(mux, r.Path.Text) != nil {
			d.conflict(routes[:i], r.Path, field+".path")
		}
		if strip := r.StripPrefix; strip.Text != "" && r.Path.Text != "" && !covers(strip.Text, r.Path.Text) {
			d.fault(strip.Pos, field+".strip_prefix", "%q is not where the path %q begins", strip.Text, r.Path.Text)
		}
		d.checkPool(r, c.Timeouts, field)
		d.checkFallback(&r.Fallback, field+".fallback")
		d.checkLimits(r.Limits, limits, c, field+".limits")
		d.checkInFlight(&r.InFlight, c, inFlight, r.Path.Text, field+".in_flight")
		d.checkClass(r.Class, c, r.Pos, field+".class")
		d.checkSlot(r, c, field)
		d.checkUpstreamTLS(&r.TLS, field+".upstream_tls")
	}
}

// conflict names the earlier route that p collides with. ServeMux's own message
// would tell the line of this program, not that of the file.
func (d *decoder) conflict(earlier []Route, p Pattern, field string) {
	for _, other := range earlier {
		if other.Path.Text == "" {
			continue
		}
		mux := http.NewServeMux()
		_ = register(mux, other.Path.Text)
		if err := register(mux, p.Text); err != nil {
			_, why, _ := strings.Cut(err.Error(), "):\n")
			why = strings.ReplaceAll(strings.TrimSpace(why), "\n", " ")
			d.fault(p.Pos, field, "%q conflicts with %q at %v: %s", p.Text, other.Path.Text, other.Path.Pos, why)
			return
		}
	}
}

// covers says whether every path of pattern begins with the segments of prefix.
func covers(prefix, pattern string) bool {
	path := pattern[strings.Index(pattern, "/"):]
	prefix = strings.TrimSuffix(prefix, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// checkPool has the room judge what the fields say together.
func (d *decoder) checkPool(r *Route, t Timeouts, field string) {
	if slices.ContainsFunc(r.Upstreams, func(u Upstream) bool { return u.URL == "" }) || len(r.Upstreams) == 0 {
		return
	}
	at := r.Pos
	if r.Pool.Pos != (Pos{}) {
		at, field = r.Pool.Pos, field+".pool"
	}
	p := r.Proxy(t, "http://demo")
	p.StripPrefix = "" // judged alone
	if r.Pool.Key != "" {
		p.Key = func(*http.Request) string { return "" }
	}
	_, err := proxy.New(p)
	d.verdicts(at, field, err, "proxy: ")
}
