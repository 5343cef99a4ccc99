// Package diagnose warns, once a process and through slog, of mistakes in how
// weir is put together: those that nobody notices until it matters.
//
// It has the only variables of weir's core that change, because what is worth a
// warning is worth one and no more. To look for a mistake must cost nothing that
// could be measured: callers look where something has gone wrong anyway, or
// ask [Code.Look] first, which ends after a thousand requests.
package diagnose

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
)

// A Code names a mistake, and keeps its name for ever. docs/diagnostics.md has a
// section for each.
type Code uint8

const (
	ForwardedIgnored Code = iota
	TrustsEverybody
	ChargedTwice
	NoKey
	LimiterPerRequest
	GinRecovery
	RedisRetries
	RedisEvicts
)

var names = [...]string{
	ForwardedIgnored:  "forwarded-ignored",
	TrustsEverybody:   "trusts-everybody",
	ChargedTwice:      "charged-twice",
	NoKey:             "no-key",
	LimiterPerRequest: "limiter-per-request",
	GinRecovery:       "gin-recovery",
	RedisRetries:      "redis-retries",
	RedisEvicts:       "redis-evicts",
}

// Names returns all of them.
func Names() []string { return names[:] }

// String returns the name.
func (c Code) String() string { return names[c] }

const page = "https://github.com/goweir/weir/blob/main/docs/diagnostics.md#"

var (
	told  [len(names)]atomic.Bool
	looks [len(names)]atomic.Int32
	built atomic.Int32
)

// enough is at how many requests is looked for a mistake that would show in any.
const enough = 1000

// Told reports whether c was told of.
func (c Code) Told() bool { return told[c].Load() }

// Look reports whether a request is to be looked at: c was not told of, and not
// looked for a thousand times.
func (c Code) Look() bool {
	return looks[c].Load() < enough && !c.Told() && looks[c].Add(1) <= enough
}

// Tell warns of c, unless that was done. The message begins with the package and
// says what to do; attrs must hold nothing of a client's, but for what an
// error of the application says.
func (c Code) Tell(ctx context.Context, msg string, attrs ...slog.Attr) {
	if c.Told() || !told[c].CompareAndSwap(false, true) {
		return
	}
	attrs = append(attrs, slog.String("code", c.String()), slog.String("docs", page+c.String()))
	slog.LogAttrs(ctx, slog.LevelWarn, msg, attrs...)
}

// Below reports whether the calling goroutine is in a call of a function whose
// name begins with one of prefixes. It takes some microseconds.
func Below(prefixes ...string) bool {
	var pcs [256]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		for _, p := range prefixes {
			if strings.HasPrefix(f.Function, p) {
				return true
			}
		}
	}
	return false
}

// fewBuilt is how many limiters may be made by handlers: one for each route, say,
// when its first request comes.
const fewBuilt = 16

// Built is called by whoever makes the state of a limiter, such as
// limiter.NewMemory, and warns if that is done for each request.
func Built(what string) {
	if LimiterPerRequest.Told() || !Below("net/http.serverHandler.ServeHTTP", "golang.org/x/net/http2.(*serverConn).runHandler") ||
		built.Add(1) <= fewBuilt {
		return
	}
	LimiterPerRequest.Tell(context.Background(), what+" is called for each request, so that each begins with whole quotas; "+
		"make the limiter once, outside the handler", slog.Int("calls", fewBuilt+1))
}

// Forget makes everything untold, for tests.
func Forget() {
	for i := range told {
		told[i].Store(false)
		looks[i].Store(0)
	}
	built.Store(0)
}
