package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

// An Address is where to listen, as [net.Listen] takes it.
type Address string

func (a *Address) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil {
		return fmt.Errorf("%.60q is no address: want HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8080", text)
	}
	*a = Address(text)
	return nil
}

// verdict returns what a room says of a value, on one line and without the name
// that the value has there. Rooms judge what is theirs, so that the file and the
// code cannot disagree on what is allowed.
func verdict(err error, name string) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, name)
	}
	return errors.New(strings.Join(lines, "; "))
}

// A Prefix is a range of addresses; a single address is a range of one.
type Prefix struct{ netip.Prefix }

func (p *Prefix) UnmarshalText(text []byte) (err error) {
	s := string(text)
	if addr, aerr := netip.ParseAddr(s); aerr == nil && addr.Zone() == "" {
		p.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return nil
	}
	if p.Prefix, err = netip.ParsePrefix(s); err != nil {
		return fmt.Errorf("%.60q is no range of addresses: want 10.0.0.0/8, fd00::/8 or one address", s)
	}
	if p.Prefix != p.Masked() {
		return fmt.Errorf("%.60q has bits beyond its length: want %v", s, p.Masked())
	}
	_, err = clientip.New([]netip.Prefix{p.Prefix}, nil)
	return verdict(err, "clientip: trust[0] ")
}

// A Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{ // GiB before B: the longer suffix is looked for first
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(0)
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimRight(n, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case err != nil || n < 0 || unit == 0 && n != 0:
		return fmt.Errorf("%.60q is no size: want a whole number and B, KiB, MiB, GiB, kB, MB or GB, such as 64KiB", text)
	case n > math.MaxInt64/max(unit, 1):
		return fmt.Errorf("%.60q is larger than this program can count", text)
	}
	*s = Size(n * unit)
	return nil
}

// String returns the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		name  string
		bytes Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s != 0 && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// A FileSize is a Size in whole MiB.
type FileSize Size

func (s *FileSize) UnmarshalText(text []byte) error {
	if err := (*Size)(s).UnmarshalText(text); err != nil {
		return err
	}
	if *s%(1<<20) != 0 {
		return fmt.Errorf("%.60q is no size of a file: want whole MiB, or 0 for one that grows for ever", text)
	}
	return nil
}

func (s FileSize) String() string { return Size(s).String() }

// A ByteRate is a number of bytes a second.
type ByteRate int64

func (r *ByteRate) UnmarshalText(text []byte) error {
	n, err := limiter.ParseByteRate(string(text))
	*r = ByteRate(n)
	return verdict(err, "limiter: byte rate ")
}

func (r ByteRate) String() string { return limiter.FormatByteRate(int64(r)) }

// A Duration is a span of time above zero: no phase goes without a bound.
type Duration time.Duration

func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%.60q is no duration: want a number and ms, s, m or h, such as 500ms or 1m30s", text)
	}
	if v <= 0 {
		return fmt.Errorf("%.60q is not above zero", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// A Count is a whole number above zero.
type Count int

func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%.60q is no count: want a whole number from 1 to %d", text, math.MaxInt32)
	}
	*c = Count(n)
	return nil
}

func errFactor(text []byte) error {
	return fmt.Errorf("%.60q is no factor: want a number from 1 to 10, such as 1.5", text)
}
