package weir_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/goweir/weir/capture"
	"github.com/goweir/weir/clientip"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
	"github.com/goweir/weir/proxy"
)

// A program with all rooms around a handler of one's own. It is the one of the
// README, compiled but not run here.
func Example_program() {
	who, err := clientip.New(nil, nil) // nobody may name the client but the connection itself
	if err != nil {
		log.Fatal(err)
	}
	users, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://127.0.0.1:9001"}}})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/users/", users)
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })

	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerSecond("everyone", 1000), Key: limiter.KeyGlobal},
		{Policy: limiter.Policy{Name: "client", Limit: 10, Window: time.Second, Burst: 20}, Key: limiter.KeyByClientIP},
	}, &limiter.Options{OnDecision: func(r *http.Request, d limiter.Decision) {
		if !d.Allowed {
			capture.From(r.Context()).Refused("limits")
		}
	}})
	audit := capture.Middleware(capture.JSONL(os.Stdout), nil)

	log.Fatal(http.ListenAndServe("127.0.0.1:8080", who.Middleware(audit(limits(mux)))))
}

// Limits that several processes share, and what holds while Redis is away. It is
// the one of the README, compiled but not run here.
func Example_shared() {
	ctx := context.Background()
	client, err := redislimiter.Dial(ctx, "redis://127.0.0.1:6379/0")
	if err != nil {
		log.Fatal(err)
	}
	shared, err := redislimiter.New(client, nil)
	if err != nil {
		log.Fatal(err)
	}
	quotas := failover.New(shared, failover.Local, &failover.Options{Instances: 4}) // in place of limiter.NewMemory(nil)

	http.Handle("/", limiter.Middleware(quotas, limiter.Rules{
		{Policy: limiter.PerSecond("everyone", 1000), Key: limiter.KeyGlobal},
	}, nil)(http.NotFoundHandler()))
}

// The whole chain at work: a client that the limiter refuses at its third
// request, an upstream behind the proxy, and the record of each exchange.
func Example() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"for":%q}`, r.Header.Get("X-Forwarded-For"))
	}))
	defer upstream.Close()

	who, err := clientip.New(nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	forward, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: upstream.URL}}})
	if err != nil {
		log.Fatal(err)
	}
	rules := limiter.Rules{{Policy: limiter.PerHour("client", 2), Key: limiter.KeyByClientIP}}
	limits := limiter.Middleware(limiter.NewMemory(nil), rules, &limiter.Options{
		OnDecision: func(r *http.Request, d limiter.Decision) {
			if !d.Allowed {
				capture.From(r.Context()).Refused(rules[d.Rule].Policy.Name)
			}
		},
	})
	var lines strings.Builder
	queue := capture.Async(capture.JSONL(&lines), nil)
	chain := who.Middleware(capture.Middleware(queue, nil)(limits(forward)))

	for range 3 {
		r := httptest.NewRequest("GET", "/who", nil)
		r.RemoteAddr = "192.0.2.7:4711"
		r.Header.Set("X-Forwarded-For", "203.0.113.1") // nobody believes it
		w := httptest.NewRecorder()
		chain.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("RateLimit-Policy"))
	}
	queue.Close(context.Background())

	for line := range strings.Lines(lines.String()) {
		var x struct {
			Status    int
			RefusedBy string `json:"refused_by"`
			Response  struct{ Body string }
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %q %s\n", x.Status, x.RefusedBy, x.Response.Body)
	}
	// Output:
	// 200 "client";q=2;w=3600
	// 200 "client";q=2;w=3600
	// 429 "client";q=2;w=3600
	// 200 "" {"for":"192.0.2.7"}
	// 200 "" {"for":"192.0.2.7"}
	// 429 "client"
}

// With capture inside the limiter the record has no refusals: an audit log that
// shows a quiet night while clients were turned away.
func Example_incorrect() {
	var lines strings.Builder
	audit := capture.Middleware(capture.JSONL(&lines), nil)
	limits := limiter.Middleware(limiter.NewMemory(nil), limiter.Rules{
		{Policy: limiter.PerHour("everyone", 1), Key: limiter.KeyGlobal},
	}, nil)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})

	wrong := limits(audit(handler)) // correct: audit(limits(handler))
	for range 10 {
		wrong.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	fmt.Println("requests: 10, recorded:", strings.Count(lines.String(), "\n"))
	// Output:
	// requests: 10, recorded: 1
}
