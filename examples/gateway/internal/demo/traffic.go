package demo

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Traffic sends gentle requests to a gateway with the configuration that is built
// in, at base, until ctx ends: a few clients that behave, and one that does not.
// Each has an address of its own in 127.0.0.0/8 where the system allows that.
func Traffic(ctx context.Context, base string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 4 {
		wg.Go(func() { behaved(ctx, newClient(byte(11+i)), base) })
	}
	wg.Go(func() { greedy(ctx, newClient(66), base) })
}

// newClient returns a client that sends from 127.0.0.last.
func newClient(last byte) *http.Client {
	plain := &net.Dialer{Timeout: 2 * time.Second}
	own := &net.Dialer{Timeout: 2 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, last}), 0))}
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := own.DialContext(ctx, network, addr)
			if err != nil { // only Linux has all of 127.0.0.0/8 ready
				return plain.DialContext(ctx, network, addr)
			}
			return c, nil
		}},
	}
}

// behaved does what people do: it reads, now and then writes, and waits between.
func behaved(ctx context.Context, c *http.Client, base string) {
	for pause(ctx, 300*time.Millisecond, 1500*time.Millisecond) {
		switch n := rand.N(20); {
		case n < 7:
			send(ctx, c, "GET", fmt.Sprintf("%s/echo?item=%d", base, 100+rand.N(900)), "")
		case n < 11:
			send(ctx, c, "POST", base+"/echo", fmt.Sprintf(
				`{"item":%d,"amount":"%d.50","card":{"holder":"A. Weir","password":"never shown"}}`, 100+rand.N(900), 1+rand.N(90)))
		case n < 13:
			send(ctx, c, "GET", fmt.Sprintf("%s/slow?delay=%dms", base, 40+rand.N(500)), "")
		case n < 15:
			send(ctx, c, "GET", base+"/limited/echo?access_token=never-shown", "")
		case n < 17:
			send(ctx, c, "GET", fmt.Sprintf("%s/download?size=%dKiB", base, 16<<rand.N(6)), "")
		case n < 18:
			send(ctx, c, "GET", base+"/nothing/here", "")
		case n < 19:
			send(ctx, c, "GET", base+"/fail", "")
		default:
			send(ctx, c, "GET", base+"/broken", "")
		}
	}
}

// greedy asks for more than it may have, in rushes, and never looks at
// Retry-After.
func greedy(ctx context.Context, c *http.Client, base string) {
	for {
		for range 6 + rand.N(10) {
			send(ctx, c, "GET", base+"/limited/echo?want=more", "")
			if !pause(ctx, 60*time.Millisecond, 320*time.Millisecond) {
				return
			}
		}
		if !pause(ctx, 2*time.Second, 7*time.Second) {
			return
		}
	}
}

// send does not care what comes of it.
func send(ctx context.Context, c *http.Client, method, url, body string) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer never-shown")
	req.Header.Set("User-Agent", "weir-demo")
	res, err := c.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 8<<20))
}

// pause waits between least and most; false means that ctx has ended.
func pause(ctx context.Context, least, most time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(least + rand.N(most-least)):
		return true
	}
}
