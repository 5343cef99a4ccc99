package config_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/examples/gateway/internal/config"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

const whole = `# everything at once
listen: 127.0.0.1:0
trust: [10.0.0.0/8, "::1", 192.0.2.7]
audit: {file: audit.jsonl, max_size: 2MiB, max_body: 16KiB, budget: 1GiB}
redis: {url: "redis://127.0.0.1:6379", secret: "s", when_down: closed, instances: 3, budget: 20ms}
timeouts:
  read_header: 2s
  idle: 1m30s
  shutdown: 500ms
  upstream: {dial: 1s, header: 10s, idle: 20s}
routes:
  - path: "GET example.com/api/"
    upstreams: ["http://127.0.0.1:9001", "https://[::1]/base"]
    strip_prefix: /api
    limits:
      - {name: everyone, key: global, rate: 1000/s}
      - {name: client, key: "header:X-Api-Key", rate: 10/500ms, burst: 20}
      - {name: logins, key: ip, rate: 5/1h, algorithm: sliding_log}
    capture: false
  - path: /
    upstreams: [demo]
    limits: &same
      - {name: everyone, key: global, rate: 1000/s}
  - path: /other/
    upstreams: [demo]
    limits: *same
`

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("gateway.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return c
}

func TestParse(t *testing.T) {
	c := parse(t, whole)
	if got, want := string(c.Listen), "127.0.0.1:0"; got != want {
		t.Errorf("listen is %q, want %q", got, want)
	}
	for i, want := range []string{"10.0.0.0/8", "::1/128", "192.0.2.7/32"} {
		if got := c.Trust[i].Prefix; got != netip.MustParsePrefix(want) {
			t.Errorf("trust[%d] is %v, want %v", i, got, want)
		}
	}
	if got, want := c.Audit, (config.Audit{Pos: config.Pos{Line: 4, Column: 8}, File: "audit.jsonl", MaxSize: 2 << 20, Keep: 5, MaxBody: 16 << 10, Budget: 1 << 30, Refusals: 100}); !reflect.DeepEqual(got, want) {
		t.Errorf("audit is %+v, want %+v", got, want)
	}
	if got, want := c.Redis, (config.Redis{
		Pos: config.Pos{Line: 5, Column: 8},
		URL: "redis://127.0.0.1:6379", Prefix: "weir", Secret: "s", WhenDown: config.WhenDown(failover.Closed),
		Instances: 3, Budget: config.Duration(20 * time.Millisecond), Failures: 5,
	}); got != want {
		t.Errorf("redis is %+v, want %+v", got, want)
	}
	if got, want := time.Duration(c.Timeouts.Idle), 90*time.Second; got != want {
		t.Errorf("timeouts.idle is %v, want %v", got, want)
	}
	r := c.Routes[0]
	if r.Path.Text != "GET example.com/api/" || r.StripPrefix.Text != "/api" || r.Capture || len(r.Upstreams) != 2 {
		t.Errorf("routes[0] is %+v", r)
	}
	l := r.Limits[1]
	if l.Name != "client" || l.Key != ("header:X-Api-Key") ||
		l.Rate != (config.Rate{Limit: 10, Window: 500 * time.Millisecond}) || l.Burst != 20 {
		t.Errorf("routes[0].limits[1] is %+v", l)
	}
	if got := r.Limits[2].Policy(); got.Algorithm != limiter.SlidingLog {
		t.Errorf("routes[0].limits[2] is %v, want a sliding log", got)
	}
	if got := r.Limits[0].Policy(); got.Algorithm != limiter.TokenBucket {
		t.Errorf("routes[0].limits[0] is %v, want a token bucket by default", got)
	}
	if !c.Routes[1].Capture || c.Routes[1].Upstreams[0].URL != config.Demo {
		t.Errorf("routes[1] is %+v, want capture by default and the demo", c.Routes[1])
	}
	if got := c.Routes[2].Limits; len(got) != 1 || got[0].Name != "everyone" {
		t.Errorf("routes[2].limits is %+v, want what the alias stands for", got)
	}
}

func TestDefaults(t *testing.T) {
	c := parse(t, "trust:\nroutes: [{path: /, upstreams: [demo]}]")
	if got, want := string(c.Listen), "127.0.0.1:8080"; got != want {
		t.Errorf("listen is %q, want %q", got, want)
	}
	if got, want := c.Audit, (config.Audit{File: "gateway-audit.jsonl", MaxSize: 1 << 30, Keep: 5, MaxBody: 64 << 10, Budget: 64 << 20, Refusals: 100}); !reflect.DeepEqual(got, want) {
		t.Errorf("audit is %+v, want %+v", got, want)
	}
	second := config.Duration(time.Second)
	want := config.Timeouts{
		ReadHeader: 5 * second, Idle: 60 * second, Stall: 60 * second, Shutdown: 15 * second,
		Upstream: config.UpstreamTimeouts{Dial: 2 * second, TLS: 5 * second, Header: 30 * second, Idle: 60 * second, TunnelIdle: 3600 * second, IdleConn: 90 * second, ConnAge: 600 * second},
	}
	if c.Timeouts != want {
		t.Errorf("timeouts are %+v, want %+v", c.Timeouts, want)
	}
}

// faulty is a table of files and the beginnings of the faults they have, all of
// them, in order.
var faulty = []struct {
	name, text string
	want       []string
}{
	{"empty", "", []string{"1:1: is empty"}},
	{"only a comment", "# nothing\n", []string{"1:1: is empty"}},
	{"not YAML", "listen: [1, 2\nroutes: x", []string{"2:1: not YAML: "}},
	{"tab", "\troutes: 1", []string{"1:7: not YAML: tab"}},
	{"tab before a list", "routes:\n\t- path: /", []string{"2:1: not YAML: a tab; indent by spaces"}},
	{"admin", "admin: {inspector: true}\nroutes: [{path: /, upstreams: [demo]}]", []string{"1:8: admin.inspector: there is no admin.listen"}},
	{"actions", "admin: {listen: :1, actions: true}\nroutes: [{path: /, upstreams: [demo]}]", []string{"1:8: admin: actions and token are about the inspector"}},
	{"who the client is", "client_ip: {forwarded: true, single_header: a}\nroutes: [{path: /, upstreams: [demo]}]", []string{
		"1:12: client_ip: means nothing without trust",
		"1:12: client_ip: ",
	}},
	{"memory", "memory: {max: 2MiB}\nroutes: [{path: /, upstreams: [demo]}]", []string{"1:9: memory.logs: is 3MiB; want at most half of max, 2MiB"}},
	{"redis that cannot be", "redis: {url: \"http://u:hunter2@a\"}\nroutes: [{path: x, upstreams: [demo]}]", []string{
		`1:8: redis.url: the scheme is "http"; allowed: redis://`,
		"2:17: routes[0].path: ",
	}},
	{"leases and priorities", `api_keys: {plans: [{name: gold, keys: [a], priority: 17}]}
routes:
  - {path: /, upstreams: [demo], priority: 18, limits: [{name: a, key: ip, rate: 1/s, lease: 2}]}
`, []string{
		`1:20: api_keys.plans[0].priority: is 17; want 1, which is served first, to 16`,
		`3:5: routes[0].priority: is 18; want 1`,
		`3:5: routes[0]: priority and weight are about in_flight, of which there is none`,
		`3:57: routes[0].limits[0].lease: there is no redis.url to take it from`,
	}},
	{"upstreams", `routes:
  - {path: /, upstreams: [demo], via: "a b", request_id: Host, query: any, upstream_tls: {cert: a}}
`, []string{
		`2:39: routes[0].via: is "a b": a token, a host`,
		`2:58: routes[0].request_id: is "Host": letters, digits and hyphens`,
		`2:71: routes[0].query: "any" is unknown: want clean, refuse or raw`,
		`2:90: routes[0].upstream_tls: want both cert and key`,
	}},
	{"wrong indentation", "audit:\n  file: a\n budget: 1KiB\n", []string{"3:2: not YAML: "}},
	{"null", "~", []string{"1:1: is empty"}},
	{"a list", "- a\n- b", []string{"1:1: want fields (listen, tls, server, trust, client_ip, audit, memory, redis, timeouts, admin, log, limit_headers, api_keys, in_flight, bandwidth, routes), got a list"}},
	{"a text", "hello", []string{`1:1: want fields (listen, tls, server, trust, client_ip, audit, memory, redis, timeouts, admin, log, limit_headers, api_keys, in_flight, bandwidth, routes), got the text "hello"`}},
	{"two documents", "routes: [{path: /, upstreams: [demo]}]\n---\nroutes: []", []string{"3:1: a second document"}},
	{"no routes", "listen: :8080", []string{`1:1: "routes" is missing`}},
	{"empty routes", "listen: :8080\nroutes: []", []string{`1:1: "routes" is missing`}},
	{"null routes", "routes:", []string{`1:1: "routes" is missing`}},
	{"null by alias", "trust: &none\nroutes: *none", []string{`1:1: "routes" is missing`}},
	{"unknown fields", "lisen: :1\nwhatever: 2\nroutes: [{path: /, upstreams: [demo], limit: []}]", []string{
		`1:1: unknown field "lisen": did you mean listen?`,
		`2:1: unknown field "whatever": want one of listen, tls, server, trust, client_ip, audit, memory, redis, timeouts, admin, log, limit_headers, api_keys, in_flight, bandwidth, routes`,
		`3:39: routes[0]: unknown field "limit": did you mean limits?`,
	}},
	{"duplicates", "listen: :1\nlisten: :2\naudit: {file: a, file: b}\nroutes: [{path: /, upstreams: [demo]}]", []string{
		`2:1: "listen" is given twice, first at 1:1`,
		`3:18: audit: "file" is given twice, first at 3:9`,
	}},
	{"bad scalars", `listen: 8080
trust: [10.0.0.1/8, nobody, 300.1.1.1, "fe80::1%eth0", 0.0.0.0/0]
audit: {file: "", max_body: 64, budget: 64KiBi}
timeouts: {idle: 60, shutdown: 0s, read_header: -1s}
routes:
  - path: api
    upstreams: ["127.0.0.1:9001", "ftp://x", "http://", "http://a/?q", "http://u:p@a"]
    strip_prefix: api/
    capture: yes
`, []string{
		`1:9: listen: "8080" is no address: want HOST:PORT`,
		`2:9: trust[0]: "10.0.0.1/8" has bits beyond its length: want 10.0.0.0/8`,
		`2:21: trust[1]: "nobody" is no range of addresses`,
		`2:29: trust[2]: "300.1.1.1" is no range`,
		`2:40: trust[3]: "fe80::1%eth0" is no range`,
		`2:56: trust[4]: is 0.0.0.0/0, which trusts everyone`,
		`3:15: audit.file: is empty`,
		`3:29: audit.max_body: "64" is no size: want`,
		`3:41: audit.budget: "64KiBi" is no size: want`,
		`4:18: timeouts.idle: "60" is no duration: want`,
		`4:32: timeouts.shutdown: "0s" is not above zero`,
		`4:49: timeouts.read_header: "-1s" is not above zero`,
		`6:11: routes[0].path: parsing "api": `,
		`7:17: routes[0].upstreams[0]: `,
		`7:35: routes[0].upstreams[1]: `,
		`7:46: routes[0].upstreams[2]: `,
		`7:57: routes[0].upstreams[3]: `,
		`7:72: routes[0].upstreams[4]: `,
		`8:19: routes[0].strip_prefix: "api/": does not begin with a slash; want whole segments, such as /api`,
		`9:14: routes[0].capture: want true or false, got the text "yes"`,
	}},
	{"wrong types", `listen: [a]
trust: 10.0.0.0/8
audit: audit.jsonl
timeouts: {upstream: 5s}
routes:
  - path: {a: b}
    upstreams: [demo, [x], ]
    limits:
      - {name: 12, key: ip, rate: 1/s}
      - x
      -
`, []string{
		`1:9: listen: want one value, got a list`,
		`2:8: trust: want a list, got the text "10.0.0.0/8"`,
		`3:8: audit: want fields (file, max_size, keep, har, log, full, max_body, budget, only, refusals_per_second, redact, redact_paths, allow_only, unauthorized_bodies), got the text "audit.jsonl"`,
		`4:22: timeouts.upstream: want fields (dial, tls, header, idle, tunnel_idle, total, idle_conn, conn_age), got the text "5s"`,
		`6:11: routes[0].path: want one value, got fields`,
		`7:23: routes[0].upstreams[1]: want fields (url, weight), got a list`,
		`9:16: routes[0].limits[0].name: want a text, got the number 12; quote it if it is one`,
		`10:9: routes[0].limits[1]: want fields (name, key, rate, burst, algorithm, cost, shadow, match, refund_if, plans, lease), got the text "x"`,
		`11:9: routes[0].limits[2]: is empty`,
	}},
	{"bad limits", `routes:
  - path: /
    upstreams: [demo]
    limits:
      - {name: a, key: everyone, rate: 10}
      - {name: b, key: header, rate: 10/x}
      - {name: c, key: "header:a b", rate: -1/s, burst: -5}
      - {key: "ip:x", rate: /s, burst: 1.5}
      - {name: d, rat: 1/s, ky: ip}
`, []string{
		`5:24: routes[0].limits[0].key: "everyone" is no key: want global, ip, net:V4/V6, route, path, api_key, header:NAME or cookie:NAME`,
		`5:40: routes[0].limits[0].rate: "10": no "/"; want a form such as "10/s"`,
		`6:24: routes[0].limits[1].key: "header" is no key`,
		`6:38: routes[0].limits[1].rate: "10/x": the unit is none of`,
		`7:24: routes[0].limits[2].key: "header:a b" is no key`,
		`7:44: routes[0].limits[2].rate: "-1/s": the limit is not`,
		`7:57: routes[0].limits[2].burst: "-5" is no count: want a whole number from 1`,
		`8:9: routes[0].limits[3]: "name" is missing`,
		`8:15: routes[0].limits[3].key: "ip:x" is no key`,
		`8:29: routes[0].limits[3].rate: "/s": the limit is not`,
		`8:40: routes[0].limits[3].burst: "1.5" is no count`,
		`9:9: routes[0].limits[4]: "key" is missing`,
		`9:9: routes[0].limits[4]: "rate" is missing`,
		`9:19: routes[0].limits[4]: unknown field "rat": did you mean rate?`,
		`9:29: routes[0].limits[4]: unknown field "ky": did you mean key?`,
	}},
	{"algorithms", `routes:
  - path: /
    upstreams: [demo]
    limits:
      - {name: a, key: ip, rate: 1/s, algorithm: token bucket}
      - {name: b, key: ip, rate: 1/s, algorithm: sliding_log, burst: 2}
      - {name: c, key: ip, rate: 1/s}
  - path: /b
    upstreams: [demo]
    limits: [{name: c, key: ip, rate: 1/s, algorithm: fixed_window}]
`, []string{
		`5:50: routes[0].limits[0].algorithm: "token bucket" is no algorithm: want token_bucket, leaky_bucket, fixed_window, `,
		`6:9: routes[0].limits[1].burst: is 2; allowed with a sliding log: 0`,
		`10:14: routes[1].limits[0]: limit "c" says something else at 7:9: one name is one quota, with one key, rate, burst, algorithm and lease`,
	}},
	{"audit", `audit: {max_size: 1500kB, keep: 0}
routes: [{path: /, upstreams: [demo]}]
`, []string{
		`1:19: audit.max_size: "1500kB" is no size of a file: want whole MiB`,
		`1:33: audit.keep: "0" is no count`,
	}},
	{"redis", `redis: {url: 12, when_down: maybe, instances: 0, budget: -1s}
routes: [{path: /, upstreams: [demo]}]
`, []string{
		`1:14: redis.url: want a text, got the number 12`,
		`1:29: redis.when_down: "maybe" is no way to go on without Redis: want local`,
		`1:47: redis.instances: "0" is no count`,
		`1:58: redis.budget: "-1s" is not above zero`,
	}},
	{"one name, two policies", `routes:
  - path: /a
    upstreams: [demo]
    limits: [{name: client, key: ip, rate: 10/s}]
  - path: /b
    upstreams: [demo]
    limits:
      - {name: client, key: ip, rate: 20/s}
      - {name: twice, key: ip, rate: 1/s}
      - {name: twice, key: ip, rate: 1/s}
`, []string{
		`8:9: routes[1].limits[0]: limit "client" says something else at 4:14`,
		`10:9: routes[1].limits[2]: limit "twice" is listed twice`,
	}},
	{"pattern that wants quotes", "routes: [{path: /a/{x}, upstreams: [demo]}]", []string{"1:20: not YAML: "}},
	{"pools", `routes:
  - path: /
    upstreams: [{url: demo, weight: 1001}, {weight: 2}, {url: ftp://x}]
    pool: {balance: random, ejection: {share: 2}, breaker: {failure_ratio: 0}, retries: {max: -1}}
  - path: /b
    upstreams: [{url: demo, weight: 1001}, demo]
    pool:
      balance: by_key
      retries: {hedge: 1s, statuses: [404]}
  - path: /c
    upstreams: [demo]
    pool: {key: ip}
  - {path: /d, upstreams: [demo], fallback: {json: "{", file: x, status: 100}}
  - {path: /e, upstreams: [demo], fallback: {}}
`, []string{
		`3:44: routes[0].upstreams[1]: "url" is missing`,
		`3:63: routes[0].upstreams[2].url: "ftp://x" has no scheme that is allowed: http or https; want http://`,
		`4:21: routes[0].pool.balance: "random" is unknown: want round_robin, least_in_flight or by_key`,
		`4:47: routes[0].pool.ejection.share: "2" is no share: want a number above 0 and up to 1, such as 0.5`,
		`4:76: routes[0].pool.breaker.failure_ratio: "0" is no share: want a number above 0 and up to 1, such as 0.5`,
		`4:95: routes[0].pool.retries.max: "-1" is no count: want a whole number from 1 to 2147483647`,
		`8:7: routes[1].pool: upstreams[0].weight is 1001: 0 (meaning 1) to 1000 are allowed`,
		`8:7: routes[1].pool: upstreams[1].url "http://demo" is there twice: weight gives it a larger share`,
		`8:7: routes[1].pool: key and balance do not agree: key is needed for by_key, and only for it`,
		`8:7: routes[1].pool: retries.statuses has 404: 429 and 500 to 599 are allowed`,
		`8:7: routes[1].pool: retries.hedge is 1s with max 0: 0 (meaning no hedging), and more if max is 1 or more, are`,
		`12:11: routes[2].pool: key and balance do not agree: key is needed for by_key, and only for it`,
		`13:45: routes[3].fallback: want one of file, json, upstreams and stale`,
		`13:45: routes[3].fallback.json: is not JSON`,
		`13:45: routes[3].fallback.status: is 100; want 200 to 599`,
		`14:45: routes[4].fallback: want one of file, json, upstreams and stale`,
	}},
	{"in flight", `in_flight: {wait: 1s, shared: true, status: 200}
routes:
  - {path: /, upstreams: [demo], in_flight: {max: 0, key: api_key, per_key: 2}}
  - {path: /a, upstreams: [demo], in_flight: {name: same, max: 1, adaptive: {tolerance: 11}}}
  - {path: /b, upstreams: [demo], in_flight: {name: same, max: 1, adaptive: {min: 2}}}
`, []string{
		`1:12: in_flight.status: is 200; want 503, 429 or 504`,
		`1:12: in_flight.max: is 0, and so is per_key; one of them is needed`,
		`1:12: in_flight.shared: there is no redis.url to share it through`,
		`3:45: routes[0].in_flight.key: api_key: there are no plans in api_keys, so no request has one`,
		`3:51: routes[0].in_flight.max: "0" is no count: want a whole number from 1 to 2147483647`,
		`4:89: routes[1].in_flight.adaptive.tolerance: "11" is no factor: want a number from 1 to 10, such as 1.5`,
		`5:46: routes[2].in_flight.name: "same" is there already, at 4:46`,
		`5:46: routes[2].in_flight.adaptive.min: is 2; allowed: 0 (a tenth of max) to max, 1`,
	}},
	{"bandwidth", `bandwidth: {per_key: 10, total: 1MiB/s, classes: [{name: a}, {name: a, max: 1}], bodies: all}
api_keys: {header: "a b", plans: [{name: p, class: c, keys: ["", "sha256:12", x]}, {name: p, keys: [x]}]}
routes:
  - {path: /, upstreams: [demo], class: b, bandwidth: 10}
`, []string{
		`1:12: bandwidth: classes[1].name is "a", as that of classes[0]`,
		`1:22: bandwidth.per_key: "10": does not end in "/s"; want a form such as "512KiB/s", "2MiB/s" or "100MB/s"`,
		`1:77: bandwidth.classes[1].max: "1": does not end in "/s"; want a form such as "512KiB/s", "2MiB/s" or "100MB/`,
		`1:90: bandwidth.bodies: "all" is unknown: want responses, requests or both`,
		`2:11: api_keys.header: "a b" is no name of a header`,
		`2:35: api_keys.plans[0].class: "c" is no class of bandwidth.classes`,
		`2:62: api_keys.plans[0].keys[0]: is empty`,
		`2:66: api_keys.plans[0].keys[1]: want 64 hexadecimal digits after sha256:`,
		`2:84: api_keys.plans[1]: plan "p" is there already, at 2:35`,
		`2:101: api_keys.plans[1].keys[0]: is listed twice, first at 2:79`,
		`4:5: routes[0].class: "b" is no class of bandwidth.classes`,
		`4:55: routes[0].bandwidth: "10": does not end in "/s"; want a form such as "512KiB/s", "2MiB/s" or "100MB/s"`,
	}},
	{"key that nobody has", "bandwidth: {per_key: 1MiB/s, key: api_key}\nroutes: [{path: /, upstreams: [demo]}]", []string{
		"1:12: bandwidth.key: api_key: there are no plans in api_keys",
	}},
	{"rules", `api_keys: {plans: [{name: gold}]}
routes:
  - path: /
    upstreams: [demo]
    limits:
      - {name: a, key: "api_key | ip", rate: 1/s, cost: 0, plans: [{plan: god, rate: 1/s}, {plan: gold}, {plan: gold, rate: 2/s}]}
      - {name: b, key: "ip+net:33/64", rate: 1/s, refund_if: [6xx, 99], match: {methods: [get], paths: [x]}}
      - {name: c, key: "header:A|", rate: 1/s, algorithm: fixed_window, plans: [{plan: gold, rate: 1/s, burst: 2}]}
      - {name: d, key: "net:24/56", rate: 1/s, match: {methods: [get], paths: [x]}}
`, []string{
		`6:57: routes[0].limits[0].cost: "0" is no count: want a whole number from 1 to 2147483647`,
		`6:68: routes[0].limits[0].plans[0].plan: "god" is no plan of api_keys`,
		`6:92: routes[0].limits[0].plans[1]: "rate" is missing`,
		`6:106: routes[0].limits[0].plans[2].plan: "gold" is listed twice`,
		`7:9: routes[0].limits[1].match.paths[0]: "x" does not begin with a slash`,
		`7:9: routes[0].limits[1].match.methods[0]: "get" is no method: want GET, POST or the like`,
		`7:24: routes[0].limits[1].key: "ip+net:33/64" is no key: want global, ip, net:V4/V6, route, path, api_key, hea`,
		`7:63: routes[0].limits[1].refund_if[0]: "6xx" is no status: want 404, 5xx or the like, or 0 for no response`,
		`7:68: routes[0].limits[1].refund_if[1]: "99" is no status: want 404, 5xx or the like, or 0 for no response`,
		`8:24: routes[0].limits[2].key: "header:A|" is no key: want global, ip, net:V4/V6, route, path, api_key, header`,
		`8:81: routes[0].limits[2].plans[0].burst: is 2; allowed with a fixed window: 0, as its capacity is`,
		`9:9: routes[0].limits[3].match.paths[0]: "x" does not begin with a slash`,
		`9:9: routes[0].limits[3].match.methods[0]: "get" is no method: want GET, POST or the like`,
	}},
	{"capture", `audit: {redact_paths: ["$..[", "x"], redact: [""], only: [2xy], full: wait}
tls: {cert: c.pem}
limit_headers: all
server: {per_ip: 0}
routes: [{path: /, upstreams: [demo], timeouts: {total: 0s}, max_body: 1, unkeyed: no}]
`, []string{
		`1:8: audit: redact: "" has neither a letter nor a digit`,
		`1:8: audit: redact_paths: "$..[" is no path from byte 1 on (allowed: $ followed by .name, ['name'], [0], [*], `,
		`1:8: audit: redact_paths: "x" is no path from byte 0 on (allowed: $ followed by .name, ['name'], [0], [*], .*,`,
		`1:47: audit.redact[0]: is empty`,
		`1:59: audit.only[0]: "2xy" is no status: want 404, 5xx or the like, or 0 for no response`,
		`1:71: audit.full: "wait" is unknown: want drop_newest, drop_oldest or block`,
		`2:6: tls: want both cert and key`,
		`3:16: limit_headers: "all" is unknown: want draft10, x_ratelimit or none`,
		`4:18: server.per_ip: "0" is no count: want a whole number from 1 to 2147483647`,
		`5:57: routes[0].timeouts.total: "0s" is not above zero`,
		`5:72: routes[0].max_body: "1" is no size: want a whole number and B, KiB, MiB, GiB, kB, MB or GB, such as 64Ki`,
		`5:84: routes[0].unkeyed: "no" is unknown: want refuse or skip`,
	}},
	{"conflicting patterns", `routes:
  - {path: "/a/{x}/b", upstreams: [demo]}
  - {path: "/a/", upstreams: [demo]}
  - {path: "/a/{y}/b", upstreams: [demo]}
  - {path: "/{x}/c/b", upstreams: [demo]}
  - {path: "/{x", upstreams: [demo]}
`, []string{
		`4:12: routes[2].path: "/a/{y}/b" conflicts with "/a/{x}/b" at 2:12: `,
		`5:12: routes[3].path: "/{x}/c/b" conflicts with "/a/{x}/b" at 2:12: `,
		`6:12: routes[4].path: parsing "/{x": `,
	}},
	{"prefix of another path", "routes: [{path: /apis/, strip_prefix: /api, upstreams: [demo]}]", []string{
		`1:39: routes[0].strip_prefix: "/api" is not where the path "/apis/" begins`,
	}},
	{"unknown anchor", "routes: *none", []string{"1:9: routes: no anchor &none in this file"}},
	{"anchor given twice", "trust: [&a 10.0.0.1, &a 10.0.0.2]\nroutes: [{path: /, upstreams: [demo]}]", []string{"1:22: anchor &a is given twice, first at 1:9"}},
	{"alias of itself", "routes: &r *r", []string{"1:12: not YAML: "}},
	{"list in itself", "routes: &r [*r]", []string{"1:12: routes[0]: want fields"}},
	{"merge key", "routes: [{<<: x, path: /, upstreams: [demo]}]", []string{"1:11: routes[0]: merge keys"}},
	{"tag", "listen: !!str :8080\nroutes: [{path: /, upstreams: [demo]}]", []string{"1:9: listen: tags (!!str) are not read here"}},
	{"byte order mark and CRLF", "\ufefflisten: 1\r\nroutes: x\r\n", []string{"1:9: listen: ", "2:9: routes: want a list"}},
	{"brackets", strings.Repeat("[", 10_000), []string{"1:33: nested more than 32 deep"}},
	{"dashes", strings.Repeat("- ", 10_000), []string{"1:65: nested more than 32 deep"}},
	{"too many keys", strings.Repeat("a: 1\n", 50_000), []string{"26667:4: more than 80000 words and signs"}},
	{"too large", strings.Repeat("#", config.MaxBytes+1), []string{"1:1: more than 262144 bytes"}},
	{"escape sequences", "listen: \"\\e[31m\"\nroutes: x", []string{`1:9: listen: "\x1b[31m" is no address`, "2:9: "}},
}

func TestFaults(t *testing.T) {
	for _, tt := range faulty {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("gateway.yaml", []byte(tt.text))
			if err == nil {
				t.Fatal("no fault")
			}
			got := strings.Split(err.Error(), "\n")
			for i := range max(len(got), len(tt.want)) {
				switch {
				case i >= len(tt.want):
					t.Errorf("unexpected %s", got[i])
				case i >= len(got):
					t.Errorf("missing %s", tt.want[i])
				case !strings.HasPrefix(got[i], "gateway.yaml:"+tt.want[i]):
					t.Errorf("got  %s\nwant gateway.yaml:%s", got[i], tt.want[i])
				}
			}
		})
	}
}

// The parser splits the last of these at its port.
func TestURLsInBracketsNeedNoQuotes(t *testing.T) {
	for _, text := range []string{
		"routes:\n  - path: /\n    upstreams: [http://localhost:9001]",
		"routes: [{path: /, upstreams: [http://localhost:9001]}]",
		"routes: [{path: /, upstreams: [http://localhost:9001, demo]}]",
	} {
		if got := parse(t, text).Routes[0].Upstreams[0].URL; got != "http://localhost:9001" {
			t.Errorf("%s: %q", text, got)
		}
	}
	if got := parse(t, "routes: [{path: /, upstreams: [url: http://localhost:9001]}]").Routes[0].Upstreams[0].URL; got != "http://localhost:9001" {
		t.Errorf("fields without braces: %q", got)
	}
}

// A file that stays below MaxBytes may use aliases to ask for as many values as
// the square of its size, 10^8 here. They are refused before they are made.
func TestAliasBomb(t *testing.T) {
	text := "trust: [10.0.0.1]\nroutes:\n  - &r {path: /, upstreams: [" + strings.Repeat("demo,", 10_000) + "]}\n" +
		strings.Repeat("  - *r\n", 10_000)
	_, err := config.Parse("gateway.yaml", []byte(text))
	if err == nil || !strings.Contains(err.Error(), "are aliases multiplied?") {
		t.Errorf("got %.200v, want a fault about aliases", err)
	}
}
