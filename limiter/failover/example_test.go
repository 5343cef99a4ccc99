package failover_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// away is a backend whose server is down.
type away struct{ limiter.Limiter }

func (away) Take(context.Context, limiter.Charge) (limiter.Result, error) {
	return limiter.Result{}, errors.New("connection refused")
}

// Four instances share 100 requests a minute. While the server that counts them
// is away, each holds 25 of them.
func Example() {
	var backend limiter.Limiter = away{} // in earnest one whose state is on a server

	l := failover.New(backend, failover.Local, &failover.Options{Instances: 4})

	c := limiter.Charge{Policy: limiter.PerMinute("api", 100), Key: "somebody", Cost: 1}
	r, err := l.Take(context.Background(), c)
	fmt.Println(r.Allowed, r.Remaining, r.Source, err)

	// Where nobody may pass uncounted:
	l = failover.New(backend, failover.Closed, nil)
	_, err = l.Take(context.Background(), c)
	fmt.Println(err, errors.Is(err, failover.ErrUnavailable))

	// Output:
	// true 24 fallback <nil>
	// failover: the backend is unavailable: connection refused true
}
