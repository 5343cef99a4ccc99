package capture_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

func TestTrapCapture16_TheServersRequestIsUntouched(t *testing.T) {
	// Expect: 100-continue, refused without reading: with the server's own
	// Body replaced, net/http would wait for a body that never comes.
	refused, uploaded, took := expectContinue(t)
	if refused != 401 || uploaded != 0 || took > 20*time.Second {
		t.Errorf("status %d, %d bytes uploaded, after %v", refused, uploaded, took)
	}

	r := post("application/json", "{}")
	body, ctx := r.Body, r.Context()
	record(t, nil, r, func(w http.ResponseWriter, r2 *http.Request) {
		if r2 == r || r2.Body == body {
			t.Error("the handler got the server's request, or its body")
		}
		if r.Body != body || r.Context() != ctx {
			t.Error("the server's request was changed")
		}
	})
	if r.Body != body {
		t.Error("the server's request has another Body afterwards")
	}
}

// expectContinue uploads 32 MiB with Expect: 100-continue to a handler that
// answers 401 at once.
func expectContinue(t *testing.T) (status int, uploaded int64, took time.Duration) {
	t.Helper()
	_, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	})
	tr := &http.Transport{ExpectContinueTimeout: 30 * time.Second}
	defer tr.CloseIdleConnections()
	body := &countingReader{r: io.LimitReader(zeros{}, 32<<20)}
	r := must(http.NewRequest("POST", srv.URL, body))
	r.ContentLength = 32 << 20
	r.Header.Set("Expect", "100-continue")
	r.Header.Set("Content-Type", "application/json")
	start := time.Now()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	took = time.Since(start)
	resp.Body.Close()
	return resp.StatusCode, body.n.Load(), took
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func TestTrapCapture17_MultipartFormAndPatternComeBack(t *testing.T) {
	for _, end := range []string{"return", "panic"} {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		var atEnd string
		mux := http.NewServeMux()
		mux.HandleFunc("POST /up", func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseMultipartForm(1); err != nil {
				t.Error(err)
			}
			if files, _ := os.ReadDir(dir); len(files) != 1 {
				t.Errorf("%s: %d temporary files while the handler runs, want 1", end, len(files))
			}
			if end == "panic" {
				panic("boom")
			}
		})
		s := newShelf()
		captured := capture.Middleware(s, nil)(mux)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// net/http removes the files only of a handler that did not panic,
			// so whoever recovers counts on the form to be there.
			defer func() {
				recover()
				atEnd = r.Pattern
			}()
			captured.ServeHTTP(w, r)
		}))
		var form bytes.Buffer
		mw := multipart.NewWriter(&form)
		fw := must(mw.CreateFormFile("f", "big.bin"))
		fw.Write(make([]byte, 11<<20)) // more than net/http keeps in memory
		mw.Close()
		resp, err := srv.Client().Post(srv.URL+"/up", mw.FormDataContentType(), &form)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		srv.Close()
		x := s.next(t)
		if files, _ := os.ReadDir(dir); len(files) != 0 {
			t.Errorf("%s: %d temporary files left", end, len(files))
		}
		if atEnd != "POST /up" || x.Route != "POST /up" || x.Request.Body.Skipped != capture.SkipMultipart {
			t.Errorf("%s: pattern %q, route %q, skipped %q", end, atEnd, x.Route, x.Request.Body.Skipped)
		}
	}
}

// untouchable is a body that must not be read.
type untouchable struct {
	t      *testing.T
	closed int
}

func (b *untouchable) Read([]byte) (int, error) {
	b.t.Error("the body was read")
	return 0, io.EOF
}

func (b *untouchable) Close() error { b.closed++; return errors.New("close") }

func TestTrapCapture18_NothingIsReadOrDrained(t *testing.T) {
	r := get("/")
	r.Method, r.Body, r.ContentLength = "POST", &untouchable{t: t}, 10
	r.Header.Set("Content-Type", "application/json")
	x, _ := record(t, nil, r, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
	})
	if b := x.Request.Body; b.Complete || b.Size != 0 || b.Declared != 10 {
		t.Errorf("recorded %+v", b)
	}
	// Half read is not complete, and the rest stays where it was.
	r = post("text/plain", "0123456789")
	rest := r.Body
	x, _ = record(t, nil, r, func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 4)
	})
	if b := x.Request.Body; b.Complete || b.Size != 4 || captured(b) != "0123" {
		t.Errorf("recorded %+v %q", b, captured(b))
	}
	if left, _ := io.ReadAll(rest); string(left) != "456789" {
		t.Errorf("%q left", left)
	}
}

func TestTrapCapture19_CloseNoBodyAndLengthSurvive(t *testing.T) {
	body := &untouchable{t: t}
	r := get("/")
	r.Method, r.Body, r.ContentLength = "POST", body, 7
	record(t, nil, r, func(w http.ResponseWriter, r *http.Request) {
		if err := r.Body.Close(); err == nil || err.Error() != "close" || body.closed != 1 {
			t.Errorf("Close returned %v, inner closed %d times", err, body.closed)
		}
		if r.ContentLength != 7 {
			t.Errorf("ContentLength %d", r.ContentLength)
		}
	})
	for _, none := range []io.ReadCloser{http.NoBody, nil} {
		r := get("/")
		r.Body = none
		x, _ := record(t, nil, r, func(w http.ResponseWriter, r *http.Request) {
			if r.Body != none {
				t.Errorf("Body %v became %v", none, r.Body)
			}
		})
		if b := x.Request.Body; !b.Complete || b.Skipped != capture.SkipNoBody {
			t.Errorf("recorded %+v", b)
		}
	}
	// Trailers that were not announced appear with the end of the body, in the
	// server's request only.
	s, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if got := r.Trailer.Get("X-Sum"); got != "42" {
			t.Errorf("the handler sees trailer %q", got)
		}
	})
	c := must(dial(srv.URL))
	defer c.Close()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\nX-Sum: 42\r\nX-Token: hidden\r\n\r\n")
	x := s.next(t)
	if got := fmt.Sprint(x.Request.Trailer); got != "[{X-Sum 42} {X-Token REDACTED}]" || !x.Request.Body.Complete {
		t.Errorf("recorded trailer %v, complete %v", got, x.Request.Body.Complete)
	}
}

// net/http gives every HTTP/2 request a Body, also those that have none.
func TestRequestBodiesAreRecordedAlikeOverHTTP2(t *testing.T) {
	record := func(h2 bool, method, declared string, body io.Reader, reads bool) string {
		s := newShelf()
		srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if reads {
				io.Copy(io.Discard, r.Body)
			}
			panic(http.ErrAbortHandler)
		})))
		srv.Config.ErrorLog = discardLog()
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		defer srv.Close()
		r := must(http.NewRequest(method, srv.URL, body))
		r.Header.Set("Content-Type", "application/json")
		if declared == "no" && body != nil {
			r.ContentLength = -1
		}
		if resp, err := srv.Client().Do(r); err == nil {
			resp.Body.Close()
		}
		x := s.next(t)
		if want := "HTTP/1.1"; (x.Proto == want) == h2 {
			t.Fatalf("HTTP/2 %v: the request came as %s", h2, x.Proto)
		}
		b := x.Request.Body
		return fmt.Sprintf("size %d of %d, complete %v, captured %q, skipped %q, ended in %s", b.Size, b.Declared, b.Complete, captured(b), b.Skipped, x.Phase)
	}
	for _, c := range []struct {
		method, declared, body string
		reads                  bool
		want                   string
	}{
		{"GET", "no", "", false, `size 0 of -1, complete true, captured "", skipped "no_body", ended in waiting`},
		{"GET", "no", "", true, `size 0 of -1, complete true, captured "", skipped "no_body", ended in waiting`},
		{"POST", "yes", "", false, `size 0 of 0, complete true, captured "", skipped "no_body", ended in waiting`},
		{"POST", "yes", "{}", false, `size 0 of 2, complete false, captured "", skipped "", ended in request`},
		{"POST", "yes", "{}", true, `size 2 of 2, complete true, captured "{}", skipped "", ended in waiting`},
		{"POST", "no", "{}", true, `size 2 of -1, complete true, captured "{}", skipped "", ended in waiting`},
	} {
		for _, h2 := range []bool{false, true} {
			var body io.Reader
			if c.body != "" {
				body = strings.NewReader(c.body)
			}
			if got := record(h2, c.method, c.declared, body, c.reads); got != c.want {
				t.Errorf("HTTP/2 %v, %+v:\ngot  %s\nwant %s", h2, c, got, c.want)
			}
		}
	}
}

func TestTrapCapture20_MaxBytesReaderSpeaksForItself(t *testing.T) {
	check := func(where string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if where == "inside" {
				r.Body = http.MaxBytesReader(w, r.Body, 4)
			}
			body, err := io.ReadAll(r.Body)
			tooLarge, ok := errors.AsType[*http.MaxBytesError](err)
			if string(body) != "0123" || !ok || tooLarge.Limit != 4 {
				t.Errorf("%s: read %q, %v", where, body, err)
			}
			http.Error(w, "too large", 413)
		}
	}
	x, _ := record(t, nil, post("text/plain", "0123456789"), check("inside"))
	if x.Outcome != capture.OutcomeOK || x.Request.Body.Complete {
		t.Errorf("inside: %s, %+v", x.Outcome, x.Request.Body)
	}
	r := post("text/plain", "0123456789")
	r.Body = http.MaxBytesReader(httptest.NewRecorder(), r.Body, 4)
	x, _ = record(t, nil, r, check("outside"))
	if b := x.Request.Body; x.Outcome != capture.OutcomeOK || b.Complete || b.Size != 4 || captured(b) != "0123" {
		t.Errorf("outside: %s, %+v", x.Outcome, b)
	}
}

// Without the helper the connection survives a short rest of a body that was too
// large, as behind every wrapper.
func TestTrapCapture20_MaxBytesReaderClosesTheConnection(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s := newShelf()
		other := func(next http.Handler) http.Handler { // another middleware between
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(&unwrapper{w}, r)
			})
		}
		srv := httptest.NewUnstartedServer(capture.Middleware(s, nil)(other(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = capture.MaxBytesReader(w, r.Body, 4)
			if _, err := io.ReadAll(r.Body); err == nil {
				t.Error("the body was not refused")
			}
			http.Error(w, "too large", 413)
		}))))
		srv.EnableHTTP2 = h2
		srv.StartTLS()
		resp, err := srv.Client().Post(srv.URL, "text/plain", strings.NewReader(strings.Repeat("x", 1000)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		srv.Close()
		if resp.StatusCode != 413 || resp.Close == h2 { // HTTP/2 has no such need
			t.Errorf("HTTP/2 %v: %d, connection closed: %v", h2, resp.StatusCode, resp.Close)
		}
		if x := s.next(t); x.Outcome != capture.OutcomeOK || x.Request.Body.Complete || x.Request.Body.Size < 4 {
			t.Errorf("recorded %s, %+v", x.Outcome, x.Request.Body)
		}
	}
}

type unwrapper struct{ http.ResponseWriter }

func (w *unwrapper) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// slowBody may be read and closed at the same time, as net/http's.
type slowBody struct{ mu sync.Mutex }

func (b *slowBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return copy(p, "x"), nil
}
func (b *slowBody) Close() error { b.mu.Lock(); defer b.mu.Unlock(); return nil }

func TestTrapCapture21_ReadAtTheSameTimeAndAfterwards(t *testing.T) {
	budget := capture.NewBudget(1 << 20)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		r := get("/")
		r.Method, r.Body, r.ContentLength = "POST", new(slowBody), -1
		r.Header.Set("Content-Type", "text/plain")
		x, _ := record(t, &capture.Options{Budget: budget}, r, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			started := make(chan struct{})
			wg.Go(func() { // as a proxy's transport does
				buf := make([]byte, 10)
				for i := 0; ; i++ {
					r.Body.Read(buf)
					if i == 10 {
						close(started)
					}
					select {
					case <-stop:
						return
					default:
						runtime.Gosched()
					}
				}
			})
			io.WriteString(w, "response")
			<-started
			r.Body.Close()
		})
		if x.Request.Body.Size < 10 || x.Request.Body.Complete {
			t.Errorf("recorded %+v", x.Request.Body)
		}
		if got := captured(x.Request.Body); strings.Trim(got, "x") != "" {
			t.Errorf("captured %q", got)
		}
	}
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes of budget held by bodies still read", n)
	}
	close(stop)
	wg.Wait()
	if n := budget.InUse(); n != 0 {
		t.Errorf("%d bytes of budget taken after the end", n)
	}
}

func TestTrapCapture22_HugeUploadIsCounted(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	budget := capture.NewBudget(1 << 20)
	for _, c := range []struct {
		contentType string
		held        int64
		captured    int
		skip        capture.SkipReason
	}{
		{"application/octet-stream", 0, 0, capture.SkipContentType},
		{"application/json", 64<<10 + 512, 64 << 10, capture.SkipCap},
	} {
		r := httptest.NewRequest("POST", "/", io.LimitReader(zeros{}, size))
		r.Header.Set("Content-Type", c.contentType)
		opts := &capture.Options{Budget: budget, DangerouslyKeepSecrets: true} // zeros are no JSON
		x, _ := record(t, opts, r, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if n := budget.InUse(); n != c.held {
				t.Errorf("%s: %d bytes held, want %d", c.contentType, n, c.held)
			}
		})
		if b := x.Request.Body; b.Size != size || b.Len() != c.captured || b.Skipped != c.skip || !b.Complete {
			t.Errorf("%s: %+v, captured %d", c.contentType, b, b.Len())
		}
	}
}

func TestDefectCapture_UploadArrivesWhole(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	want := sha256.Sum256(data)
	_, srv := server(t, nil, func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if n != int64(len(data)) || err != nil || [32]byte(h.Sum(nil)) != want || r.ContentLength != n {
			t.Errorf("handler read %d bytes, %v", n, err)
		}
	})
	resp, err := srv.Client().Post(srv.URL, "application/json", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestDefectCapture_ExpectContinueAndRefuse(t *testing.T) {
	if status, uploaded, took := expectContinue(t); status != 401 || uploaded != 0 || took > 20*time.Second {
		t.Errorf("status %d, %d bytes uploaded, after %v", status, uploaded, took)
	}
}

func TestDefectCapture_RejectedUploadIsNotDrained(t *testing.T) {
	body := &countingReader{r: io.LimitReader(zeros{}, 512<<20)}
	r := httptest.NewRequest("POST", "/", body)
	r.Header.Set("Content-Type", "application/json")
	x, _ := record(t, nil, r, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) })
	if n := body.n.Load(); n != 0 || x.Request.Body.Size != 0 {
		t.Errorf("%d bytes were read, %d recorded; want 0", n, x.Request.Body.Size)
	}
}
