//go:build unix

package redisbench_test

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
	"github.com/goweir/weir/benchmarks/redisbench"
	"github.com/goweir/weir/internal/faultnet"
	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter/redislimiter"
)

// deciders are weir's and the peers', the first that of weir as it comes.
var deciders = append([]redisbench.Decider{
	redisbench.WeirWith("weir", redislimiter.Options{}),
	redisbench.Leases,
	redisbench.Same,
}, peers...)

// A shared decider keeps its quotas in a Redis server.
type shared struct {
	name string
	take func(key string) (bool, error)
}

// share opens d for a test.
func share(t testing.TB, d redisbench.Decider, addr string, q redisbench.Quota) shared {
	take, closer := d.New(addr, q)
	t.Cleanup(closer)
	return shared{d.Name, take}
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

// load is the workload of many callers, each of whom starts at another place.
func (d shared) load(draws []string) pace.Load {
	return pace.Load{Name: d.name, Do: func(caller, i int) error {
		_, err := d.take(draws[(caller*7919+i)%len(draws)])
		return err
	}}
}

// press measures the loads on s and prints them.
func press(t *testing.T, s *redistest.Server, title string, o pace.LoadOptions, loads ...pace.Load) []pace.Heat {
	t.Helper()
	o.Used = used(t, s)
	heats := pace.Press(o, loads...)
	pace.PrintHeats(t.Output(), title, heats)
	return heats
}

// used returns a function that reads what s has used so far. Reading takes a
// few commands and reads of its own.
func used(t testing.TB, s *redistest.Server) func() pace.Usage {
	return func() (u pace.Usage) {
		for _, calls := range s.CommandStats() {
			u.Commands += float64(calls)
		}
		u.Reads = info(t, s, "stats", "total_reads_processed")
		cpu := info(t, s, "cpu", "used_cpu_user") + info(t, s, "cpu", "used_cpu_sys")
		u.CPU = time.Duration(cpu * float64(time.Second))
		return u
	}
}

// info returns a number from INFO.
func info(t testing.TB, s *redistest.Server, section, name string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(s.Info(section)[name], 64)
	if err != nil {
		t.Fatalf("INFO %s: %s: %v", section, name, err)
	}
	return n
}

// manyKeys is what is behind "10,000 keys".
func manyKeys() []string {
	return keys(size(10_000, 100))
}

// TestDecisions compares the deciders under callers of whom each asks again
// as soon as it is answered, and then under as many that together ask half as
// often as redis_rate could answer.
func TestDecisions(t *testing.T) {
	many, s := manyKeys(), redistest.Start(t)
	for _, w := range []struct {
		name    string
		quota   redisbench.Quota
		keys    []string
		callers []int
	}{
		{"hot key", redisbench.Plenty, many[:1], []int{1, 64, 256}},
		{"10,000 keys", redisbench.Plenty, many, []int{1, 64, 256}},
		{"denied", redisbench.Few, many[:1], []int{64}},
	} {
		t.Run(w.name, func(t *testing.T) {
			s.Do("FLUSHALL", "SYNC")
			var loads []pace.Load
			for _, d := range deciders {
				loads = append(loads, share(t, d, s.Addr(), w.quota).warm(t, w.keys).load(w.keys))
			}
			for _, callers := range w.callers {
				o := options(callers)
				heats := press(t, s, fmt.Sprintf("%s, callers: %d", w.name, callers), o, loads...)
				if callers == 1 || w.quota == redisbench.Few {
					continue
				}
				reference := slices.IndexFunc(heats, func(h pace.Heat) bool { return h.Name == redisbench.RedisRate })
				half := pace.Median(heats[reference].Rate).Median / 2
				o.Every = time.Duration(float64(callers) / half * float64(time.Second))
				press(t, s, fmt.Sprintf("%s, callers: %d, together %.0f a second", w.name, callers, half), o, loads...)
			}
		})
	}
}

// TestAlone compares one caller of weir with one who calls the same script
// and does nothing else.
func TestAlone(t *testing.T) {
	many, s := manyKeys(), redistest.Start(t)
	for _, draws := range [][]string{many[:1], many} {
		press(t, s, fmt.Sprintf("keys: %d, callers: 1", len(draws)), options(1),
			share(t, deciders[0], s.Addr(), redisbench.Plenty).warm(t, draws).load(draws),
			share(t, redisbench.Same, s.Addr(), redisbench.Plenty).warm(t, draws).load(draws))
	}
}

// TestDistance compares the deciders on a server that is 1 ms away, there
// and back. The proxy that keeps it away runs in this process and takes its time
// for each packet.
func TestDistance(t *testing.T) {
	many, s := manyKeys(), redistest.Start(t)
	far := faultnet.New(t, s.Addr())
	var loads []pace.Load
	for _, d := range deciders {
		loads = append(loads, share(t, d, far.Addr(), redisbench.Plenty).warm(t, many).load(many))
	}
	far.Set(faultnet.Faults{Latency: time.Millisecond / 2})
	press(t, s, "10,000 keys, 1 ms away, callers: 128", options(128), loads...)
}

// TestRoundTrips counts what one decision of one caller takes: round trips
// by a proxy, commands and reads from a socket by the server, and time in round
// trips of a PING when one takes 4 ms.
func TestRoundTrips(t *testing.T) {
	n, timed := size(1000, 200), size(50, 3)
	draws := keys(100)
	s := redistest.Start(t)
	far := faultnet.New(t, s.Addr())
	client := redis.NewClient(&redis.Options{Addr: far.Addr()})
	t.Cleanup(func() { client.Close() })
	median := func(do func(i int)) float64 {
		var times []float64
		for i := range timed {
			start := time.Now()
			do(i)
			times = append(times, float64(time.Since(start)))
		}
		return pace.Median(times).Median
	}
	// count fails if weir takes more than most round trips.
	count := func(d redisbench.Decider, q redisbench.Quota, draws []string, most float64) {
		far.Set(faultnet.Faults{})
		ask := share(t, d, far.Addr(), q).warm(t, draws).load(draws).Do
		// Reading the counters counts, too.
		used := used(t, s)
		zero, before, first := used(), used(), far.Stats().RoundTrips
		for i := range n {
			if err := ask(0, i); err != nil {
				t.Fatalf("%s: %v", d.Name, err)
			}
		}
		trips := float64(far.Stats().RoundTrips-first) / float64(n)
		after := used()
		commands := (after.Commands - before.Commands) - (before.Commands - zero.Commands)
		reads := (after.Reads - before.Reads) - (before.Reads - zero.Reads)

		client.Ping(t.Context())
		far.Set(faultnet.Faults{Latency: 2 * time.Millisecond})
		ping := median(func(int) { client.Ping(t.Context()) })
		took := median(func(i int) { ask(0, i) })
		fmt.Fprintf(t.Output(), "%-36s %.3f round trips, %.3f commands, %.3f reads a decision; it takes %.2f PINGs\n", d.Name,
			trips, commands/float64(n), reads/float64(n), took/ping)
		if strings.HasPrefix(d.Name, "weir") && trips > most {
			t.Errorf("%s takes %v round trips a decision, want at most %v", d.Name, trips, most)
		}
	}
	for _, d := range deciders {
		if d.Name != redisbench.Leases.Name {
			count(d, redisbench.Plenty, draws, 1)
		}
	}
	count(redisbench.Leases, redisbench.Plenty, draws[:1], 0.02)
	count(redisbench.Five, redisbench.Plenty, draws, 1)
	drained := slices.Repeat(draws[:1], 2) // the second time it is refused
	count(redisbench.WeirWith("weir, denied", redislimiter.Options{}), redisbench.Few, drained, 0)
}

// TestMemory fills the server with keys and asks it what they take.
func TestMemory(t *testing.T) {
	all := keys(size(100_000, 500))
	s := redistest.Start(t)
	for _, d := range deciders {
		s.Do("FLUSHALL", "SYNC")
		const first = 100
		d := share(t, d, s.Addr(), redisbench.Ten).warm(t, all[:1])
		d.fill(t, all[:first]) // scripts and connections are no keys
		before := info(t, s, "memory", "used_memory")
		d.fill(t, all[first:])
		perClient := (info(t, s, "memory", "used_memory") - before) / float64(len(all)-first)
		usage := 0
		for range 100 {
			m, err := strconv.Atoi(s.Do("MEMORY", "USAGE", s.Do("RANDOMKEY")))
			if err != nil {
				t.Fatal(err)
			}
			usage += m
		}
		fmt.Fprintf(t.Output(), "%-36s %6.1f bytes of used_memory a client, %5.1f of MEMORY USAGE a key, keys: %s\n",
			d.name, perClient, float64(usage)/100, s.Do("DBSIZE"))
		if *measuring && d.name == "weir" && perClient > 150 {
			t.Errorf("%.1f bytes of used_memory a key, want at most 150", perClient)
		}
	}
}

// TestExactness has 100 ask at once, by four clients, for a quota of 10 an
// hour: with the scripts loaded, and on a server that has none, as after a
// restart.
func TestExactness(t *testing.T) {
	times := size(5, 1)
	for _, d := range deciders {
		if d.Name == redisbench.Same.Name || d.Name == redisbench.Leases.Name {
			continue // one does not look at the answers, the other trades exactness
		}
		s := redistest.Start(t) // its own, for breakers
		var clients [4]shared
		for i := range clients {
			clients[i] = share(t, d, s.Addr(), redisbench.Ten)
		}
		var admitted [2][]string
		for fresh := range admitted {
			for round := range times {
				for i, c := range clients {
					c.warm(t, []string{fmt.Sprint("another ", fresh, round, i)})
				}
				if fresh == 1 {
					s.Do("SCRIPT", "FLUSH", "SYNC")
				}
				text := hundred(clients, fmt.Sprint("everybody ", fresh, round))
				admitted[fresh] = append(admitted[fresh], text)
				if d.Name == "weir" && text != "10" {
					t.Errorf("%s admitted %s, want 10 and no errors", d.Name, text)
				}
			}
		}
		fmt.Fprintf(t.Output(), "%-36s loaded: %-18s fresh: %s\n", d.Name,
			strings.Join(admitted[0], " "), strings.Join(admitted[1], " "))
	}
}

// hundred has 100 ask at once and tells how many were admitted.
func hundred(clients [4]shared, key string) string {
	var allowed, errors atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			ok, err := clients[i%4].take(key)
			if ok {
				allowed.Add(1)
			}
			if err != nil {
				errors.Add(1)
			}
		})
	}
	wg.Wait()
	if n := errors.Load(); n > 0 {
		return fmt.Sprintf("%d (%d errors)", allowed.Load(), n)
	}
	return strconv.Itoa(int(allowed.Load()))
}
