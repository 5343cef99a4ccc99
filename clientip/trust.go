package clientip

import (
	"fmt"
	"net/netip"
	"slices"
)

// prefixes is a set of addresses: disjoint, masked prefixes in ascending order.
// Sorted, because the published ranges of a large CDN or cloud are thousands of
// prefixes, and a request may have every hop looked up.
type prefixes []netip.Prefix

func newPrefixes(trust []netip.Prefix) (set prefixes, faults []error) {
	sorted := make([]netip.Prefix, 0, len(trust))
	for i, p := range trust {
		p, err := fold(p)
		if err != nil {
			faults = append(faults, fmt.Errorf("clientip: trust[%d] %w", i, err))
			continue
		}
		sorted = append(sorted, p)
	}
	// Of two prefixes that overlap one contains the other, and sorts first.
	slices.SortFunc(sorted, netip.Prefix.Compare)
	for _, p := range sorted {
		if len(set) == 0 || !set[len(set)-1].Contains(p.Addr()) {
			set = append(set, p)
		}
	}
	return set, faults
}

// fold masks p and turns a v4-mapped prefix into the IPv4 one, because the
// addresses it is compared with are folded too.
func fold(p netip.Prefix) (netip.Prefix, error) {
	const allowed = "(want an address and a length that fits it, such as 10.0.0.0/8 or 2001:db8::/32)"
	if !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("is not a valid prefix %s", allowed)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("is %v, an IPv4-mapped address whose length leaves the mapped range (want 96 bits or more, or the IPv4 prefix itself)", p)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p.Bits() == 0 {
		// With everyone trusted every element is skipped and the leftmost
		// value, the client's own invention, is the answer.
		return netip.Prefix{}, fmt.Errorf("is %v, which trusts everyone, so that any client could name its own address (want the prefixes of the proxies, 1 bit or more)", p)
	}
	return p.Masked(), nil
}

// contains expects a folded address without a zone. No set contains the zero
// Addr.
func (set prefixes) contains(addr netip.Addr) bool {
	i, found := slices.BinarySearchFunc(set, addr, func(p netip.Prefix, a netip.Addr) int {
		return p.Addr().Compare(a)
	})
	return found || i > 0 && set[i-1].Contains(addr)
}
