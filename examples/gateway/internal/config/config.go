// Package config reads the gateway's YAML file and finds every fault in it at
// once, each with the line and column where it stands.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
)

// A Config says what the gateway does. The tags are the whole schema: the name
// of each field in the file, its default, and whether it must be given.
type Config struct {
	Listen   Address  `yaml:"listen" default:"127.0.0.1:8080"`
	Trust    []Prefix `yaml:"trust"`
	Audit    Audit    `yaml:"audit"`
	Redis    Redis    `yaml:"redis"`
	Timeouts Timeouts `yaml:"timeouts"`
	Admin    Admin    `yaml:"admin"`
	Log      Log      `yaml:"log"`
	Routes   []Route  `yaml:"routes" required:"true"`

	// Hash is the beginning of the SHA-256 of the file, as sha256sum prints it:
	// two gateways with the same one do the same, but for their flags. Empty: no
	// file.
	Hash string
}

// Audit says where exchanges are recorded and how much memory that may take.
type Audit struct {
	File    string   `yaml:"file" default:"gateway-audit.jsonl"` // "-" is standard output
	MaxSize FileSize `yaml:"max_size" default:"1GiB"`            // of the file, before another is begun; 0: it grows for ever
	Keep    Count    `yaml:"keep" default:"5"`                   // older files
	MaxBody Size     `yaml:"max_body" default:"64KiB"`           // of each body, what is beyond is counted only
	Budget  Size     `yaml:"budget" default:"64MiB"`             // of all bodies held at one time
}

// Timeouts bounds every phase of an exchange. There is none for a whole
// exchange: it would cut downloads and event streams that are well.
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
	Dial   Duration `yaml:"dial" default:"2s"`
	Header Duration `yaml:"header" default:"30s"` // from the request sent to the response's header
	Idle   Duration `yaml:"idle" default:"60s"`   // of a body that does not move
}

// Parse reads a configuration. The error is a [Faults] with every fault; file
// is the name they give.
func Parse(file string, data []byte) (*Config, error) {
	d := decoder{file: file}
	root := d.tree(data)
	if root == nil {
		return nil, d.faults
	}
	c := Default()
	d.collectAnchors(root)
	if !d.value(reflect.ValueOf(c).Elem(), root, "") {
		d.fault(posOf(root), "", "is empty: want at least routes")
	}
	d.checkRoutes(c.Routes)
	if len(d.faults) > 0 {
		return nil, d.faults.sorted()
	}
	sum := sha256.Sum256(data)
	c.Hash = hex.EncodeToString(sum[:6])
	return c, nil
}

// Default returns the configuration of an empty file: all defaults, no routes.
func Default() *Config {
	c := new(Config)
	setDefaults(reflect.ValueOf(c).Elem())
	return c
}
