package config_test

import (
	"strings"
	"testing"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// What is printed is read as the same again, secrets excepted, and shows none
// of them.
func TestTextIsReadAgain(t *testing.T) {
	for _, text := range []string{whole, everything, readFile(t, "../../gateway.yaml")} {
		c := parse(t, text)
		shown := config.Text(*c)
		if got, want := config.Identity(*parse(t, config.Identity(*c))), config.Identity(*c); got != want {
			a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range min(len(a), len(b)) {
				if a[i] != b[i] {
					t.Errorf("line %d, read again, is %q, want %q after %q", i+1, a[i], b[i], b[max(0, i-1)])
					break
				}
			}
		}
		parse(t, shown)
		for _, secret := range []string{"hunter2", "s3cret", "tok3n", "plainkey"} {
			if strings.Contains(shown, secret) {
				t.Errorf("it shows %s:\n%s", secret, shown)
			}
		}
	}
}

// everything uses every feature that needs no file.
const everything = `
listen: 127.0.0.1:0
tls: {cert: cert.pem, key: key.pem}
server: {max_connections: 10000, per_ip: 256}
trust: [10.0.0.0/8]
client_ip: {single_header: CF-Connecting-IP}
memory: {max: 128MiB, logs: 16MiB, refuse_new: true}
audit: {only: [5xx, 404, 0], redact: [iban], redact_paths: ["$.user.email"], allow_only: [id], refusals_per_second: 5, full: block, unauthorized_bodies: true, har: a.har, log: true, max_size: 0}
redis: {url: "redis://me:hunter2@127.0.0.1:6379", secret: s3cret, failures: 3, slot: all, client_clock: true}
admin: {listen: "127.0.0.1:9090", token: tok3n, inspector: true, actions: true, profile_above: 512MiB}
limit_headers: x_ratelimit
api_keys:
  header: X-Key
  plans:
    - {name: gold, keys: [plainkey, "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"], class: fast, priority: 2}
in_flight: {max: 100, per_key: 4, queue: 50, wait: 2s, adaptive: {min: 10}, overload: true}
bandwidth:
  {per_response: 512KiB/s, per_key: 2MiB/s, total: 50MiB/s, free: 64KiB, exempt_events: true, bodies: both, unkeyed: skip,
   classes: [{name: fast, weight: 4}, {name: slow, max: 1MiB/s}]}
routes:
  - path: /api/
    upstreams: [{url: "http://127.0.0.1:9001", weight: 3}, "http://127.0.0.1:9002"]
    strip_prefix: /api
    preserve_host: true
    forwarded: true
    via: "-"
    request_id: X-Correlation-Id
    query: refuse
    refuse_escaped_slashes: true
    full_duplex: true
    max_response_header: 16KiB
    upstream_tls: {ca: ca.pem, cert: c.pem, key: k.pem, server_name: api.internal}
    priority: 3
    weight: 2
    max_body: 10MiB
    timeouts: {total: 1m}
    pool:
      balance: by_key
      key: "cookie:session | ip"
      in_flight: {max: 50, queue: 10, wait: 500ms}
      health: {path: /healthz}
      ejection: {failures: 5}
      breaker: {failure_ratio: 0.5}
      retries: {max: 2, statuses: [502, 503], max_body: 64KiB, hedge: 200ms}
    fallback: {stale: {max_stale: 1h}}
    unkeyed: skip
    limits:
      - name: user
        key: "api_key | ip"
        rate: 10/s
        plans: [{plan: gold, rate: 100/s, burst: 200}]
        cost: 2
        match: {methods: [POST], paths: [/api/pay, /api/orders/]}
        refund_if: [5xx, 0]
        lease: 20
      - {name: trial, key: "ip+route", rate: 5/1m, shadow: true, algorithm: sliding_window}
    in_flight: {max: 10, shared: true, status: 429}
    bandwidth: 5MiB/s
    class: slow
  - {path: /file, upstreams: [demo], fallback: {file: sorry.html, forced: true}}
  - {path: /json, upstreams: [demo], fallback: {json: '{"a": []}', status: 200}, capture: false}
  - {path: /other, upstreams: [demo], fallback: {upstreams: ["http://127.0.0.1:9003"]}}
`

// Rates need no classes.
func TestBandwidthWithoutClasses(t *testing.T) {
	parse(t, "bandwidth: {per_response: 1MiB/s}\nroutes: [{path: /, upstreams: [demo]}]")
	parse(t, "routes: [{path: /, upstreams: [demo], bandwidth: 1MiB/s}]")
}
