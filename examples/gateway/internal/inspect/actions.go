package inspect

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/goweir/weir/limiter"
)

// A request for an action. Which fields count is said at the action.
type request struct {
	Route  string `json:"route"`
	Policy string `json:"policy"`
	Key    string `json:"key"` // hashed
	On     bool   `json:"on"`
}

var errUnknown = errors.New("there is no such route, rule or key")

// action answers a request that changes something, if that is allowed, and logs
// what was done.
func (in *Inspector) action(do func(*http.Request, request) (did string, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !in.opts.Actions {
			refuse(w, http.StatusForbidden, "this page only looks: admin.actions is off")
			return
		}
		var q request
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			refuse(w, http.StatusBadRequest, "want a JSON object with route, policy, key and on")
			return
		}
		did, err := do(r, q)
		switch {
		case errors.Is(err, errUnknown):
			refuse(w, http.StatusNotFound, err.Error())
			return
		case err != nil:
			in.opts.Log.Error("inspector: action failed", "action", did, "error", err)
			refuse(w, http.StatusBadGateway, "it failed: the log says why")
			return
		}
		in.opts.Log.Warn("inspector: "+did, "route", q.Route, "policy", q.Policy, "key", q.Key, "by", r.RemoteAddr)
		answer(w, map[string]string{"did": did})
	}
}

// reset makes the quota of Policy and Key whole.
func (in *Inspector) reset(r *http.Request, q request) (string, error) {
	var l limiter.Limiter
	var c limiter.Charge
	if !in.keys.find(q.Policy, q.Key, func(s *keyState) { l, c = s.limiter, s.charge }) {
		return "", errUnknown
	}
	if err := l.Reset(r.Context(), c); err != nil {
		return "reset a key", err
	}
	in.keys.find(q.Policy, q.Key, func(s *keyState) { s.whole(time.Now()) })
	return "reset a key", nil
}

// shadow lets the rule Policy of Route report only, or refuse again.
func (in *Inspector) shadow(_ *http.Request, q request) (string, error) {
	for _, route := range *in.routes.Load() {
		if route.Pattern == q.Route && route.Limits != nil && route.Limits.setShadow(q.Policy, q.On) {
			if q.On {
				return "turned a rule to shadow", nil
			}
			return "enforces a rule again", nil
		}
	}
	return "", errUnknown
}

// degrade sends the requests of Route to its fallback, or to its upstreams again.
func (in *Inspector) degrade(_ *http.Request, q request) (string, error) {
	for _, route := range *in.routes.Load() {
		if route.Pattern == q.Route && route.Proxy != nil {
			route.Proxy.ForceFallback(q.On)
			if q.On {
				return "degraded a route", nil
			}
			return "restored a route", nil
		}
	}
	return "", errUnknown
}
