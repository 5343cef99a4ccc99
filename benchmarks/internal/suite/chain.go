package suite

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"

	"github.com/felixge/httpsnoop"

	"github.com/goweir/weir/benchmarks/internal/report"
	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/benchmarks/proxybench"
	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
)

const bare = "bare handler"

// nowhere is a response writer that does nothing.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Flush()                      {}

var empty = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// requests serves one request over and over. The response's header is emptied
// each time, for every handler alike.
func requests(h http.Handler) func(int) {
	r, w := httptest.NewRequest(http.MethodGet, "/", nil), &nowhere{http.Header{}}
	r.Header.Set(field, "ann")
	return func(n int) {
		for range n {
			clear(w.header)
			h.ServeHTTP(w, r)
		}
	}
}

func idle(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) })
}

// A link is a handler with a name.
type link struct {
	name string
	wrap func(http.Handler) http.Handler
}

func times(n int, wrap func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		for range n {
			h = wrap(h)
		}
		return h
	}
}

func client(h http.Handler) http.Handler {
	who, err := clientip.New(nil, nil)
	if err != nil {
		panic(failure{err})
	}
	return who.Middleware(h)
}

func discard(context.Context, *capture.Exchange) error { return nil }

func record(h http.Handler) http.Handler {
	return capture.Middleware(capture.SinkFunc(discard), nil)(h)
}

func limits(h http.Handler) http.Handler {
	return limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: quotas[peer.Plenty], Key: limiter.KeyByHeader(field)},
	}, nil)(h)
}

// chain compares the links of the gateway's chain.
func (r *run) chain() section {
	s := section{Section: report.Section{
		ID: "chain", Title: "The chain", Columns: []string{"wall", "cpu_ns", "allocs", "bytes"},
		Text: "One request without a network, through middlewares that do nothing, through each link of the gateway's chain, and through all of them. " +
			"The handler writes 100 bytes of JSON, which capture records for a sink that does nothing; the limit is one rule in memory, by a header field, with header fields of its own.",
	}}
	s.group(r, "links", "application/json", 100, false, []link{
		{bare, times(0, idle)}, {"1 middleware that does nothing", times(1, idle)}, {"5 of them", times(5, idle)}, {"10 of them", times(10, idle)},
		{"clientip", client}, {"capture", record}, {"limiter", limits},
		{"clientip, capture, limiter", func(h http.Handler) http.Handler { return client(record(limits(h))) }},
	})
	return s
}

// captures compares what records or logs responses.
func (r *run) captures() section {
	s := section{Section: report.Section{
		ID: "capture", Title: "Capture", Columns: costColumns,
		Text: "One response, in process, recorded or logged to nowhere. httpsnoop counts bytes and keeps none, so it is what wrapping a response writer costs. " +
			"The body loggers keep bodies as they come; what else they do differs, and weir masks secrets in its second row only.",
	}}
	links := []link{
		{weir, func(h http.Handler) http.Handler {
			return capture.Middleware(capture.SinkFunc(discard), &capture.Options{DangerouslyKeepSecrets: true})(h)
		}},
		{weir + ", secrets masked", record},
		{"httpsnoop, counts bytes", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { httpsnoop.CaptureMetrics(h, w, r) })
		}},
	}
	for _, l := range peer.BodyLoggers {
		links = append(links, link{l.Name, l.Wrap})
	}
	links = append(links, link{bare, times(0, idle)})
	s.group(r, "JSON, 100 bytes", "application/json", 100, false, links)
	s.group(r, "JSON, 64 KiB", "application/json", 64<<10, true, links)
	s.group(r, "image, 64 KiB, not recorded", "image/png", 64<<10, false, links)
	return s
}

// group adds a comparison of links in front of a handler that writes a body.
func (s *section) group(r *run, name, contentType string, size int, check bool, links []link) {
	var rows []string
	for _, l := range links {
		rows = append(rows, l.name)
	}
	s.groups = append(s.groups, group{
		name: name, rows: rows, turns: r.cases().Rounds, check: check,
		measure: func(rows []string) ([]report.Row, error) {
			h := sender(contentType, size)
			var cases []pace.Case
			for _, row := range rows {
				for _, l := range links {
					if l.name == row {
						cases = append(cases, pace.Case{Name: row, Run: requests(l.wrap(h))})
					}
				}
			}
			return rowsOf(pace.Compare(r.cases(), cases...)), nil
		},
	})
}

// sender writes a JSON document of about that size, and calls it what it is told.
func sender(contentType string, size int) http.Handler {
	body := []byte{'['}
	for i := 0; len(body) < size; i++ {
		body = fmt.Appendf(body, `{"id":%d,"name":"ann","tags":["a","b"],"price":1.50,"ok":true},`, i)
	}
	body[len(body)-1] = ']'
	values := []string{contentType}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = values
		for left := body; len(left) > 0; {
			n := min(len(left), 32<<10)
			w.Write(left[:n])
			left = left[n:]
		}
	})
}

// proxies compares ways to forward a request.
func (r *run) proxies() section {
	s := section{Section: report.Section{
		ID: "proxy", Title: "Proxy", Columns: costColumns,
		Text: "One request at a time to an upstream over the loopback, which is in this process and part of every row: the times are those of both, and of the kernel. " +
			"\"Tuned\" is a ReverseProxy with pooled buffers and a Transport that keeps its connections. Whole processes, under load, are the next section.",
	}}
	var rows []string
	for _, p := range proxybench.Peers {
		rows = append(rows, p.Name)
	}
	rows = append(rows, wholeChain)
	for _, c := range []struct {
		name string
		size int
	}{{"1 KiB", 1 << 10}, {"1 MiB, chunked", 1 << 20}} {
		s.groups = append(s.groups, group{
			name: c.name, rows: rows, turns: r.cases().Rounds,
			measure: func(rows []string) ([]report.Row, error) {
				stop, url, err := serve(sender("application/octet-stream", c.size))
				if err != nil {
					return nil, err
				}
				defer stop()
				var cases []pace.Case
				for _, row := range rows {
					for _, p := range proxybench.Peers {
						if p.Name == row {
							cases = append(cases, pace.Case{Name: row, Run: requests(p.New(url))})
						}
						if row == wholeChain && p.Name == weir {
							cases = append(cases, pace.Case{Name: row, Run: requests(client(record(limits(p.New(url)))))})
						}
					}
				}
				return rowsOf(pace.Compare(r.cases(), cases...)), nil
			},
		})
	}
	return s
}

const wholeChain = "clientip, capture, limiter, weir"

func serve(h http.Handler) (stop func(), url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	return func() { srv.Close() }, "http://" + ln.Addr().String(), nil
}

const (
	downloaders  = 4
	downloadSize = 32 << 20
)

// downloadMemory has children serve large downloads, and asks for their memory.
func (r *run) downloadMemory() section {
	s := section{Section: report.Section{
		ID: "downloads", Title: "Memory under large downloads", Columns: []string{"rss"},
		Text: fmt.Sprintf("Peak resident memory of a process that serves attachments of %d MiB to %d clients at once, the clients included, behind what records or logs responses.",
			downloadSize>>20, downloaders),
	}}
	rows := []string{bare, weir}
	for _, l := range peer.BodyLoggers {
		rows = append(rows, l.Name)
	}
	s.groups = append(s.groups, group{
		name: "attachments", rows: rows, turns: 1, check: true,
		measure: func(rows []string) (out []report.Row, err error) {
			for _, name := range rows {
				if !r.step(name) {
					break
				}
				row := report.Row{Name: name}
				c, err := r.child(order{Kind: "downloads", Name: name})
				if err != nil {
					return out, err
				}
				rec, err := c.finish()
				switch {
				case err != nil && r.ctx.Err() != nil:
					return out, nil
				case err != nil:
					row.Note = "died: " + err.Error()
				case rec.RSS == 0:
					row.Note = "its memory is known on Linux only"
				default:
					put(&row, "rss", []float64{float64(rec.RSS)}, 1)
				}
				out = append(out, row)
			}
			return out, nil
		},
	})
	return s
}

// downloads is the child.
func downloads(name string) (rec reckoning, err error) {
	wrap := times(0, idle)
	if name == weir {
		wrap = record
	}
	for _, l := range peer.BodyLoggers {
		if l.Name == name {
			wrap = l.Wrap
		}
	}
	stop, url, err := serve(wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.Itoa(downloadSize))
		h.Set("Content-Disposition", `attachment; filename="big.bin"`)
		piece := make([]byte, 32<<10)
		for range downloadSize / len(piece) {
			w.Write(piece)
		}
	})))
	if err != nil {
		return rec, err
	}
	defer stop()
	var wg sync.WaitGroup
	var failed sync.Map
	for i := range downloaders {
		wg.Go(func() {
			resp, err := http.Get(url)
			if err != nil {
				failed.Store(i, err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != downloadSize {
				failed.Store(i, fmt.Errorf("%d of %d bytes: %w", n, downloadSize, err))
			}
		})
	}
	wg.Wait()
	failed.Range(func(_, e any) bool { err = e.(error); return false })
	rec.RSS = peakRSS()
	return rec, err
}
