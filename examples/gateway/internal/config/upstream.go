package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/goweir/weir/proxy"
)

// Via is the name under which the gateway adds itself to the field of that name;
// "-" leaves it as it is.
type Via string

func (v *Via) UnmarshalText(text []byte) error {
	*v = Via(text)
	return judged(proxy.Config{Via: string(text)}, "Via ")
}

// An IDHeader is the name of the field with a request's id; "-" is none.
type IDHeader string

func (h *IDHeader) UnmarshalText(text []byte) error {
	*h = IDHeader(text)
	return judged(proxy.Config{RequestIDHeader: string(text)}, "RequestIDHeader ")
}

// judged returns what the room says of one field.
func judged(c proxy.Config, name string) error {
	c.Upstreams = []proxy.Upstream{{URL: "http://localhost"}}
	_, err := proxy.New(c)
	return verdict(err, "proxy: "+name)
}

// Query is what becomes of queries that parsers read differently.
type Query proxy.QueryPolicy

var queryNames = []string{proxy.QueryClean: "clean", proxy.QueryRefuse: "refuse", proxy.QueryRaw: "raw"}

func (q *Query) UnmarshalText(text []byte) error { return fromName(q, queryNames, text) }

func (q Query) String() string { return queryNames[q] }

// UpstreamTLS says how the gateway speaks to https upstreams. What is empty is
// as crypto/tls has it.
type UpstreamTLS struct {
	Pos
	CA         string `yaml:"ca"`   // PEM, in place of the system's
	Cert       string `yaml:"cert"` // the gateway's own, for those that ask for one
	Key        string `yaml:"key"`
	ServerName string `yaml:"server_name"` // in their certificate; empty: the host of the URL
}

// Config returns what the files say, nil if nothing is asked for. read reads
// one.
func (u UpstreamTLS) Config(read func(name string) ([]byte, error)) (*tls.Config, error) {
	if u.CA == "" && u.Cert == "" && u.ServerName == "" {
		return nil, nil
	}
	c := &tls.Config{ServerName: u.ServerName}
	if u.CA != "" {
		pem, err := read(u.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", u.CA)
		}
	}
	if u.Cert != "" {
		cert, err := read(u.Cert)
		if err != nil {
			return nil, err
		}
		key, err := read(u.Key)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", u.Cert, u.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (d *decoder) checkUpstreamTLS(u *UpstreamTLS, field string) {
	if (u.Cert == "") != (u.Key == "") {
		d.fault(u.Pos, field, "want both cert and key")
	}
}
