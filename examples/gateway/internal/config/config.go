// Package config reads the gateway's YAML file and finds every fault in it at
// once, each with the line and column where it stands.
package config

import "reflect"

// A Config says what the gateway does. The tags are the whole schema: the name
// of each field in the file, its default, and whether it must be given.
type Config struct {
	File      string     // where it was read
	Listen    Address    `yaml:"listen" default:"127.0.0.1:8080"`
	TLS       TLS        `yaml:"tls"`
	Server    Server     `yaml:"server"`
	Trust     []Prefix   `yaml:"trust"`
	ClientIP  ClientIP   `yaml:"client_ip"`
	Audit     Audit      `yaml:"audit"`
	Memory    Memory     `yaml:"memory"`
	Redis     Redis      `yaml:"redis"`
	Timeouts  Timeouts   `yaml:"timeouts"`
	Admin     Admin      `yaml:"admin"`
	Log       Log        `yaml:"log"`
	Headers   HeaderForm `yaml:"limit_headers" default:"draft10"`
	APIKeys   APIKeys    `yaml:"api_keys"`
	InFlight  InFlight   `yaml:"in_flight" block:"true"`
	Bandwidth Bandwidth  `yaml:"bandwidth" block:"true"`
	Routes    []Route    `yaml:"routes" required:"true"`
}

// TLS names the certificate with which the gateway answers. Without it the
// gateway speaks plain HTTP.
type TLS struct {
	Pos
	Cert string `yaml:"cert"` // PEM, the server's certificate first
	Key  string `yaml:"key"`
}

// Server bounds connections, before anything is read from them.
type Server struct {
	MaxConnections Count `yaml:"max_connections"` // 0: no bound
	PerIP          Count `yaml:"per_ip"`          // of one peer, an IPv6 one by its /64, unless it is in trust; 0: no bound
}

// Audit says what is recorded of exchanges, where, and how much memory that may
// take.
type Audit struct {
	Pos
	File        string   `yaml:"file" default:"gateway-audit.jsonl"` // "-" is standard output
	MaxSize     FileSize `yaml:"max_size" default:"1GiB"`            // of the file, before another is begun; 0: it grows for ever
	Keep        Count    `yaml:"keep" default:"5"`                   // older files
	HAR         string   `yaml:"har"`                                // a second sink, an HTTP Archive
	Log         bool     `yaml:"log"`                                // a third, the log
	Full        Full     `yaml:"full" default:"drop_newest"`
	MaxBody     Size     `yaml:"max_body" default:"64KiB"` // of each body, what is beyond is counted only
	Budget      Size     `yaml:"budget" default:"64MiB"`   // of all bodies held at one time
	Only        []Status `yaml:"only"`                     // statuses; empty: all
	Refusals    Count    `yaml:"refusals_per_second" default:"100"`
	Redact      []string `yaml:"redact"`
	RedactPaths []string `yaml:"redact_paths"`
	AllowOnly   []string `yaml:"allow_only"`
	Passwords   bool     `yaml:"unauthorized_bodies"` // bodies of requests answered with 401 and 403, which are mostly that
}

// Timeouts bounds every phase of an exchange. There is none for a whole
// exchange by default: it would cut downloads and event streams that are well.
type Timeouts struct {
	ReadHeader Duration         `yaml:"read_header" default:"5s"` // from the first byte of a request to the end of its header
	Idle       Duration         `yaml:"idle" default:"60s"`       // of a kept connection between two requests
	Stall      Duration         `yaml:"stall" default:"60s"`      // of a body that does not move, from or to the client
	Leave      Duration         `yaml:"leave"`                    // after SIGTERM, while /readyz says 503 and new connections are still taken
	Shutdown   Duration         `yaml:"shutdown" default:"15s"`   // for requests in flight after that
	Upstream   UpstreamTimeouts `yaml:"upstream"`
}

// UpstreamTimeouts bounds what the gateway waits for behind it.
type UpstreamTimeouts struct {
	Dial       Duration `yaml:"dial" default:"2s"`
	TLS        Duration `yaml:"tls" default:"5s"`         // of the handshake with an https upstream
	Header     Duration `yaml:"header" default:"30s"`     // from the request sent to the response's header
	Idle       Duration `yaml:"idle" default:"60s"`       // of a body that does not move
	TunnelIdle Duration `yaml:"tunnel_idle" default:"1h"` // of an upgraded connection
	Total      Duration `yaml:"total"`                    // 0: none
	IdleConn   Duration `yaml:"idle_conn" default:"90s"`  // of a connection that is kept
	ConnAge    Duration `yaml:"conn_age" default:"10m"`   // after which a connection gets no new requests
}

// Parse reads a configuration. The error is a [Faults] with every fault; file
// is the name they give. Each of set changes what the file says before it is
// judged as a whole.
func Parse(file string, data []byte, set ...func(*Config)) (*Config, error) {
	d := decoder{file: file}
	root := d.tree(data)
	if root == nil {
		return nil, d.faults
	}
	c := Default()
	c.File = file
	d.collectAnchors(root)
	if !d.value(reflect.ValueOf(c).Elem(), root, "") {
		d.fault(posOf(root), "", "is empty: want at least routes")
	}
	for _, change := range set {
		change(c)
	}
	d.check(c)
	if len(d.faults) > 0 {
		return nil, d.faults.sorted()
	}
	return c, nil
}

// Default returns the configuration of an empty file: all defaults, no routes.
func Default() *Config {
	c := new(Config)
	setDefaults(reflect.ValueOf(c).Elem())
	return c
}
