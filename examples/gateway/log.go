package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/examples/gateway/internal/config"
)

// newLog returns what the gateway says while it runs, in the form that the
// configuration asks for.
func newLog(c config.Log, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{}
	if c.Format == config.JSONFormat {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// seldom returns a log that says the same thing about the same upstream at most
// once a second: what a dead upstream does to a thousand requests is one line, not
// a thousand. The next line has the number of those left out.
func seldom(log *slog.Logger) *slog.Logger {
	return slog.New(&throttle{Handler: log.Handler(), topic: func(r slog.Record) string {
		topic := r.Message // of the proxy, whose messages are constants
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "upstream" {
				topic += " " + a.Value.String()
			}
			return a.Key != "upstream"
		})
		return topic
	}})
}

// serverLog is for net/http, whose messages have the addresses of strangers in
// them: of all that it says, there is one line a second.
func serverLog(log *slog.Logger) slog.Handler {
	return &throttle{Handler: log.Handler(), topic: func(slog.Record) string { return "" }}
}

// A throttle passes on one record a second of each topic. There must be few of
// those: it forgets none. What is made from it by WithAttrs or WithGroup is not
// held back; neither the proxy nor net/http does that.
type throttle struct {
	slog.Handler
	topic func(slog.Record) string

	mu     sync.Mutex
	topics map[string]*spoken
}

// spoken is when a topic was last logged, and how often not since.
type spoken struct {
	at      time.Time
	leftOut int
}

func (t *throttle) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := t.admit(t.topic(r), time.Now())
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", leftOut))
	}
	return t.Handler.Handle(ctx, r)
}

func (t *throttle) admit(topic string, now time.Time) (leftOut int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.topics[topic]
	if last == nil {
		if t.topics == nil {
			t.topics = map[string]*spoken{}
		}
		t.topics[topic] = &spoken{at: now}
		return 0, true
	}
	if now.Sub(last.at) < time.Second {
		last.leftOut++
		return 0, false
	}
	leftOut, last.at, last.leftOut = last.leftOut, now, 0
	return leftOut, true
}

// accessLine logs that an exchange has ended. There is nothing in it that is a
// secret as a rule: no query, no header, no body. What the client chose is cut
// to a length, and escaped by slog.
func accessLine(log *slog.Logger, x *capture.Exchange) {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("client", x.Client.String()),
		slog.String("method", cut(x.Method, 20)),
		slog.String("host", cut(x.Host, 100)),
		slog.String("path", cut(x.Path, 300)),
		slog.String("route", x.Route),
		slog.Int("status", x.Status),
		slog.String("outcome", string(x.Outcome)),
		slog.Int64("received", x.Request.Body.Size),
		slog.Int64("sent", x.Response.Body.Size),
		slog.Float64("first_byte_ms", milliseconds(x.FirstByte)),
		slog.Float64("duration_ms", milliseconds(x.Duration)),
	)
	if x.RefusedBy != "" {
		attrs = append(attrs, slog.String("refused_by", x.RefusedBy))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "request", attrs...)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// cut shortens s to n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// codeClass returns a status as a label of metrics: "2xx", or "none".
func codeClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return string(rune('0'+status/100)) + "xx"
}
