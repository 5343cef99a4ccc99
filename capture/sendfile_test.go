package capture_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/goweir/weir/capture"
)

// sendfileEnv makes TestSendfileChild a server and its client, to be watched by
// strace: its value is "bare" or "captured", a content type and a file.
const sendfileEnv = "WEIR_TEST_CAPTURE_SENDFILE"

// A file goes by sendfile as without capture: all of a skipped one, and of a
// captured one all but what is captured.
func TestSendfile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("strace is for Linux")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI needs strace (apt-get install strace)")
		}
		t.Skip("strace is not installed: not looking for sendfile")
	}
	const size = 64 << 20
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		contentType string
		less        int64
	}{{"image/png", 0}, {"text/plain", 64<<10 - 512}} { // net/http copies 512 bytes itself
		bare := sendfileBytes(t, strace, "bare "+c.contentType+" "+name)
		got := sendfileBytes(t, strace, "captured "+c.contentType+" "+name)
		t.Logf("%s: %d of %d bytes by sendfile, %d without capture", c.contentType, got, size, bare)
		if got != bare-c.less || bare < size-512 {
			t.Errorf("%s: %d bytes by sendfile, want %d less than the %d without capture", c.contentType, got, c.less, bare)
		}
	}
}

var sendfileResult = regexp.MustCompile(`(?m)sendfile.*\) += (\d+)$`)

// sendfileBytes returns how many bytes a child process sends by sendfile.
func sendfileBytes(t *testing.T, strace, how string) (n int64) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-q", "-e", "trace=sendfile", "-o", trace,
		os.Args[0], "-test.run=^TestSendfileChild$")
	cmd.Env = append(os.Environ(), sendfileEnv+"="+how)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v\n%s", err, out)
	}
	for _, match := range sendfileResult.FindAllSubmatch(must(os.ReadFile(trace)), -1) {
		n += must(strconv.ParseInt(string(match[1]), 10, 64))
	}
	return n
}

func TestSendfileChild(t *testing.T) {
	how, ok := os.LookupEnv(sendfileEnv)
	if !ok {
		t.Skip("runs as a child of TestSendfile")
	}
	parts := strings.SplitN(how, " ", 3)
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := must(os.Open(parts[2]))
		defer f.Close()
		w.Header().Set("Content-Type", parts[1])
		w.Header().Set("Content-Length", fmt.Sprint(must(f.Stat()).Size())) // in chunks nothing goes by sendfile
		io.Copy(w, f)
	})
	if parts[0] == "captured" {
		h = capture.Middleware(capture.SinkFunc(discard), nil)(h)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}

// writeCounter is a listener whose connections note the size of each write.
type writeCounter struct {
	net.Listener
	mu    sync.Mutex
	sizes []int
}

func (l *writeCounter) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countedConn{c, l}, err
}

type countedConn struct {
	net.Conn
	l *writeCounter
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.l.mu.Lock()
	c.l.sizes = append(c.l.sizes, len(p))
	c.l.mu.Unlock()
	return c.Conn.Write(p)
}

// A response reaches the connection with the same calls of Write as without
// capture, whether it is captured or skipped. Only io.Copy into an answer whose
// header was not sent yet has them in other places: the first bytes are read
// apart there, because they decide whether there is one.
func TestWritesAreThoseWithoutCapture(t *testing.T) {
	piece := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	for way, send := range map[string]func(w http.ResponseWriter){
		"small": func(w http.ResponseWriter) { w.Write(piece(10)) },
		"pieces": func(w http.ResponseWriter) {
			for i := range 50 {
				w.Write(piece(i * 100))
			}
		},
		"copied":  func(w http.ResponseWriter) { io.Copy(w, io.LimitReader(zeros{}, 300_000)) },
		"strings": func(w http.ResponseWriter) { io.WriteString(w, string(piece(100_000))) },
		"flushed": func(w http.ResponseWriter) {
			for range 5 {
				w.Write(piece(700))
				w.(http.Flusher).Flush()
			}
		},
		"header only": func(w http.ResponseWriter) { w.WriteHeader(204) },
		"nothing":     func(http.ResponseWriter) {},
	} {
		for _, contentType := range []string{"application/json", "image/png", ""} {
			serve := func(wrap func(http.Handler) http.Handler) []int {
				l := &writeCounter{Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
				srv := &http.Server{Handler: wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if contentType != "" {
						w.Header().Set("Content-Type", contentType)
					}
					w.Header().Set("Date", "Sat, 21 Nov 2026 18:00:00 GMT")
					send(w)
				}))}
				go srv.Serve(l)
				defer srv.Close()
				tr := new(http.Transport)
				defer tr.CloseIdleConnections()
				resp, err := tr.RoundTrip(must(http.NewRequest("GET", fmt.Sprint("http://", l.Addr()), nil)))
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.sizes
			}
			bare := serve(func(h http.Handler) http.Handler { return h })
			got := serve(capture.Middleware(capture.SinkFunc(discard), nil))
			same := slices.Equal(got, bare)
			if way == "copied" {
				same = len(got) == len(bare)
			}
			if !same || len(bare) == 0 {
				t.Errorf("%s, %q: written in pieces of %v, without capture %v", way, contentType, got, bare)
			}
		}
	}
}
