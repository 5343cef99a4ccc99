package faultnet_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/goweir/weir/internal/faultnet"
)

func TestScript(t *testing.T) {
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			addr := faultnet.Script(t, how,
				faultnet.Step{Read: "\r\n\r\n", Write: "HTTP/1.1 100 Continue\r\n\r\n"},
				faultnet.Step{Read: "\xff\xfe", Sleep: 50 * time.Millisecond},
				faultnet.Step{Write: "HTTP/1.1 099 \xff\r\n"},
			)
			for range 2 { // each connection begins at the first step
				c := dial(t, addr)
				begin := time.Now()
				c.send(t, "GET / HTTP/1.1\r\n")
				c.send(t, "\r\nbody\xff\xfemore")
				c.ends(t, how, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 099 \xff\r\n")
				if took := time.Since(begin); took < 50*time.Millisecond {
					t.Errorf("took %v, want the pause of 50 ms", took)
				}
			}
		})
	}
}

// A script that is not through ends with the test.
func TestScriptLeavesNothing(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		c := dial(t, faultnet.Script(t, faultnet.FIN, faultnet.Step{Write: "first", Sleep: time.Hour}))
		if _, err := c.br.Peek(5); err != nil {
			t.Error(err)
		}
		dial(t, faultnet.Script(t, faultnet.FIN, faultnet.Step{Read: "never"}))
		c = dial(t, faultnet.Script(t, faultnet.Hang, faultnet.Step{Write: "first"}))
		if _, err := c.br.Peek(5); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "goroutines are those from before", func() bool { return runtime.NumGoroutine() <= goroutines })
}
