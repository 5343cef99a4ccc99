package respwriter_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/internal/respwriter"
)

const (
	fileSize = 64 << 20
	wanted   = 64 << 10
)

// sendfileEnv makes the test binary a server and its client, to be watched by
// strace: its value is the name of a handler and a file.
const sendfileEnv = "WEIR_TEST_SENDFILE"

func TestMain(m *testing.M) {
	if value, ok := os.LookupEnv(sendfileEnv); ok {
		if err := sendfileChild(value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func sendfileChild(value string) error {
	name, path, _ := strings.Cut(value, " ")
	kind, name, _ := strings.Cut(name, "-")
	h, ok := fileHandlers(path)[name]
	if !ok {
		return fmt.Errorf("no handler %q", name)
	}
	switch kind {
	case "plain":
		return download(h, path)
	case "paced":
		return download(wrap(h, func() respwriter.Hooks { return &pacer{most: 64 << 10} }), path)
	case "unpaced":
		return download(wrap(h, func() respwriter.Hooks { return &pacer{most: respwriter.Unknown} }), path)
	}
	return download(wrap(h, func() respwriter.Hooks { return &wants{n: wanted} }), path)
}

// fileHandlers are the ways in which a handler sends a file.
func fileHandlers(path string) map[string]http.Handler {
	return map[string]http.Handler{
		"Copy": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(path)
			if err != nil {
				panic(err)
			}
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(fileSize))
			io.Copy(w, f)
		}),
		"ServeContent": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(path)
			if err != nil {
				panic(err)
			}
			defer f.Close()
			http.ServeContent(w, r, path, time.Time{}, f)
		}),
	}
}

// download gets h's answer over TCP and compares it with the file.
func download(h http.Handler, path string) error {
	ts := httptest.NewServer(h)
	defer ts.Close()
	res, err := ts.Client().Get(ts.URL)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, res.Body); n != fileSize || err != nil {
		return fmt.Errorf("got %d bytes, %v, want %d", n, err, fileSize)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	want := sha256.New()
	if _, err := io.Copy(want, f); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("got other bytes than the file's")
	}
	return nil
}

func bigFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.txt")
	if err := os.WriteFile(path, pattern(1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, fileSize); err != nil {
		t.Fatal(err)
	}
	return path
}

// All but the prefix that the hooks want goes to the inner ReadFrom as the file
// that it is.
func TestFileReachesInnerReadFrom(t *testing.T) {
	path := bigFile(t)
	for name, h := range fileHandlers(path) {
		for want, prefix := range map[int]int64{0: 512, wanted: wanted} {
			if name == "ServeContent" && want == 0 {
				prefix = 0 // it calls WriteHeader, so nothing need be read to decide
			}
			t.Run(fmt.Sprintf("%s, want %d", name, want), func(t *testing.T) {
				counter := &fileCounter{}
				counting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					counter.ResponseWriter = w
					wrap(h, func() respwriter.Hooks { return &wants{n: want} }).ServeHTTP(counter, r)
				})
				if err := download(counting, path); err != nil {
					t.Fatal(err)
				}
				if counter.file != fileSize-prefix || counter.other != prefix {
					t.Errorf("ReadFrom got %d bytes of a file and %d of something else, want %d and %d",
						counter.file, counter.other, fileSize-prefix, prefix)
				}
			})
		}
	}
}

// fileCounter counts what comes by ReadFrom.
type fileCounter struct {
	http.ResponseWriter
	file, other int64
}

func (c *fileCounter) ReadFrom(src io.Reader) (int64, error) {
	inner := src
	if lr, ok := src.(*io.LimitedReader); ok {
		inner = lr.R
	}
	// io.Copy has the file hide its WriteTo by a type that is not exported.
	_, isFile := inner.(interface{ Fd() uintptr })
	n, err := c.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
	if isFile {
		c.file += n
	} else {
		c.other += n
	}
	return n, err
}

// TestSendfile asks the kernel: with hooks that want 64 KiB, and with a pacer
// that admits all or 64 KiB at a time, at least 99.9 % of a file go by sendfile.
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
	path := bigFile(t)
	for name := range fileHandlers(path) {
		plain := sendfileBytes(t, strace, "plain-"+name, path)
		for _, kind := range []string{"wanted", "unpaced", "paced"} {
			got := sendfileBytes(t, strace, kind+"-"+name, path)
			t.Logf("%s, %s: %d of %d bytes by sendfile, %d without the wrapper", name, kind, got, fileSize, plain)
			if float64(got) < 0.999*fileSize || got > plain {
				t.Errorf("%s, %s: %d bytes by sendfile, want at least 99.9 %% of %d and no more than the %d without the wrapper", name, kind, got, fileSize, plain)
			}
		}
	}
}

var sendfileResult = regexp.MustCompile(`(?m)sendfile.*\) += (\d+)$`)

// sendfileBytes returns how many bytes a child process sends by sendfile.
func sendfileBytes(t *testing.T, strace, handler, path string) (n int64) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-q", "-e", "trace=sendfile", "-o", trace, os.Args[0])
	cmd.Env = append(os.Environ(), sendfileEnv+"="+handler+" "+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v\n%s", err, out)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range sendfileResult.FindAllSubmatch(text, -1) {
		sent, err := strconv.ParseInt(string(match[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n += sent
	}
	return n
}
