package weirotel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/goweir/weir/proxy"
)

// WrapTransport is for proxy.Config's field of that name: each attempt becomes a
// client span by the semantic conventions for HTTP, which is what the upstream
// gets as its parent, and a measurement of http.client.request.duration.
//
// The span ends with the answer's body, or with the header of an answer that has
// none or opens a tunnel; the measurement is the time until the header. url.full
// is without the query, where secrets are.
//
// https://opentelemetry.io/docs/specs/semconv/http/http-spans/
func (t *Telemetry) WrapTransport(next http.RoundTripper) http.RoundTripper {
	return &transport{t, next}
}

type clientTelemetry struct{ durations histogram }

func (c *clientTelemetry) init(t *Telemetry) {
	c.durations = t.histogram("http.client.request.duration", "Duration of HTTP client requests.", exchangeBuckets, func(k key) []attribute.KeyValue {
		attributes := []attribute.KeyValue{attribute.String("http.request.method", k.word)}
		attributes = append(attributes, address(k.name, k.route)...)
		if status, err := strconv.Atoi(k.word2); err == nil {
			attributes = append(attributes, attribute.Int("http.response.status_code", status))
			if status < 400 {
				return attributes
			}
		}
		return append(attributes, attribute.String("error.type", k.word2))
	})
}

// address returns the attributes of a server, of what stands in a URL.
func address(host, scheme string) []attribute.KeyValue {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, map[string]string{"http": "80", "https": "443"}[scheme]
	}
	attributes := []attribute.KeyValue{attribute.String("server.address", name), attribute.String("url.scheme", scheme)}
	if n, err := strconv.Atoi(port); err == nil {
		attributes = append(attributes, attribute.Int("server.port", n))
	}
	return attributes
}

type transport struct {
	*Telemetry
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if !trace.SpanContextFromContext(ctx).IsValid() {
		// Nobody outside has begun a span: then the client's is the parent.
		ctx = t.propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	method := known(r.Method)
	name := method
	if name == otherMethod {
		name = "HTTP"
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		u := *r.URL
		u.RawQuery, u.ForceQuery, u.User, u.Fragment = "", false, nil, ""
		span.SetAttributes(attribute.String("http.request.method", method), attribute.String("url.full", u.String()))
		span.SetAttributes(address(r.URL.Host, r.URL.Scheme)...)
		if number, why := proxy.AttemptFrom(ctx); number > 1 {
			span.SetAttributes(attribute.Int("http.request.resend_count", number-1), triggerKey.String(string(why)))
		}
	}
	out := r.WithContext(ctx)
	out.Header = r.Header.Clone() // the next attempt has the same
	t.propagator.Inject(ctx, propagation.HeaderCarrier(out.Header))

	start := time.Now()
	res, err := t.next.RoundTrip(out)
	class := ""
	if err != nil {
		class = errorType(err)
	} else {
		class = strconv.Itoa(res.StatusCode)
	}
	t.client.durations.record(ctx, time.Since(start).Seconds(), key{name: r.URL.Host, route: r.URL.Scheme, word: method, word2: class})
	if err != nil {
		fail(span, class, err)
		span.End()
		return nil, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", res.StatusCode), attribute.String("network.protocol.version", version(res)))
	if res.StatusCode >= 400 {
		span.SetAttributes(attribute.String("error.type", class))
		span.SetStatus(codes.Error, "")
	}
	if res.StatusCode == http.StatusSwitchingProtocols || res.Body == nil || res.Body == http.NoBody || !span.IsRecording() {
		span.End()
		return res, nil
	}
	res.Body = &body{ReadCloser: res.Body, span: span}
	return res, nil
}

// A body ends the span of its answer.
type body struct {
	io.ReadCloser
	span trace.Span
	once sync.Once
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() {
			if err != io.EOF {
				fail(b.span, errorType(err), err)
			}
			b.span.End()
		})
	}
	return n, err
}

func (b *body) Close() error {
	b.once.Do(func() { b.span.End() })
	return b.ReadCloser.Close()
}

func fail(span trace.Span, class string, err error) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("error.type", class))
	span.SetStatus(codes.Error, err.Error())
}

// errorType returns a word for err, of which there are few.
func errorType(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "broken"
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op // dial, read, write
	}
	return "_OTHER"
}

const otherMethod = "_OTHER"

// known returns a method that everybody knows, as anybody can invent others.
func known(method string) string {
	switch method {
	case "":
		return http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
		http.MethodTrace, http.MethodConnect, "QUERY":
		return method
	}
	return otherMethod
}

func version(res *http.Response) string {
	if res.ProtoMajor == 1 {
		return "1." + strconv.Itoa(res.ProtoMinor)
	}
	return strconv.Itoa(res.ProtoMajor)
}
