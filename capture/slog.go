package capture

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// Slog returns a sink that logs each record to logger: at [slog.LevelError] if
// the handler panicked or the status is 500 or more, at [slog.LevelWarn] if the
// exchange did not end well otherwise, and at [slog.LevelInfo] else. Attributes
// have the names and units of [JSONL], durations excepted, which are
// [time.Duration]. It is as safe for concurrent use as logger's handler, whose
// error Record returns, and logs nothing for a level that logger has switched off.
//
// Slog panics if logger is nil.
func Slog(logger *slog.Logger) Sink {
	if logger == nil {
		panic("capture: Slog with a nil *slog.Logger")
	}
	return SinkFunc(func(ctx context.Context, x *Exchange) error {
		level := slogLevel(x)
		if !logger.Enabled(ctx, level) {
			return nil
		}
		// Not by LogAttrs, which forgets the error.
		r := slog.NewRecord(time.Now(), level, "http exchange", 0)
		r.AddAttrs(slogAttrs(x)...)
		return logger.Handler().Handle(ctx, r)
	})
}

func slogLevel(x *Exchange) slog.Level {
	switch {
	case x.Outcome == OutcomePanic || x.Status >= 500:
		return slog.LevelError
	case x.Outcome == OutcomeAbort || x.Outcome == OutcomeWriteError || x.Outcome == OutcomeClientGone:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func slogAttrs(x *Exchange) []slog.Attr {
	attrs := make([]slog.Attr, 0, 24)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("method", x.Method)
	text("scheme", x.Scheme)
	text("host", x.Host)
	text("path", x.Path)
	text("query", x.Query)
	text("route", x.Route)
	text("proto", x.Proto)
	if x.Client != (netip.Addr{}) {
		attrs = append(attrs, slog.String("client", x.Client.String()))
	}
	attrs = append(attrs,
		slog.Int("status", x.Status),
		slog.Time("start", x.Start),
		slog.Duration("duration", x.Duration),
	)
	if x.FirstByte > 0 {
		attrs = append(attrs, slog.Duration("first_byte", x.FirstByte))
	}
	if len(x.Informational) > 0 {
		attrs = append(attrs, slog.Any("informational", append([]int(nil), x.Informational...)))
	}
	text("outcome", string(x.Outcome))
	text("side", string(x.Side))
	text("phase", string(x.Phase))
	if x.Empty {
		attrs = append(attrs, slog.Bool("empty", true))
	}
	text("refused_by", x.RefusedBy)
	if len(x.Attributes) > 0 {
		group := make([]slog.Attr, len(x.Attributes))
		for i, a := range x.Attributes {
			group[i] = slog.String(a.Name, a.Value)
		}
		attrs = append(attrs, slog.Attr{Key: "attributes", Value: slog.GroupValue(group...)})
	}
	request := slogMessage(&x.Request)
	if x.Request.Body.Complete {
		request = append(request, slog.Bool("complete", true))
	}
	return append(attrs,
		slog.Attr{Key: "request", Value: slog.GroupValue(request...)},
		slog.Attr{Key: "response", Value: slog.GroupValue(slogMessage(&x.Response)...)},
	)
}

func slogMessage(m *Message) []slog.Attr {
	attrs := []slog.Attr{slog.Int64("size", m.Body.Size)}
	if m.Body.Declared >= 0 {
		attrs = append(attrs, slog.Int64("content_length", m.Body.Declared))
	}
	if m.Body.Type != "" {
		attrs = append(attrs, slog.String("content_type", m.Body.Type))
	}
	if m.Body.Encoding != "" {
		attrs = append(attrs, slog.String("decoded", m.Body.Encoding))
	}
	if m.Body.Skipped != "" {
		attrs = append(attrs, slog.String("skipped", string(m.Body.Skipped)))
	}
	if m.Body.Truncated {
		attrs = append(attrs, slog.Bool("truncated", true))
	}
	attrs = appendSlogHeader(attrs, "header", m.Header)
	attrs = appendSlogHeader(attrs, "trailer", m.Trailer)
	if p := m.Body.Bytes(); len(p) > 0 {
		attrs = append(attrs, slog.Int("captured", len(p)))
		if text, ok := asText(p, m.Body.Truncated); ok {
			attrs = append(attrs, slog.String("body", string(text)))
		} else {
			attrs = append(attrs,
				slog.String("body", string(appendBase64(nil, p))),
				slog.String("body_encoding", "base64"))
		}
	}
	return attrs
}

// appendSlogHeader adds a group of fields; one that was sent with several lines
// has its values in one attribute.
func appendSlogHeader(attrs []slog.Attr, key string, h Header) []slog.Attr {
	if len(h) == 0 {
		return attrs
	}
	var group []slog.Attr
	for i := 0; i < len(h); {
		j := i + 1
		for j < len(h) && h[j].Name == h[i].Name {
			j++
		}
		if j == i+1 {
			group = append(group, slog.String(h[i].Name, h[i].Value))
		} else {
			group = append(group, slog.Any(h[i].Name, h[i:j].Values(h[i].Name)))
		}
		i = j
	}
	return append(attrs, slog.Attr{Key: key, Value: slog.GroupValue(group...)})
}
