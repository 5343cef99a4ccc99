package config

import (
	"net/netip"

	"github.com/goweir/weir/clientip"
)

// ClientIP says which header field of those in trust has the client's address.
// All empty, it is X-Forwarded-For.
type ClientIP struct {
	Pos
	Header       string `yaml:"header"` // a list like X-Forwarded-For
	Forwarded    bool   `yaml:"forwarded"`
	SingleHeader string `yaml:"single_header"`
}

// Options returns the options of the room.
func (c ClientIP) Options() *clientip.Options {
	return &clientip.Options{Header: c.Header, Forwarded: c.Forwarded, SingleHeader: c.SingleHeader}
}

// Field names the header field for people.
func (c ClientIP) Field() string {
	switch {
	case c.Forwarded:
		return "Forwarded"
	case c.SingleHeader != "":
		return c.SingleHeader
	case c.Header != "":
		return c.Header
	}
	return "X-Forwarded-For"
}

func (d *decoder) checkClientIP(c *Config) {
	if c.ClientIP == (ClientIP{Pos: c.ClientIP.Pos}) {
		return
	}
	if len(c.Trust) == 0 {
		d.fault(c.ClientIP.Pos, "client_ip", "means nothing without trust: nobody's header fields are believed")
	}
	_, err := clientip.New([]netip.Prefix{}, c.ClientIP.Options())
	d.verdicts(c.ClientIP.Pos, "client_ip", err, "clientip: ")
}
