package limiter_test

import (
	"testing"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/limitertest"
)

func TestMemoryConforms(t *testing.T) {
	for name, opts := range map[string]*limiter.MemoryOptions{
		"default":    nil,
		"refuse new": {RefuseNew: true},
	} {
		t.Run(name, func(t *testing.T) {
			limitertest.Run(t, func(*testing.T) limiter.Limiter { return limiter.NewMemory(opts) }, nil)
		})
	}
}
