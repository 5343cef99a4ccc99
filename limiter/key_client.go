package limiter

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/goweir/weir/clientip"
)

var _ KeyFunc = KeyByClientIP

// KeyByClientIP charges by the address of the client: an IPv4 address alone, an
// IPv6 address with its /64, because one subscriber has at least that many.
// [KeyByClientNet] takes other prefixes.
//
// It is the address that package clientip resolved: that of the peer, unless a
// Middleware of clientip.Resolver stands in front, which decides whom to
// believe. It is
// an error if the peer has none, as with a Unix socket.
func KeyByClientIP(r *http.Request) (string, error) { return keyByNet(r, 32, 64) }

// KeyByClientNet returns a KeyFunc that charges by the network of the client's
// address: its first v4 bits for IPv4 (0 to 32), its first v6 bits for IPv6 (0
// to 128). Zones are dropped, and IPv4 addresses mapped into IPv6 count as
// IPv4. It panics if a number is out of range.
//
// Providers hand out /56 and /48 too; a second rule with a wider network and a
// higher limit catches who has many /64.
func KeyByClientNet(v4, v6 int) KeyFunc {
	if v4 < 0 || v4 > 32 || v6 < 0 || v6 > 128 {
		panic(fmt.Sprintf("limiter: KeyByClientNet(%d, %d): want 0 to 32 and 0 to 128 bits", v4, v6))
	}
	return func(r *http.Request) (string, error) { return keyByNet(r, v4, v6) }
}

var errNoAddr = errors.New("limiter: the client's address is not known")

func keyByNet(r *http.Request, v4, v6 int) (string, error) {
	addr := clientip.From(r).Unmap()
	if !addr.IsValid() {
		return "", errNoAddr
	}
	bits := v6
	if addr.Is4() {
		bits = v4
	}
	var array [48]byte // the longest text of a prefix has 43
	if bits == addr.BitLen() {
		return string(addr.WithZone("").AppendTo(array[:0])), nil
	}
	net, _ := addr.Prefix(bits) // bits are in range; Prefix drops the zone
	return string(net.AppendTo(array[:0])), nil
}
