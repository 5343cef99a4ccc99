package problem_test

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/goweir/weir/internal/problem"
)

func TestWrite(t *testing.T) {
	rec := httptest.NewRecorder()
	rec.Header().Set("ETag", `"a"`)
	rec.Header().Set("Cache-Control", "public")
	rec.Header().Set("X-Request-Id", "7")
	problem.Write(rec, problem.Details{
		Type:             problem.QuotaExceeded,
		Status:           429,
		Detail:           "slow down",
		ViolatedPolicies: []string{"client"},
	})
	if rec.Code != 429 {
		t.Errorf("status = %d, want 429", rec.Code)
	}
	for name, want := range map[string]string{
		"Content-Type":  "application/problem+json",
		"Cache-Control": "no-store",
		"Etag":          "",
		"X-Request-Id":  "7",
	} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	var got map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatalf("body %q: %v", rec.Body, err)
	}
	if got["type"] != problem.QuotaExceeded || got["title"] != "Too Many Requests" || got["status"] != 429.0 || got["detail"] != "slow down" {
		t.Errorf("body = %v", got)
	}
	if vp, ok := got["violated-policies"].([]any); !ok || len(vp) != 1 || vp[0] != "client" {
		t.Errorf("violated-policies = %v, want [client]", got["violated-policies"])
	}
}
