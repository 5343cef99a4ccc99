package limitertest_test

import (
	"context"
	"slices"

	"github.com/goweir/weir/limiter"
)

// stepwise is a Memory as a cluster would have it: each quota is on a node of
// its own. A TakeAll asks one after the other, and gives back what it took if
// one refuses.
type stepwise struct{ limiter.Limiter }

func (s stepwise) TakeAll(ctx context.Context, cs []limiter.Charge) ([]limiter.Result, error) {
	for _, c := range cs {
		c.Cost = min(c.Cost, 0) // is it valid?
		if _, err := s.Limiter.Take(ctx, c); err != nil {
			return nil, err
		}
	}
	rs := make([]limiter.Result, len(cs))
	var asked []int
	for i := range cs {
		if slices.Contains(asked, i) {
			continue
		}
		var node []limiter.Charge
		var which []int
		for j := i; j < len(cs); j++ {
			if cs[j].Key == cs[i].Key && cs[j].Policy == cs[i].Policy {
				node, which = append(node, cs[j]), append(which, j)
			}
		}
		got, err := s.Limiter.TakeAll(ctx, node)
		if err != nil {
			return nil, err
		}
		refused := false
		for k, j := range which {
			rs[j] = got[k]
			refused = refused || !got[k].Allowed
		}
		if refused {
			// Of one bucket, what was taken last must go back last, or it would
			// count as given back to who came before; where turns are given, it
			// must go back first, because only the last can.
			bucket := func(j int) bool { return cs[j].Policy.Algorithm == limiter.TokenBucket }
			first := slices.DeleteFunc(slices.Clone(asked), func(j int) bool { return !bucket(j) })
			rest := slices.DeleteFunc(asked, bucket)
			slices.Reverse(rest)
			for _, j := range append(first, rest...) {
				if err := s.Limiter.Refund(ctx, cs[j], &rs[j]); err != nil {
					return nil, err
				}
			}
			return rs, nil
		}
		asked = append(asked, which...)
	}
	return rs, nil
}
