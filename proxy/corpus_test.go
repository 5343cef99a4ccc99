package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goweir/weir/proxy"
)

// A specimen is what a client sends on one connection, and what comes of it.
type specimen struct {
	name string

	// raw is what is sent: ¶ stands for CR LF, ␊ for LF alone, and ⟨x×3⟩ for xxx.
	raw string

	// answers are the statuses that come back, and whether the connection then
	// serves a further request ("open") or not ("closed").
	answers string

	// upstream is what arrives there: method and target of each request, with
	// the length of a body. Nothing: no request arrives, or one that breaks off
	// within its body, as the client's does.
	upstream string

	// bare is what arrives there through a bare ReverseProxy, where that is
	// worse, with what is wrong in it behind a !. Empty: not looked at.
	bare string
}

var notation = regexp.MustCompile(`⟨([^×]*)×(\d+)⟩`)

func expand(raw string) string {
	raw = notation.ReplaceAllStringFunc(raw, func(m string) string {
		part := notation.FindStringSubmatch(m)
		n, _ := strconv.Atoi(part[2])
		return strings.Repeat(part[1], n)
	})
	return strings.NewReplacer("¶", "\r\n", "␊", "\n").Replace(raw)
}

// A message is a request as it arrived, byte for byte.
type message struct {
	line   string
	fields []string
	body   int
	cut    bool   // the connection ended before it did
	wrong  string // how it breaks HTTP/1.1, if it does
}

// field returns the values of all fields of this name.
func (m *message) field(name string) (values []string) {
	for _, f := range m.fields {
		if n, v, _ := strings.Cut(f, ":"); strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

var errLine = errors.New("a line is not ended by CR LF alone")

// readStrictly reads a request and takes nothing for granted that RFC 9112 does
// not grant. It has no code in common with net/http.
func readStrictly(br *bufio.Reader) (*message, error) {
	line := func() (string, error) {
		s, err := br.ReadString('\n')
		if err != nil {
			return s, err
		}
		text, ok := strings.CutSuffix(s, "\r\n")
		if !ok || strings.ContainsAny(text, "\r\n\x00") {
			return text, errLine
		}
		return text, nil
	}
	m := &message{}
	end := func(err error, wrong string) (*message, error) {
		if m.cut = err != nil && err != errLine; !m.cut {
			m.wrong = wrong
		}
		return m, nil
	}
	var err error
	if m.line, err = line(); err != nil {
		if m.line == "" {
			return nil, err
		}
		return end(err, "request line")
	}
	for {
		f, err := line()
		if err != nil || f != "" && (f[0] == ' ' || f[0] == '\t' || !strings.Contains(f, ":")) {
			return end(err, "folded or no field")
		}
		if f == "" {
			break
		}
		m.fields = append(m.fields, f)
	}
	lengths, codings := m.field("Content-Length"), m.field("Transfer-Encoding")
	switch {
	case len(lengths)+len(codings) > 1:
		return end(nil, "framed twice")
	case len(codings) == 1 && codings[0] != "chunked":
		return end(nil, "coding "+codings[0])
	case len(codings) == 1:
		for {
			size, err := line()
			if err != nil {
				return end(err, "chunk size")
			}
			n, err := strconv.ParseUint(size, 16, 31)
			if err != nil {
				return end(nil, "chunk size "+size)
			}
			if _, err := br.Discard(int(n)); err != nil {
				return end(err, "")
			}
			if rest, err := line(); err != nil || rest != "" {
				return end(err, "chunk without an end, or a trailer")
			}
			if m.body += int(n); n == 0 {
				return m, nil
			}
		}
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 31)
		if err != nil {
			return end(nil, "length "+lengths[0])
		}
		if m.body, err = br.Discard(int(n)); err != nil {
			return end(err, "")
		}
	}
	return m, nil
}

// faults says what the guard should not have let through.
func (m *message) faults(host string) (faults []string) {
	is := func(bad bool, what string) {
		if bad {
			faults = append(faults, what)
		}
	}
	is(m.wrong != "", m.wrong)
	part := strings.Split(m.line, " ")
	if len(part) != 3 || part[2] != "HTTP/1.1" {
		return append(faults, "request line")
	}
	method, target := part[0], part[1]
	path, query, _ := strings.Cut(target, "?")
	decoded, err := url.PathUnescape(path)
	is(err != nil || !strings.HasPrefix(path, "/base/"), "outside the base")
	is(slowDots(decoded), "dot segments")
	is(strings.ContainsAny(query, ";"), "query")
	is(method == "CONNECT", "CONNECT")
	is(!slices.Equal(m.field("Host"), []string{host}), "Host")
	upgrade := m.field("Upgrade")
	is(len(upgrade) > 0 && (!slices.Equal(upgrade, []string{"websocket"}) && !slices.Equal(upgrade, []string{"WEBSOCKET"}) || method != "GET" || m.body > 0), "Upgrade")
	for _, c := range m.field("Connection") {
		is(len(upgrade) == 0 || c != "Upgrade", "Connection")
	}
	for _, name := range []string{"HTTP2-Settings", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Trailer", "X-Secret"} {
		is(len(m.field(name)) > 0, name)
	}
	for _, te := range m.field("TE") {
		is(te != "trailers", "TE")
	}
	for _, f := range m.fields {
		name, _, _ := strings.Cut(f, ":")
		plain := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
		if strings.HasPrefix(plain, "x-forwarded") || plain == "forwarded" || plain == "x-real-ip" {
			switch name {
			case "X-Forwarded-For":
				is(f != name+": 127.0.0.1", name)
			case "X-Forwarded-Proto":
				is(f != name+": http", name)
			case "X-Forwarded-Host":
				is(strings.Contains(f, "evil"), name)
			default:
				is(true, name)
			}
		}
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
		is(len(m.field(name)) != 1, "not one "+name)
	}
	return faults
}

func (m *message) String() string {
	s := strings.TrimSuffix(m.line, " HTTP/1.1")
	if len(s) > 200 {
		s = fmt.Sprintf("%s... %d bytes", s[:20], len(s))
	}
	if m.body > 0 {
		s += fmt.Sprintf(" +%d", m.body)
	}
	return s
}

// A record is an upstream that writes down what arrives.
type record struct {
	url  string
	host string
	mu   sync.Mutex
	seen []*message
}

func newRecord(t *testing.T) *record {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &record{url: "http://" + l.Addr().String(), host: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					m, err := readStrictly(br)
					if err != nil {
						return
					}
					u.mu.Lock()
					u.seen = append(u.seen, m)
					u.mu.Unlock()
					if m.wrong != "" || m.cut {
						return // what follows cannot be told
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return u
}

// take returns what has arrived wholly since, and what is wrong with it.
func (u *record) take() (seen string, faults []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []string
	for _, m := range u.seen {
		if m.cut || strings.HasSuffix(m.line, "/sentinel HTTP/1.1") {
			continue
		}
		wrong := m.faults(u.host)
		faults = append(faults, wrong...)
		all = append(all, strings.Join(append([]string{m.String()}, wrong...), " !"))
	}
	u.seen = nil
	return strings.Join(all, "; "), faults
}

const sentinel = "/sentinel"

// converse sends raw to a server, reads so many answers, and says how the
// connection is left.
func converse(t *testing.T, server, raw, prefix string, n int) (answers string) {
	t.Helper()
	c := dial(t, server)
	defer c.Close()
	method, _, _ := strings.Cut(raw, " ")
	go io.WriteString(c, raw)
	var got []string
	for range n {
		res, err := http.ReadResponse(c.br, &http.Request{Method: method})
		if err != nil {
			return strings.Join(append(got, err.Error()), " ")
		}
		got = append(got, strconv.Itoa(res.StatusCode))
		io.Copy(io.Discard, res.Body)
		method = "GET"
	}
	// An upstream that was sent two requests for one has read the second by the
	// time it has answered this, and an answer that nobody asked for comes first.
	io.WriteString(c, "GET "+prefix+sentinel+" HTTP/1.1\r\nHost: a\r\n\r\n")
	switch res, err := http.ReadResponse(c.br, nil); {
	case err != nil:
		return strings.Join(append(got, "closed"), " ")
	case res.StatusCode != 200:
		return strings.Join(append(got, "open", res.Status), " ")
	}
	return strings.Join(append(got, "open"), " ")
}

// TestCorpus sends malformed, ambiguous and hostile requests as they are. The
// upstream must see what the table says, and nothing in it that the front door
// should have kept out; through a bare ReverseProxy, where a row has a word on
// it, something else arrives.
func TestCorpus(t *testing.T) {
	noLeaks(t)
	rows, worse := 0, 0
	for about, specimens := range corpus {
		t.Run(about, func(t *testing.T) {
			up := newRecord(t)
			prefix := ""
			var without http.Handler = bare(t, up.url+"/base")
			if about == "prefix" {
				prefix = "/api"
				without = http.StripPrefix(prefix, without)
			}
			s := serve(t, newProxy(t, func(cfg *proxy.Config) {
				cfg.StripPrefix = prefix
				cfg.Timeouts.ExpectContinue = time.Millisecond // this upstream never says 100
			}, up.url+"/base"))
			b := serve(t, without)
			for _, row := range specimens {
				rows++
				raw := expand(row.raw)
				answers := strings.Fields(row.answers)
				if got := converse(t, s.URL, raw, prefix, len(answers)-1); got != row.answers {
					t.Errorf("%s: client got %q, want %q", row.name, got, row.answers)
				}
				if strings.HasSuffix(row.answers, "closed") {
					// Whatever is left on a connection to the upstream comes
					// before this.
					converse(t, s.URL, "", prefix, 0)
				}
				seen, faults := up.take()
				if seen != row.upstream {
					t.Errorf("%s: upstream saw %q, want %q", row.name, seen, row.upstream)
				}
				if len(faults) > 0 {
					t.Errorf("%s: upstream saw %q", row.name, faults)
				}
				if row.bare == "" {
					continue
				}
				worse++
				converse(t, b.URL, raw, prefix, 1)
				if seen, _ := up.take(); seen != row.bare || seen == row.upstream {
					t.Errorf("%s: through a bare ReverseProxy the upstream saw %q, not %q; the trap is closed upstream", row.name, seen, row.bare)
				}
			}
		})
	}
	t.Logf("%d rows; in %d of them bare ReverseProxy lets through what should not pass", rows, worse)
	if rows < 200 {
		t.Errorf("%d rows, want at least 200", rows)
	}
}
