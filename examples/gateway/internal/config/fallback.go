package config

import (
	"encoding/json"
	"time"

	"github.com/goweir/weir/proxy"
)

// A Fallback answers when no upstream can. It is one of a file, JSON, other
// upstreams, and what they answered before.
type Fallback struct {
	Pos
	File      string     `yaml:"file"` // its type is told by its name
	JSON      string     `yaml:"json"`
	Status    Count      `yaml:"status" default:"503"` // of the file and the JSON
	Upstreams []Upstream `yaml:"upstreams"`
	Stale     Stale      `yaml:"stale" block:"true"`
	Forced    bool       `yaml:"forced"` // the upstreams are not asked at all
}

// Stale keeps good answers, to be sent again when there is no better.
type Stale struct {
	Pos
	MaxBytes Size     `yaml:"max_bytes" default:"16MiB"`
	MaxBody  Size     `yaml:"max_body" default:"256KiB"`
	MaxStale Duration `yaml:"max_stale"` // 0: as the answers say by stale-if-error
}

// Set reports whether the file asks for it.
func (s *Stale) Set() bool { return s.Pos != Pos{} }

// Options returns the options of the room.
func (s *Stale) Options() *proxy.StaleOptions {
	return &proxy.StaleOptions{MaxBytes: int64(s.MaxBytes), MaxBody: int64(s.MaxBody), MaxStale: time.Duration(s.MaxStale)}
}

func (d *decoder) checkFallback(f *Fallback, field string) {
	if f.Pos == (Pos{}) {
		return
	}
	ways := 0
	for _, way := range []bool{f.File != "", f.JSON != "", len(f.Upstreams) > 0, f.Stale.Set()} {
		if way {
			ways++
		}
	}
	if ways > 1 || ways == 0 && !f.Forced {
		d.fault(f.Pos, field, "want one of file, json, upstreams and stale")
	}
	if f.JSON != "" && !json.Valid([]byte(f.JSON)) {
		d.fault(f.Pos, field+".json", "is not JSON")
	}
	if f.Status < 200 || f.Status > 599 {
		d.fault(f.Pos, field+".status", "is %d; want 200 to 599", f.Status)
	}
	if f.Stale.Set() {
		_, err := proxy.NewStale(f.Stale.Options())
		d.verdicts(f.Stale.Pos, field+".stale", err, "proxy: ")
	}
}
