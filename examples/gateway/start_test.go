package main_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What cannot be started says why in one line, or in one line for each fault,
// and starts nothing.
func TestCannotStart(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := filepath.Join(dir, "bad.yaml")
	writeFile(t, bad, `listen: nowhere
routes:
  - path: /a
    upstream: ["http://127.0.0.1:9001"]
    limits:
      - {name: client, key: ip, rate: ten}
`)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string // the beginnings of the lines
	}{
		{"bad configuration", []string{"-config", bad}, 2, []string{
			"weir gateway: nothing was started",
			bad + ":1:9: listen: ",
			bad + `:3:5: routes[0]: "upstreams" is missing`,
			bad + `:4:5: routes[0]: unknown field "upstream": did you mean upstreams?`,
			bad + ":6:39: routes[0].limits[0].rate: ",
		}},
		{"bad flags", []string{"-redis", "redis://127.0.0.1", "-config", bad, "-upstream", "http://127.0.0.1:1", "more"}, 2, []string{
			"weir gateway: nothing was started",
			`unexpected argument "more"`,
			"-config and -upstream exclude each other",
			bad + ":1:9: listen: ",
			bad + ":3:5: ",
			bad + ":4:5: ",
			bad + ":6:39: ",
		}},
		{"unknown flag", []string{"-nope"}, 2, []string{"weir gateway: nothing was started", "flag provided but not defined: -nope"}},
		{"bad address", []string{"-listen", "8080"}, 2, []string{"weir gateway: nothing was started", `invalid value "8080" for flag -listen: `}},
		{"bad upstream", []string{"-upstream", "localhost"}, 2, []string{"weir gateway: nothing was started", `invalid value "localhost" for flag -upstream: `}},
		{"bad redis", []string{"-listen", "127.0.0.1:0", "-redis", "127.0.0.1:6379"}, 2, []string{"weir gateway: nothing was started", "redis.url: this is no URL; allowed: redis://"}},
		{"port taken", []string{"-listen", taken.Addr().String(), "-audit", filepath.Join(dir, "unused.jsonl")}, 1, []string{
			"weir gateway: listen tcp " + taken.Addr().String() + ": bind: address already in use",
		}},
		{"no such file", []string{"-config", filepath.Join(dir, "none.yaml")}, 1, []string{
			"weir gateway: open " + filepath.Join(dir, "none.yaml") + ": no such file or directory",
		}},
		{"configuration is a directory", []string{"-config", dir}, 1, []string{"weir gateway: read " + dir + ": is a directory"}},
		{"unwritable audit", []string{"-listen", "127.0.0.1:0", "-audit", filepath.Join(dir, "none", "audit.jsonl")}, 1, []string{
			"weir gateway: cannot record exchanges: capture: open " + filepath.Join(dir, "none", "audit.jsonl") + ": no such file or directory",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := spawn(t, tt.args...)
			if code := g.wait(t); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if out := g.stdout.String(); out != "" {
				t.Errorf("standard output is %q, want nothing", out)
			}
			lines := strings.Split(strings.TrimSuffix(g.stderr.String(), "\n"), "\n")
			for i, line := range lines {
				if i >= len(tt.want) || !strings.HasPrefix(line, tt.want[i]) {
					t.Errorf("line %d is %q", i, line)
				}
			}
			if len(lines) != len(tt.want) {
				t.Errorf("%d lines, want these %d: %q", len(lines), len(tt.want), tt.want)
			}
			if files, _ := os.ReadDir(g.cmd.Dir); len(files) > 0 {
				t.Errorf("it left %v behind", files)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "unused.jsonl")); err == nil {
		t.Error("an audit file was made although the port was taken")
	}
}

func TestHelp(t *testing.T) {
	g := spawn(t, "-h")
	if code := g.wait(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for _, name := range []string{"-listen", "-config", "-upstream", "-audit", "-redis"} {
		if !strings.Contains(g.stderr.String(), name) {
			t.Errorf("the help does not name %s", name)
		}
	}
}

// -upstream forwards everything there, recorded and unlimited.
func TestUpstreamFlag(t *testing.T) {
	upstream := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte(r.URL.RequestURI()))
	})
	g := start(t, "", "-upstream", upstream+"/base")
	for range 20 {
		if _, body := get(t, g.URL+"/a%2Fb/c?d=e"); string(body) != "/base/a%2Fb/c?d=e" {
			t.Errorf("the upstream was asked for %s", body)
		}
	}
	records := g.stop(t)
	if len(records) != 20 || records[0].Response.Body == "" {
		t.Errorf("%d records, want 20 with bodies", len(records))
	}
}

// What is printed for the configuration that is built in works as printed, and
// so does what it mentions.
func TestTour(t *testing.T) {
	g := spawn(t, "-listen", "127.0.0.1:0", "-audit", filepath.Join(t.TempDir(), "audit.jsonl"))
	g.awaitListening(t, g.stdout)
	for !strings.Contains(g.stdout.String(), "Ctrl-C ends it") { // its last words
		select {
		case <-g.ended:
			t.Fatalf("the gateway ended after\n%s", g.stdout)
		case <-time.After(time.Millisecond):
		}
	}
	_, tour, _ := strings.Cut(g.stdout.String(), "Try,")
	urls := regexp.MustCompile(`http://[^\s';]+`).FindAllString(tour, -1)
	if got := strings.Count(tour, "  curl ") + strings.Count(tour, "  for "); got != 5 {
		t.Errorf("%d lines to try, want 5:\n%s", got, tour)
	}
	for _, path := range []string{"/slow?delay=1ms", "/fail"} {
		urls = append(urls, g.URL+path)
	}
	for _, url := range urls {
		res := open(t, url)
		want := 200
		if strings.HasSuffix(url, "/fail") {
			want = 500
		}
		if res.StatusCode != want {
			t.Errorf("%s: %s, want %d", url, res.Status, want)
		}
		if _, err := res.Body.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if strings.Contains(url, "/broken") {
			if _, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%s has a clean end", url)
			}
		}
		res.Body.Close()
	}
	webSocketEcho(t, g.URL+"/ws")
}
