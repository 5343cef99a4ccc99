package demo_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/coder/websocket"
	"github.com/goweir/weir/examples/gateway/internal/demo"
)

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(demo.Handler())
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string) (*http.Response, []byte, error) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, body, err
}

func TestBytesAreTheSameHoweverRead(t *testing.T) {
	const size = 3*8<<10 + 17
	want, err := io.ReadAll(demo.NewBytes(size))
	if err != nil || len(want) != size {
		t.Fatalf("got %d bytes, %v; want %d", len(want), err, size)
	}
	got, err := io.ReadAll(iotest.HalfReader(iotest.OneByteReader(demo.NewBytes(size))))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read byte by byte: %d bytes, %v; want the same as at once", len(got), err)
	}
	if bytes.Equal(want[:8<<10], want[8<<10:16<<10]) {
		t.Error("two blocks are equal")
	}
}

func TestDownload(t *testing.T) {
	s := serve(t)
	for _, tt := range []struct {
		query string
		size  int64
	}{{"", 1 << 20}, {"?size=0", 0}, {"?size=100000", 100000}, {"?size=3KiB", 3 << 10}, {"?size=2MiB", 2 << 20}} {
		res, body, err := get(t, s.URL+"/download"+tt.query)
		want := sha256.New()
		_, _ = io.Copy(want, demo.NewBytes(tt.size))
		if got := sha256.Sum256(body); err != nil || !bytes.Equal(got[:], want.Sum(nil)) {
			t.Errorf("download%s: %d bytes, %v; want the %d bytes of NewBytes", tt.query, len(body), err, tt.size)
		}
		if got, want := res.Header.Get("Content-Length"), strconv.FormatInt(tt.size, 10); got != want {
			t.Errorf("download%s: Content-Length %s, want %s", tt.query, got, want)
		}
	}
	for _, size := range []string{"-1", "17GiB", "1TiB", "x", "9999999999GiB"} {
		if res, _, _ := get(t, s.URL+"/download?size="+size); res.StatusCode != http.StatusBadRequest {
			t.Errorf("download?size=%s: %s, want 400", size, res.Status)
		}
	}
}

func TestEcho(t *testing.T) {
	s := serve(t)
	req, _ := http.NewRequest("PUT", s.URL+"/echo", strings.NewReader(`{"a": [1]}`))
	req.Header.Set("Authorization", "Bearer secret")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if !bytes.Contains(body, []byte(`"body":{"a":[1]}`)) || bytes.Contains(body, []byte("secret")) {
		t.Errorf("got %s, want the body and no secret", body)
	}
}

func TestBrokenEndsInAnError(t *testing.T) {
	s := serve(t)
	for _, query := range []string{"", "?chunked=1"} {
		if _, body, err := get(t, s.URL+"/broken"+query); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("broken%s: %q and %v, want an unexpected EOF", query, body, err)
		}
	}
}

func TestWebSocketEcho(t *testing.T) {
	s := serve(t)
	c, _, err := websocket.Dial(t.Context(), s.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.Read(t.Context()); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v; want hello", got, err)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestSlowAndFail(t *testing.T) {
	s := serve(t)
	for path, want := range map[string]int{
		"/slow?delay=1ms": 200, "/slow?delay=2h": 400, "/slow?delay=-1s": 400, "/fail": 500, "/clocks": 404,
	} {
		if res, _, _ := get(t, s.URL+path); res.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
		}
	}
}
