package failover_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/failover"
)

// What clients see in an outage. When nobody counted, nothing is said about
// quotas; the share's numbers are told with the policy that holds for all
// instances.
func TestMiddleware(t *testing.T) {
	type answer struct {
		status                                     int
		quota, policy, after, limit, remain, reset string
	}
	for _, tt := range []struct {
		mode failover.Mode
		form limiter.HeaderForm
		want []answer // to one request after the other
	}{
		{failover.Closed, limiter.Draft10, []answer{{status: 503, after: "1"}}},
		{failover.Open, limiter.Draft10, []answer{{status: 200}, {status: 200}}},
		{failover.Open, limiter.XRateLimit, []answer{{status: 200}, {status: 200}}},
		{failover.Local, limiter.Draft10, []answer{
			{status: 200, quota: `"p";r=1;t=20`, policy: `"p";q=6;w=60`},
			{status: 200, quota: `"p";r=0;t=20`, policy: `"p";q=6;w=60`},
			{status: 429, quota: `"p";r=0;t=20`, policy: `"p";q=6;w=60`, after: "20"},
		}},
		{failover.Local, limiter.XRateLimit, []answer{
			{status: 200, limit: "6", remain: "1", reset: "20"},
			{status: 200, limit: "6", remain: "0", reset: "40"},
			{status: 429, limit: "6", remain: "0", reset: "40", after: "20"},
		}},
	} {
		for _, rules := range []int{1, 2} {
			inTime(t, func(t *testing.T) {
				s := newServer()
				s.set(broken)
				// A share is 3 a minute, 2 of them at once.
				l := failover.New(s, tt.mode, &failover.Options{Instances: 2, Failures: 2})
				rs := limiter.Rules{{Policy: limiter.Policy{Name: "p", Limit: 6, Window: time.Minute, Burst: 4}, Key: limiter.KeyGlobal}}
				if rules == 2 {
					rs = append(rs, limiter.Rule{Policy: limiter.PerMinute("shadow", 1), Key: limiter.KeyGlobal, Shadow: true})
				}
				h := limiter.Middleware(l, rs, &limiter.Options{Headers: tt.form})(
					http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				for i, want := range tt.want {
					w := httptest.NewRecorder()
					h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
					got := answer{
						w.Code, w.Header().Get("RateLimit"), w.Header().Get("RateLimit-Policy"), w.Header().Get("Retry-After"),
						w.Header().Get("X-RateLimit-Limit"), w.Header().Get("X-RateLimit-Remaining"), w.Header().Get("X-RateLimit-Reset"),
					}
					if got != want {
						t.Errorf("%v, form %v, request %d\n got %+v\nwant %+v", tt.mode, tt.form, i, got, want)
					}
				}
			})
		}
	}
}
