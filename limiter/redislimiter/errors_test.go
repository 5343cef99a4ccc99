package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

func still(name string, n int) limiter.Policy {
	return limiter.Policy{Name: name, Limit: n, Window: 1000 * time.Hour}
}

func charge(p limiter.Policy, key string, cost int) limiter.Charge {
	return limiter.Charge{Policy: p, Key: key, Cost: cost}
}

func take(t testing.TB, l limiter.Limiter, c limiter.Charge) limiter.Result {
	t.Helper()
	r, err := l.Take(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// remaining looks without taking.
func remaining(t testing.TB, l limiter.Limiter, c limiter.Charge, want int) {
	t.Helper()
	c.Cost = 0
	if r := take(t, l, c); r.Remaining != want {
		t.Errorf("%+v remain, want %d", r, want)
	}
}

// fails expects an error of exactly one kind, from every method.
func fails(t *testing.T, l *redislimiter.Limiter, want error) {
	t.Helper()
	c := charge(still("p", 5), "k", 1)
	r := limiter.Result{Receipt: limiter.Receipt{Paid: 1, Until: 1 << 52, Given: 0}}
	for name, f := range map[string]func(context.Context) error{
		"Take":    func(ctx context.Context) error { _, err := l.Take(ctx, c); return err },
		"TakeAll": func(ctx context.Context) error { _, err := l.TakeAll(ctx, []limiter.Charge{c, c}); return err },
		"Refund":  func(ctx context.Context) error { return l.Refund(ctx, c, &r) },
		"Reset":   func(ctx context.Context) error { return l.Reset(ctx, c) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := f(ctx)
		cancel()
		if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "redislimiter: ") {
			t.Errorf("%s: %v; want an error of this package that matches %q", name, err, want)
		}
		for _, other := range kinds {
			if other != want && errors.Is(err, other) {
				t.Errorf("%s: %v matches %q, too", name, err, other)
			}
		}
	}
}

var kinds = []error{
	redislimiter.ErrUnknown, redislimiter.ErrUnreachable, redislimiter.ErrReadOnly, redislimiter.ErrLoading,
	redislimiter.ErrBusy, redislimiter.ErrOutOfMemory, redislimiter.ErrPermission, redislimiter.ErrAuth,
	redislimiter.ErrWrongType, redislimiter.ErrCluster, redislimiter.ErrServer,
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		fault func(t *testing.T, s *redistest.Server) (end func())
		want  error
	}{
		{"read-only", nil, func(_ *testing.T, s *redistest.Server) func() {
			s.Do("REPLICAOF", "127.0.0.1", "1")
			return func() { s.Do("REPLICAOF", "NO", "ONE") }
		}, redislimiter.ErrReadOnly},
		{"loading", nil, func(_ *testing.T, s *redistest.Server) func() { return s.Loading() }, redislimiter.ErrLoading},
		{"busy", nil, func(_ *testing.T, s *redistest.Server) func() { return s.Busy() }, redislimiter.ErrBusy},
		{"no permission", nil, func(_ *testing.T, s *redistest.Server) func() {
			s.Do("ACL", "SETUSER", "default", "-evalsha", "-eval")
			return func() { s.Do("ACL", "SETUSER", "default", "+@all") }
		}, redislimiter.ErrPermission},
		{"no permission inside", nil, func(_ *testing.T, s *redistest.Server) func() {
			s.Do("ACL", "SETUSER", "default", "-get", "-zrem", "-del")
			return func() { s.Do("ACL", "SETUSER", "default", "+@all") }
		}, redislimiter.ErrPermission},
		{"no permission for the keys", nil, func(_ *testing.T, s *redistest.Server) func() {
			s.Do("ACL", "SETUSER", "default", "resetkeys", "~other:*")
			return func() { s.Do("ACL", "SETUSER", "default", "allkeys") }
		}, redislimiter.ErrPermission},
		{"killed", nil, func(_ *testing.T, s *redistest.Server) func() { s.Kill(); return s.Restart }, redislimiter.ErrUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := redistest.Start(t, tt.args...)
			o := safe(s.Addr())
			o.DialTimeout = 200 * time.Millisecond
			c := redis.NewClient(o)
			t.Cleanup(func() { c.Close() })
			l := open(t, c, redislimiter.Options{})
			take(t, l, charge(still("p", 5), "k", 2))
			end := tt.fault(t, s)
			fails(t, l, tt.want)
			end()
			var err error
			for range 100 {
				if _, err = l.Take(t.Context(), charge(still("after", 5), "k", 1)); err == nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Errorf("two seconds after it was over: %v", err)
		})
	}
}

// On a connection that is there the question is sent to a server that hangs; on
// a new one it is not.
func TestStopped(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	c := charge(still("p", 5), "k", 1)
	take(t, l, c)
	s.Stop()
	for i, want := range []error{redislimiter.ErrUnknown, redislimiter.ErrUnreachable, redislimiter.ErrUnreachable} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		_, err := l.Take(ctx, c)
		if took := time.Since(begin); !errors.Is(err, want) || took > 3*time.Second {
			t.Errorf("call %d: %v after %v, want %q after 100ms", i, err, took, want)
		}
		cancel()
	}
	s.Cont()
	remaining(t, l, c, 3)
}

// What is written is denied when there is no room, and what is read is not: a
// look is answered, a charge is not half done.
func TestOutOfMemory(t *testing.T) {
	s := redistest.Start(t)
	l := open(t, client(t, s.Addr()), redislimiter.Options{})
	for _, a := range algorithms {
		p := still("p", 5)
		p.Algorithm = a
		c := charge(p, "k", 2)
		r := take(t, l, c)
		s.Do("CONFIG", "SET", "maxmemory", "1")
		if _, err := l.Take(t.Context(), c); !errors.Is(err, redislimiter.ErrOutOfMemory) {
			t.Errorf("%v: %v, want out of memory", a, err)
		}
		remaining(t, l, c, 3)
		s.Do("CONFIG", "SET", "maxmemory", "0")
		remaining(t, l, c, 3)
		if err := l.Refund(t.Context(), c, &r); err != nil {
			t.Error(err)
		}
		remaining(t, l, c, 5)
	}
}

func TestWrongType(t *testing.T) {
	s := redistest.Start(t)
	o := fresh(redislimiter.Options{})
	l, err := redislimiter.New(client(t, s.Addr()), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range algorithms {
		p := still("p", 5)
		p.Algorithm = a
		c := charge(p, "k", 2)
		other := charge(still("other", 5), "k", 2)
		take(t, l, c)
		key := onlyKey(t, s, o.Prefix)
		s.Do("DEL", key)
		s.Do("RPUSH", key, "x")
		if _, err := l.Take(t.Context(), c); !errors.Is(err, redislimiter.ErrWrongType) {
			t.Errorf("%v: Take = %v, want wrong type", a, err)
		}
		// Nothing of the others is taken.
		if _, err := l.TakeAll(t.Context(), []limiter.Charge{other, c}); !errors.Is(err, redislimiter.ErrWrongType) {
			t.Errorf("%v: TakeAll = %v, want wrong type", a, err)
		}
		remaining(t, l, other, 5)
		if got := s.Do("LRANGE", key, "0", "-1"); !strings.Contains(got, "x") {
			t.Errorf("%v: the foreign key is %q now", a, got)
		}
		// Reset makes way where it can: it deletes a log, whatever is there.
		s.Do("DEL", key)
	}
}

// onlyKey returns the one key there is with a prefix.
func onlyKey(t testing.TB, s *redistest.Server, prefix string) string {
	t.Helper()
	keys := strings.Fields(s.Do("KEYS", prefix+":*"))
	if len(keys) != 1 {
		t.Fatalf("keys are %q, want one", keys)
	}
	return keys[0]
}

func TestNoPassword(t *testing.T) {
	s := redistest.Start(t)
	s.Do("CONFIG", "SET", "requirepass", "right")
	for _, password := range []string{"", "wrong"} {
		for _, cost := range []int{0, 1} {
			o := safe(s.Addr())
			o.Password = password
			c := redis.NewClient(o)
			t.Cleanup(func() { c.Close() })
			l := open(t, c, redislimiter.Options{})
			if _, err := l.Take(t.Context(), charge(still("p", 5), "k", cost)); !errors.Is(err, redislimiter.ErrAuth) {
				t.Errorf("password %q: %v; want %v", password, err, redislimiter.ErrAuth)
			}
		}
	}
}

// A server that has forgotten the scripts gets them again, from each of many
// callers, and nobody notices.
func TestTrapLimiter36_ScriptsAreLost(t *testing.T) {
	s := redistest.Start(t)
	c := client(t, s.Addr())
	l := open(t, c, redislimiter.Options{})
	const callers, times = 8, 60
	p := still("p", callers*times/2)
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	done := make(chan struct{})
	flushes := 0
	go func() {
		defer close(done)
		for range 40 {
			c.ScriptFlush(context.Background())
			flushes++
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for range callers {
		wg.Go(func() {
			for range times {
				r, err := l.Take(t.Context(), charge(p, "k", 1))
				if err != nil {
					t.Error(err)
					return
				}
				if r.Allowed {
					mu.Lock()
					admitted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	<-done
	if admitted != p.Limit {
		t.Errorf("%d admitted of %d, want %d", admitted, callers*times, p.Limit)
	}

	// A restart loses the data with the scripts.
	s.Kill()
	s.Restart()
	if r := take(t, l, charge(p, "k", 1)); !r.Allowed || r.Remaining != p.Limit-1 {
		t.Errorf("after a restart: %+v", r)
	}
}

// A cutter is a proxy that passes on what is sent to a server, and when told to
// loses the next answer with its connection.
type cutter struct {
	addr string
	mu   sync.Mutex
	cut  bool
}

func (c *cutter) loseOne() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

func (c *cutter) losing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.cut = false }()
	return c.cut
}

func cutAnswers(t *testing.T, to string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	x := &cutter{addr: ln.Addr().String()}
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				return
			}
			go func() {
				io.Copy(out, in)
				out.Close()
			}()
			go func() {
				defer in.Close()
				b := make([]byte, 4096)
				for {
					n, err := out.Read(b)
					if err != nil || x.losing() {
						return
					}
					in.Write(b[:n])
				}
			}()
		}
	}()
	return x
}

// Charges whose answers are lost are counted once each, even by a client that
// retries whatever it can.
func TestNeverTwice(t *testing.T) {
	s := redistest.Start(t)
	direct := client(t, s.Addr())
	o := fresh(redislimiter.Options{})
	near, err := redislimiter.New(direct, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, retries := range []int{-1, 3} {
		t.Run(fmt.Sprint("MaxRetries ", retries), func(t *testing.T) {
			x := cutAnswers(t, s.Addr())
			ro := safe(x.addr)
			ro.MaxRetries = retries
			c := redis.NewClient(ro)
			t.Cleanup(func() { c.Close() })
			o := *o
			o.DangerouslyAllowRetries = retries > 0
			far, err := redislimiter.New(c, &o)
			if err != nil {
				t.Fatal(err)
			}
			p := still(t.Name(), 100)
			take(t, far, charge(p, "k", 1)) // connects
			for i := range 20 {
				x.loseOne()
				if _, err := far.Take(t.Context(), charge(p, "k", 1)); !errors.Is(err, redislimiter.ErrUnknown) {
					t.Fatalf("Take without an answer = %v, want unknown", err)
				}
				take(t, far, charge(p, "k", 1))
				remaining(t, near, charge(p, "k", 0), 100-1-2*(i+1))
			}
		})
	}
}

// A slowConn gives no answer while it is held.
type slowConn struct {
	net.Conn
	held chan struct{}
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	<-c.held
	return n, err
}

// While the answer to one caller is on its way, others get theirs, for other
// keys and for the same.
func TestTrapLimiter25_NoLockAcrossTheNetwork(t *testing.T) {
	s := redistest.Start(t)
	o := safe(s.Addr())
	var mu sync.Mutex
	var held chan struct{} // of the next connection
	free := make(chan struct{})
	close(free)
	held = free
	o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		mu.Lock()
		defer mu.Unlock()
		return slowConn{c, held}, err
	}
	o.PoolFIFO = true
	c := redis.NewClient(o)
	t.Cleanup(func() { c.Close() })
	l := open(t, c, redislimiter.Options{})
	hold := make(chan struct{})
	mu.Lock()
	held = hold
	mu.Unlock()
	p := still("p", 100)
	answered := make(chan error, 1)
	go func() {
		_, err := l.Take(context.Background(), charge(p, "slow", 1))
		answered <- err
	}()
	for { // until that one has its connection
		if st := c.PoolStats(); st.TotalConns > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	mu.Lock()
	held = free
	mu.Unlock()
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		for _, key := range []string{"slow", fmt.Sprint(i)} {
			if _, err := l.Take(ctx, charge(p, key, 1)); err != nil {
				t.Errorf("while another caller waits: %v", err)
			}
		}
		cancel()
	}
	select {
	case err := <-answered:
		t.Errorf("the slow caller has been answered: %v", err)
	default:
	}
	close(hold)
	<-answered
}
