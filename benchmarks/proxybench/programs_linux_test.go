package proxybench

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var buildCaddy = flag.Bool("caddy", true, "build Caddy from caddybench, with -measure; without it that of the system is measured, if there is one")

// A program is a proxy that has nothing to do with this module.
type program struct {
	name, file string
	args       []string // and then the name of its configuration
	config     string   // of where it listens, the upstream, a folder for its files, and as whom
}

// programs forward all requests, keep their connections to the upstream, log no
// requests, and are at their defaults else.
var programs = []program{
	{"Caddy", "caddy", []string{"run", "--adapter", "caddyfile", "--config"}, `
{
	admin off
	log {
		level ERROR
	}
}
http://%[1]s {
	reverse_proxy %[2]s
}
`},
	{"nginx", "nginx", []string{"-c"}, `
daemon off;
%[4]s
worker_processes auto;
pid %[3]s/pid;
error_log stderr error;
events {}
http {
	access_log off;
	client_body_temp_path %[3]s/a;
	proxy_temp_path %[3]s/b;
	fastcgi_temp_path %[3]s/c;
	uwsgi_temp_path %[3]s/d;
	scgi_temp_path %[3]s/e;
	upstream u {
		server %[2]s;
		keepalive 64;
	}
	server {
		listen %[1]s;
		location / {
			proxy_pass http://u;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`},
	{"HAProxy", "haproxy", []string{"-db", "-f"}, `
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 60s
frontend f
	bind %[1]s
	default_backend b
backend b
	server s %[2]s
`},
}

// withPrograms adds those programs that are here, and logs which are not.
func withPrograms(t *testing.T, upstream *child, names []string, fronts []*child) ([]string, []*child) {
	t.Helper()
	for _, p := range programs {
		begin := p.start
		if p.name == "Caddy" && *buildCaddy {
			begin = caddybench
		}
		front, err := begin(t, upstream)
		if err != nil {
			t.Logf("%s: not here: %v", p.name, err)
			continue
		}
		names, fronts = append(names, p.name), append(fronts, front)
	}
	return names, fronts
}

// caddybench is Caddy as a module, which is built for this.
func caddybench(t *testing.T, upstream *child) (*child, error) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "caddybench")
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir, cmd.Env = "../caddybench", append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return run(t, exec.Command(program, freeAddr(t), upstream.addr())), nil
}

// start starts the program, if it is installed, and waits until it listens.
func (p program) start(t *testing.T, upstream *child) (*child, error) {
	t.Helper()
	file, err := exec.LookPath(p.file)
	if err != nil {
		if file, err = exec.LookPath("/usr/sbin/" + p.file); err != nil {
			return nil, errors.New("it is not installed")
		}
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // who may write to the folder
	}
	addr, dir := freeAddr(t), t.TempDir()
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, p.config, addr, upstream.addr(), dir, user), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &child{URL: "http://" + addr, cmd: exec.Command(file, append(p.args[:len(p.args):len(p.args)], config)...)}
	c.cmd.Stdout, c.cmd.Stderr = &c.stderr, &c.stderr
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { c.cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		c.cmd.Process.Signal(os.Interrupt) // nginx takes its workers with it
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			c.cmd.Process.Kill()
		}
	})
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return c, nil
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("it ended at once: %v: %s", c.cmd.ProcessState, bytes.TrimSpace(c.stderr.Bytes()))
		case <-t.Context().Done():
			return nil, t.Context().Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// freeAddr returns an address whose port was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
