package clientip_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The reference that the fuzz tests compare with: regular expressions, copies
// and quadratic time, and no code shared with the package or with netip's
// parser.

const (
	port   = `(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?`
	token  = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
	quoted = `"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"`
	pair   = token + `=(?:` + token + `|` + quoted + `)`
	ows    = `[ \t]*`
)

var (
	nodes = []*regexp.Regexp{
		regexp.MustCompile(`^([0-9.]+)` + port + `$`),
		regexp.MustCompile(`(?s)^([0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*)(?:%.+)?$`),
		regexp.MustCompile(`^\[([0-9A-Fa-f.:]*:[0-9A-Fa-f.:]*)(?:%[^\]]+)?\]` + port + `$`),
	}
	octet     = regexp.MustCompile(`^(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$`)
	hexGroup  = regexp.MustCompile(`^[0-9A-Fa-f]{1,4}$`)
	firstPair = regexp.MustCompile(`^(` + token + `)=(` + token + `|` + quoted + `)`)
	element   = regexp.MustCompile(`^` + ows + `(?:` + pair + `)?(?:` + ows + `;` + ows + `(?:` + pair + `)?)*` + ows + `$`)
)

// refNode returns the zero Addr for what is not an address.
func refNode(s string) netip.Addr {
	for _, re := range nodes {
		if m := re.FindStringSubmatch(s); m != nil {
			for _, parse := range []func(string) []byte{refIPv4, refIPv6} {
				if b := parse(m[1]); b != nil {
					addr, _ := netip.AddrFromSlice(b)
					return addr.Unmap()
				}
			}
		}
	}
	return netip.Addr{}
}

func refIPv4(s string) []byte {
	var b []byte
	for field := range strings.SplitSeq(s, ".") {
		if !octet.MatchString(field) {
			return nil
		}
		n, _ := strconv.Atoi(field)
		b = append(b, byte(n))
	}
	if len(b) != 4 {
		return nil
	}
	return b
}

func refIPv6(s string) []byte {
	left, right, gap := strings.Cut(s, "::")
	l, r := refGroups(left, !gap), refGroups(right, true)
	switch {
	case l == nil || r == nil:
		return nil
	case !gap:
		r = nil
		if len(l) != 16 {
			return nil
		}
	case len(l)+len(r) > 14: // "::" stands for at least one group
		return nil
	}
	return slices.Concat(l, make([]byte, 16-len(l)-len(r)), r)
}

// refGroups parses one side of "::". Only at the end of the address may the
// last 32 bits be in dotted form.
func refGroups(s string, end bool) []byte {
	b := []byte{}
	if s == "" {
		return b
	}
	fields := strings.Split(s, ":")
	for i, field := range fields {
		if v4 := refIPv4(field); v4 != nil && end && i == len(fields)-1 {
			return append(b, v4...)
		}
		if !hexGroup.MatchString(field) {
			return nil
		}
		n, _ := strconv.ParseUint(field, 16, 16)
		b = append(b, byte(n>>8), byte(n))
	}
	return b
}

// refWalk judges elements, which stand as the header has them. A nil element is
// one that could not be read.
func refWalk(remote string, elements []string, node func(string) netip.Addr) netip.Addr {
	isTrusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	peer := refNode(remote)
	if !isTrusted(peer) {
		return peer
	}
	answer := peer
	slices.Reverse(elements)
	for i, e := range elements {
		if i == 128 {
			return peer
		}
		if strings.Trim(e, " \t") == "" {
			continue
		}
		a := node(e)
		if !a.IsValid() {
			return peer
		}
		if answer = a; !isTrusted(a) {
			break
		}
	}
	return answer
}

func refList(remote string, lines []string) netip.Addr {
	return refWalk(remote, strings.Split(strings.Join(lines, ","), ","), func(e string) netip.Addr {
		return refNode(strings.Trim(e, " \t"))
	})
}

// refForwarded cuts each line by trial: the last element is the shortest text
// after a comma that has the syntax of an element.
func refForwarded(remote string, lines []string) netip.Addr {
	var elements []string
	for _, line := range lines {
		elements = append(elements, refElements(line)...)
	}
	return refWalk(remote, elements, refFor)
}

func refElements(line string) []string {
	for i := len(line); i >= 0; i-- {
		if i > 0 && line[i-1] != ',' {
			continue
		}
		if element.MatchString(line[i:]) {
			if i == 0 {
				return []string{line}
			}
			return append(refElements(line[:i-1]), line[i:])
		}
	}
	return []string{"malformed"}
}

func refFor(e string) netip.Addr {
	if !element.MatchString(e) {
		return netip.Addr{}
	}
	var values []string
	for {
		e = strings.TrimLeft(e, " \t;")
		m := firstPair.FindStringSubmatch(e)
		if m == nil {
			break
		}
		if strings.ToLower(m[1]) == "for" {
			values = append(values, m[2])
		}
		e = e[len(m[0]):]
	}
	if len(values) != 1 {
		return netip.Addr{}
	}
	value, ok := strings.CutPrefix(values[0], `"`)
	if ok {
		value = value[:len(value)-1]
	}
	return refNode(value)
}
