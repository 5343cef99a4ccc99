package redislimiter_test

import (
	"context"
	"fmt"
	"log"

	"github.com/alicebob/miniredis/v2"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// One quota is charged by every request. A process that takes a hundred units of
// it at a time asks the server for one decision in a hundred.
func ExampleOptions_lease() {
	server, err := miniredis.Run() // in earnest: a Redis server
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	ctx := context.Background()
	client, err := redislimiter.Dial(ctx, "redis://"+server.Addr()+"/0")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	l, err := redislimiter.New(client, &redislimiter.Options{
		Lease: func(p limiter.Policy) int {
			if p.Name == "everybody" {
				return 100
			}
			return 0 // the others are exact
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	c := limiter.Charge{Policy: limiter.PerHour("everybody", 1_000_000), Cost: 1}
	from := make(map[limiter.Source]int)
	for range 1000 {
		r, err := l.Take(ctx, c)
		if err != nil {
			log.Fatal(err)
		}
		from[r.Source]++
	}
	fmt.Println(from[limiter.SourceLease], "of 1000 decisions came from a lease")
	// Output:
	// 1000 of 1000 decisions came from a lease
}
