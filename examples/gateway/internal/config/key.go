package config

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/goweir/weir/limiter"
)

// A Key is what a quota is counted by: one of the forms below, several of them
// joined by "+", and alternatives separated by "|", of which the first counts
// that a request has.
type Key string

const keyForms = "global, ip, net:V4/V6, route, path, api_key, header:NAME or cookie:NAME, joined by +, alternatives separated by |"

func (k *Key) UnmarshalText(text []byte) error {
	ways := strings.Split(string(text), "|")
	for i, way := range ways {
		parts := strings.Split(way, "+")
		for j := range parts {
			parts[j] = strings.TrimSpace(parts[j])
		}
		ways[i] = strings.Join(parts, "+")
	}
	*k = Key(strings.Join(ways, "|"))
	if k.Func(nil) == nil {
		return fmt.Errorf("%.60q is no key: want %s", text, keyForms)
	}
	return nil
}

// Func returns what reads the key from a request, nil if k is none. apiKey says
// which known API key a request has.
func (k Key) Func(apiKey limiter.KeyFunc) limiter.KeyFunc {
	var first []limiter.KeyFunc
	for way := range strings.SplitSeq(string(k), "|") {
		var joined []limiter.KeyFunc
		for part := range strings.SplitSeq(way, "+") {
			f := keyFunc(part, apiKey)
			if f == nil {
				return nil
			}
			joined = append(joined, f)
		}
		if len(joined) > 1 {
			joined[0] = limiter.JoinKeys(joined...)
		}
		first = append(first, joined[0])
	}
	if len(first) == 1 {
		return first[0]
	}
	return limiter.KeyFirst(first...)
}

// uses reports whether k has a part of the kind.
func (k Key) uses(kind string) bool {
	return strings.Contains("+"+strings.ReplaceAll(string(k), "|", "+")+"+", "+"+kind+"+")
}

func keyFunc(form string, apiKey limiter.KeyFunc) limiter.KeyFunc {
	kind, name, named := strings.Cut(form, ":")
	switch {
	case form == "global":
		return limiter.KeyGlobal
	case form == "ip":
		return limiter.KeyByClientIP
	case form == "route":
		return limiter.KeyByRoute
	case form == "path":
		return limiter.KeyByPath
	case form == "api_key":
		if apiKey == nil {
			return func(*http.Request) (string, error) { return "", nil }
		}
		return apiKey
	case kind == "header" && named && isToken(name):
		return limiter.KeyByHeader(name)
	case kind == "cookie" && named && isToken(name):
		return limiter.KeyByCookie(name)
	case kind == "net" && named:
		return netKey(name)
	}
	return nil
}

// netKey reads the lengths of prefixes, as in 24/56.
func netKey(bits string) limiter.KeyFunc {
	v4, v6, _ := strings.Cut(bits, "/")
	n4, err4 := strconv.ParseUint(v4, 10, 8)
	n6, err6 := strconv.ParseUint(v6, 10, 8)
	if err4 != nil || err6 != nil || n4 > 32 || n6 > 128 || n4 == 0 || n6 == 0 {
		return nil
	}
	return limiter.KeyByClientNet(int(n4), int(n6))
}

// isToken says whether s may be the name of a header or cookie (RFC 9110,
// section 5.6.2). Of the characters there "|" and "+" have a meaning of their
// own here.
func isToken(s string) bool {
	return s != "" && strings.Trim(s, "!#$%&'*-.^_`~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
