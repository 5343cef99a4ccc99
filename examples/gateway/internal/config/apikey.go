package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/goweir/weir/limiter"
)

// APIKeys says who the gateway's users are: whoever sends a key that is listed
// here in the header.
type APIKeys struct {
	Pos
	Header string `yaml:"header" default:"X-Api-Key"`
	Plans  []Plan `yaml:"plans"`
}

// A Plan is a group of users with quotas and a class of their own.
type Plan struct {
	Pos
	Name     string   `yaml:"name" required:"true"`
	Keys     []Secret `yaml:"keys"`
	Class    string   `yaml:"class"`    // of bandwidth
	Priority Count    `yaml:"priority"` // of in_flight; 0: that of the route
}

// A Secret is a key, or "sha256:" and the hexadecimal hash of one.
type Secret struct {
	Pos
	hash [sha256.Size]byte
}

const hashPrefix = "sha256:"

func (s *Secret) UnmarshalText(text []byte) error {
	if digits, ok := strings.CutPrefix(string(text), hashPrefix); ok {
		if n, err := hex.Decode(s.hash[:], []byte(digits[:min(len(digits), 2*sha256.Size)])); err != nil || n != sha256.Size || len(digits) != 2*sha256.Size {
			return fmt.Errorf("want 64 hexadecimal digits after %s", hashPrefix)
		}
		return nil
	}
	if len(text) == 0 {
		return fmt.Errorf("is empty")
	}
	s.hash = sha256.Sum256(text)
	return nil
}

// String returns the hash, which is no secret if the key is a good one.
func (s Secret) String() string { return hashPrefix + hex.EncodeToString(s.hash[:]) }

// Lookup returns what finds the plan of a request by its key, and the key for
// limits: the hash, so that no key is stored anywhere.
func (a *APIKeys) Lookup() (plan func(*http.Request) (Plan, bool), key limiter.KeyFunc) {
	plans := map[[sha256.Size]byte]Plan{}
	for _, p := range a.Plans {
		for _, k := range p.Keys {
			plans[k.hash] = p
		}
	}
	plan = func(r *http.Request) (Plan, bool) {
		sent := r.Header.Get(a.Header)
		if sent == "" || len(plans) == 0 {
			return Plan{}, false
		}
		p, ok := plans[sha256.Sum256([]byte(sent))]
		return p, ok
	}
	key = func(r *http.Request) (string, error) {
		if _, ok := plan(r); !ok {
			return "", nil
		}
		hash := sha256.Sum256([]byte(r.Header.Get(a.Header)))
		return string(hash[:16]), nil
	}
	return plan, key
}

func (d *decoder) checkAPIKeys(a *APIKeys) {
	names, keys := map[string]Pos{}, map[[sha256.Size]byte]Pos{}
	for i, p := range a.Plans {
		field := fmt.Sprintf("api_keys.plans[%d]", i)
		if first, ok := names[p.Name]; ok && p.Name != "" {
			d.fault(p.Pos, field, "plan %q is there already, at %v", p.Name, first)
		}
		names[p.Name] = p.Pos
		d.checkPriority(p.Priority, p.Pos, field+".priority")
		for j, k := range p.Keys {
			if k.hash == [sha256.Size]byte{} {
				continue // has a fault of its own
			}
			if first, ok := keys[k.hash]; ok {
				d.fault(k.Pos, fmt.Sprintf("%s.keys[%d]", field, j), "is listed twice, first at %v", first)
			}
			keys[k.hash] = k.Pos
		}
	}
	if !isToken(a.Header) {
		d.fault(a.Pos, "api_keys.header", "%q is no name of a header", a.Header)
	}
}
