package config_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// FuzzParse looks for panics, for faults without a line, and for faults that
// are more than a line.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(everything))
	for _, tt := range faulty {
		if len(tt.text) < 4<<10 {
			f.Add([]byte(tt.text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("gateway.yaml", data)
		if err == nil {
			if len(c.Routes) == 0 || c.Listen == "" || c.Audit.File == "" || c.Timeouts.Idle <= 0 {
				t.Errorf("accepted without what must be there: %+v", c)
			}
			if _, err := config.Parse("again.yaml", []byte(config.Text(*c))); err != nil {
				t.Errorf("printed and read again: %v", err)
			}
			return
		}
		faults, ok := errors.AsType[config.Faults](err)
		if !ok || len(faults) == 0 {
			t.Fatalf("got %T %v, want Faults", err, err)
		}
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		for _, fault := range faults {
			if fault.Line < 1 || fault.Line > lines+1 || fault.Column < 1 {
				t.Errorf("%v: no such place in a file of %d lines", fault, lines)
			}
			if text := fault.Error(); strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("%q has control characters", text)
			}
		}
	})
}
