package limiter_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"golang.org/x/time/rate"

	"github.com/goweir/weir/limiter"
)

// A download service: a client may begin ten downloads a second, has 2 MiB/s for
// all of them together, and no single one more than 512 KiB/s. The line bears 50
// MiB/s. While paying clients want theirs, four fifths of it are for them; what
// they leave over is for everybody. The first 64 KiB of each answer go at once,
// so that pages are not held up by downloads.
func ExampleBandwidth_Middleware() {
	requests := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerSecond("client", 10), Key: limiter.KeyByClientIP},
	}, nil)
	bandwidth, err := limiter.NewBandwidth(limiter.BandwidthOptions{
		Limits: limiter.BandwidthLimits{
			PerResponse: 512 << 10,
			PerKey:      2 << 20,
			Total:       50 << 20,
			Classes:     []limiter.BandwidthClass{{Name: "paying", Weight: 4}, {Name: "others", Weight: 1}},
		},
		Key: limiter.KeyByClientIP,
		Class: func(r *http.Request) string {
			if strings.HasPrefix(r.URL.Path, "/high/") {
				return "paying"
			}
			return "others"
		},
		Free: 64 << 10,
	})
	if err != nil {
		log.Fatal(err)
	}
	downloads := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, strings.NewReader(strings.Repeat("x", 100_000))) // in earnest: http.ServeContent, or a proxy
	})
	server := httptest.NewServer(requests(bandwidth.Middleware()(downloads)))
	defer server.Close()

	res, err := http.Get(server.URL + "/high/file")
	if err != nil {
		log.Fatal(err)
	}
	n, err := io.Copy(io.Discard, res.Body)
	fmt.Println(res.StatusCode, n, err)
	for _, class := range bandwidth.Stats().Classes {
		fmt.Println(class.Name, class.Bytes)
	}

	// At night the line is free.
	limits := bandwidth.Limits()
	limits.Total, limits.PerResponse = 100<<20, 0
	fmt.Println(bandwidth.SetLimits(limits))
	// Output:
	// 200 100000 <nil>
	// paying 100000
	// others 0
	// <nil>
}

// Do not do this. A rate.Limiter refuses at once to wait for more than its
// burst, so a writer that does not look at the error paces nothing that is
// written in large pieces; one that does look ends the response there, and the
// client takes the beginning for the whole. And each response has a limiter of
// its own: two connections are twice as fast.
func ExampleBandwidth_incorrect() {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		perSecond := rate.NewLimiter(64<<10, 4<<10)
		io.Copy(sleepy{w, perSecond, r.Context()}, strings.NewReader(strings.Repeat("x", 1<<20)))
	})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Body.Len(), "bytes passed a limit of 65536 a second at once")
	// Output: 1048576 bytes passed a limit of 65536 a second at once
}

type sleepy struct {
	io.Writer
	perSecond *rate.Limiter
	ctx       context.Context
}

func (s sleepy) Write(p []byte) (int, error) {
	s.perSecond.WaitN(s.ctx, len(p))
	return s.Writer.Write(p)
}

func ExampleParseByteRate() {
	for _, s := range []string{"512KiB/s", "50MB/s", "2 megabytes"} {
		fmt.Println(limiter.ParseByteRate(s))
	}
	// Output:
	// 524288 <nil>
	// 50000000 <nil>
	// 0 limiter: byte rate "2 megabytes": does not end in "/s"; want a form such as "512KiB/s", "2MiB/s" or "100MB/s"
}
