package config

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/goweir/weir/capture"
)

// Options returns what the room is to capture, and masks the header field of API
// keys, whatever its name.
func (a *Audit) Options(keyHeader string) *capture.Options {
	limit := cmp.Or(int(a.MaxBody), -1) // the file says 0 for what Options calls -1
	o := &capture.Options{
		RequestCap:        limit,
		ResponseCap:       limit,
		Redact:            a.Redact,
		RedactPaths:       a.RedactPaths,
		AllowOnly:         a.AllowOnly,
		RefusalsPerSecond: int(a.Refusals),

		UnauthorizedBodies: a.Passwords,
	}
	if keyHeader != "" {
		o.Redact = append([]string{keyHeader}, o.Redact...)
	}
	if len(a.Only) > 0 {
		o.Keep = func(x *capture.Exchange) bool { return Statuses(a.Only).Has(x.Status) }
	}
	return o
}

// A Status is a status of a response, or a class of them. That of an exchange
// without a response is 0.
type Status struct{ First, Last int }

func (s *Status) UnmarshalText(text []byte) error {
	t := string(text)
	if class, ok := strings.CutSuffix(t, "xx"); ok && len(class) == 1 && class >= "1" && class <= "5" {
		s.First = int(class[0]-'0') * 100
		s.Last = s.First + 99
		return nil
	}
	n, err := strconv.ParseUint(t, 10, 16)
	if err != nil || n != 0 && (n < 100 || n > 599) {
		return fmt.Errorf("%.60q is no status: want 404, 5xx or the like, or 0 for no response", text)
	}
	*s = Status{int(n), int(n)}
	return nil
}

func (s Status) String() string {
	if s.First == s.Last {
		return strconv.Itoa(s.First)
	}
	return strconv.Itoa(s.First/100) + "xx"
}

// Statuses is a set of them.
type Statuses []Status

// Has reports whether a status is in the set.
func (ss Statuses) Has(status int) bool {
	for _, s := range ss {
		if s.First <= status && status <= s.Last {
			return true
		}
	}
	return false
}

// Full is what becomes of a record when the queue has no room.
type Full capture.FullPolicy

var fullNames = []string{capture.DropNewest: "drop_newest", capture.DropOldest: "drop_oldest", capture.Block: "block"}

func (f *Full) UnmarshalText(text []byte) error { return fromName(f, fullNames, text) }

func (f Full) String() string { return fullNames[f] }

// fromName reads one of a few names, whose index is the value.
func fromName[T ~uint8 | ~int](dst *T, names []string, text []byte) error {
	for i, name := range names {
		if name == string(text) {
			*dst = T(i)
			return nil
		}
	}
	return fmt.Errorf("%.60q is unknown: want %s", text, alternatives(names))
}

func alternatives(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
