package proxy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/proxy"
)

// records adds to each record of package capture what the proxy knows of the
// exchange: the two meet in the context of the request.
type records struct{}

func (records) Observe(ctx context.Context, e proxy.Event) {
	if e.Kind == proxy.EventRequest && e.Side != "" {
		record := capture.From(ctx)
		record.Set("result", string(e.Result))
		record.Set("side", string(e.Side))
		record.Set("phase", string(e.Phase))
	}
}

// The record of an exchange says whose fault it was that there is half an answer
// only.
func ExampleObserver() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer upstream.Close()
	p, err := proxy.New(proxy.Config{
		Upstreams: []proxy.Upstream{{URL: upstream.URL}},
		Observer:  records{},
		ErrorLog:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan bool)
	sink := capture.SinkFunc(func(_ context.Context, x *capture.Exchange) error {
		fmt.Println(x.Status, x.Outcome, x.Attributes)
		close(done)
		return nil
	})
	front := httptest.NewServer(capture.Middleware(sink, nil)(p))
	defer front.Close()

	res, err := http.Get(front.URL)
	if err != nil {
		log.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	fmt.Println(err)
	<-done
	// Unordered output:
	// unexpected EOF
	// 200 abort [{result aborted} {side upstream} {phase response}]
}
