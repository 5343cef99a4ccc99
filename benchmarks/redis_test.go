//go:build unix

package benchmarks_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/goweir/weir/benchmarks/pace"
	"github.com/goweir/weir/benchmarks/peer"
	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
)

// A shared decider keeps its quotas in a Redis server.
type shared struct {
	name string
	take func(key string) (bool, error)
}

// everyRedisDecider returns those of weir and of the peers, each with clients of
// its own.
func everyRedisDecider(t testing.TB, addr string, q peer.Quota) []shared {
	return redisPeers(t, addr, q)
}

// redisPeers returns the peers' deciders, each with clients of its own.
func redisPeers(t testing.TB, addr string, q peer.Quota) []shared {
	var all []shared
	for _, d := range peer.RedisDeciders {
		take, closer := d.New(addr, q)
		t.Cleanup(closer)
		all = append(all, shared{d.Name, take})
	}
	return all
}

// warm sees every key once, by one caller, so that scripts are loaded and what is
// measured are decisions about keys that are known.
func (d shared) warm(t testing.TB, keys []string) shared {
	t.Helper()
	for _, k := range keys {
		if err := d.insist(k); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
	}
	return d
}

// insist asks until it is answered: a breaker may take an unknown script for a
// failure.
func (d shared) insist(key string) (err error) {
	for range 1000 {
		if _, err = d.take(key); err == nil {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

// load is the workload of many callers, each of whom starts at another place.
func (d shared) load(draws []string) pace.Load {
	return pace.Load{Name: d.name, Do: func(caller, i int) error {
		_, err := d.take(draws[(caller*7919+i)%len(draws)])
		return err
	}}
}

// used returns a function that reads what s has used so far. Reading takes a
// few commands and reads of its own.
func used(t testing.TB, s *redistest.Server) func() pace.Usage {
	return func() (u pace.Usage) {
		info := s.Info("everything")
		number := func(name string) float64 {
			f, err := strconv.ParseFloat(info[name], 64)
			if err != nil {
				t.Fatalf("INFO has no %s: %v", name, err)
			}
			return f
		}
		for _, calls := range s.CommandStats() {
			u.Commands += float64(calls)
		}
		u.Reads = number("total_reads_processed")
		u.CPU = time.Duration((number("used_cpu_user") + number("used_cpu_sys")) * float64(time.Second))
		return u
	}
}

// TestRedisDecisions compares the deciders under callers of whom each asks again
// as soon as it is answered, and then under as many that together ask half as
// often as the reference peer could answer.
func TestRedisDecisions(t *testing.T) {
	many := keys(size(10_000))
	if !*measuring {
		many = many[:100]
	}
	for _, w := range []struct {
		workload
		callers []int
	}{
		{workload{"hot key", peer.Plenty, many[:1], many[:1]}, []int{1, 64, 256}},
		{workload{"10,000 keys", peer.Plenty, many, many}, []int{1, 64, 256}},
		{workload{"denied", peer.Few, many[:1], many[:1]}, []int{64}},
	} {
		t.Run(w.name, func(t *testing.T) {
			s := redistest.Start(t)
			var loads []pace.Load
			for _, d := range everyRedisDecider(t, s.Addr(), w.quota) {
				loads = append(loads, d.warm(t, w.all).load(w.draws))
			}
			for _, callers := range w.callers {
				o := loadOptions(callers)
				o.Used = used(t, s)
				heats := press(t, fmt.Sprintf("%s, callers: %d", w.name, callers), o, loads...)
				if callers == 1 || w.quota == peer.Few {
					continue
				}
				half := pace.Median(reference(heats).Rate).Median / 2
				o.Every = time.Duration(float64(callers) / half * float64(time.Second))
				press(t, fmt.Sprintf("%s, callers: %d, together %.0f a second", w.name, callers, half), o, loads...)
			}
		})
	}
}

func press(t *testing.T, title string, o pace.LoadOptions, loads ...pace.Load) []pace.Heat {
	t.Helper()
	heats := pace.Press(o, loads...)
	pace.PrintHeats(t.Output(), title, heats)
	return heats
}

func reference(heats []pace.Heat) pace.Heat {
	return heats[slices.IndexFunc(heats, func(h pace.Heat) bool { return h.Name == peer.RedisRate })]
}

// TestRedisDistance compares the deciders on a server that is 1 ms away, there
// and back. The proxy that keeps it away runs in this process and takes its time
// for each packet.
func TestRedisDistance(t *testing.T) {
	many := keys(size(10_000))
	if !*measuring {
		many = many[:100]
	}
	s := redistest.Start(t)
	far := faultnet.New(t, s.Addr())
	var loads []pace.Load
	for _, d := range everyRedisDecider(t, far.Addr(), peer.Plenty) {
		loads = append(loads, d.warm(t, many).load(many))
	}
	far.Set(faultnet.Faults{Latency: time.Millisecond / 2})
	o := loadOptions(128)
	o.Used = used(t, s)
	press(t, "10,000 keys, 1 ms away, callers: 128", o, loads...)
}

// TestRedisRoundTrips counts what one decision of one caller takes: round trips
// by a proxy, commands and reads from a socket by the server, and time in round
// trips of a PING when one takes 4 ms.
func TestRedisRoundTrips(t *testing.T) {
	n, timed := 1000, 50
	if !*measuring {
		n, timed = 100, 3
	}
	draws := keys(100)
	s := redistest.Start(t)
	far := faultnet.New(t, s.Addr())
	median := func(do func(i int)) float64 {
		var times []float64
		for i := range timed {
			start := time.Now()
			do(i)
			times = append(times, float64(time.Since(start)))
		}
		return pace.Median(times).Median
	}
	client := redis.NewClient(&redis.Options{Addr: far.Addr()})
	defer client.Close()
	for _, d := range everyRedisDecider(t, far.Addr(), peer.Plenty) {
		far.Set(faultnet.Faults{})
		ask := d.warm(t, draws).load(draws).Do
		// Reading the counters counts, too.
		used := used(t, s)
		zero, before, trips := used(), used(), far.Stats().RoundTrips
		for i := range n {
			if err := ask(0, i); err != nil {
				t.Fatalf("%s: %v", d.name, err)
			}
		}
		trips = far.Stats().RoundTrips - trips
		after := used()
		commands := (after.Commands - before.Commands) - (before.Commands - zero.Commands)
		reads := (after.Reads - before.Reads) - (before.Reads - zero.Reads)

		client.Ping(t.Context())
		far.Set(faultnet.Faults{Latency: 2 * time.Millisecond})
		ping := median(func(int) { client.Ping(t.Context()) })
		took := median(func(i int) { ask(0, i) })
		fmt.Fprintf(t.Output(), "%-36s %.3f round trips, %.3f commands, %.3f reads a decision; it takes %.2f PINGs\n", d.name,
			float64(trips)/float64(n), commands/float64(n), reads/float64(n), took/ping)
	}
}

// TestRedisMemory fills the server with keys and asks it what they take.
func TestRedisMemory(t *testing.T) {
	n := size(100_000)
	if !*measuring {
		n = 500
	}
	all := keys(n)
	s := redistest.Start(t)
	memory := func() int {
		m, err := strconv.Atoi(s.Info("memory")["used_memory"])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, d := range everyRedisDecider(t, s.Addr(), peer.Ten) {
		s.Do("FLUSHALL", "SYNC")
		const first = 100
		d.warm(t, all[:1]).fill(t, all[:first]) // scripts and connections are no keys
		before := memory()
		d.fill(t, all[first:])
		perKey := float64(memory()-before) / float64(n-first)
		usage := 0
		for range 100 {
			m, err := strconv.Atoi(s.Do("MEMORY", "USAGE", s.Do("RANDOMKEY")))
			if err != nil {
				t.Fatal(err)
			}
			usage += m
		}
		size, err := strconv.Atoi(s.Do("DBSIZE"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(t.Output(), "%-34s %6.1f bytes of used_memory a client, %5.1f of MEMORY USAGE a key, %.0f keys a client\n",
			d.name, perKey, float64(usage)/100, float64(size)/float64(n))
	}
}

// fill is warm by 16 callers.
func (d shared) fill(t testing.TB, keys []string) {
	t.Helper()
	var wg sync.WaitGroup
	for part := range slices.Chunk(keys, (len(keys)+15)/16) {
		wg.Go(func() {
			for _, k := range part {
				if err := d.insist(k); err != nil {
					t.Errorf("%s: %v", d.name, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestRedisExactness has 100 ask at once, by four clients, for a quota of 10 an
// hour: with the scripts loaded, and on a server that has none, as after a
// restart.
func TestRedisExactness(t *testing.T) {
	times := 5
	if !*measuring {
		times = 1
	}
	names, admitted := []string{}, map[string][2][]string{}
	for round := range times {
		for fresh, state := range []string{"loaded", "fresh"} {
			s := redistest.Start(t)
			var clients [4][]shared
			for i := range clients {
				clients[i] = everyRedisDecider(t, s.Addr(), peer.Ten)
			}
			for k, d := range clients[0] {
				for i := range clients {
					clients[i][k].warm(t, []string{"another " + strconv.Itoa(i)})
				}
				if state == "fresh" {
					s.Do("SCRIPT", "FLUSH", "SYNC")
				}
				var allowed, errors atomic.Int32
				var wg sync.WaitGroup
				for i := range 100 {
					wg.Go(func() {
						ok, err := clients[i%4][k].take("everybody")
						if ok {
							allowed.Add(1)
						}
						if err != nil {
							errors.Add(1)
						}
					})
				}
				wg.Wait()
				if round == 0 && fresh == 0 {
					names = append(names, d.name)
				}
				text := strconv.Itoa(int(allowed.Load()))
				if n := errors.Load(); n > 0 {
					text += fmt.Sprintf(" (%d errors)", n)
				}
				got := admitted[d.name]
				got[fresh] = append(got[fresh], text)
				admitted[d.name] = got
				if strings.HasPrefix(d.name, "weir") && text != "10" {
					t.Errorf("%s, scripts %s: %s admitted, want 10", d.name, state, text)
				}
			}
		}
	}
	for _, name := range names {
		fmt.Fprintf(t.Output(), "%-34s loaded: %-24s fresh: %s\n", name,
			strings.Join(admitted[name][0], " "), strings.Join(admitted[name][1], " "))
	}
}
