package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/goweir/weir/proxy"
)

func TestNewReportsAllFaults(t *testing.T) {
	_, err := proxy.New(proxy.Config{
		Upstreams:              []proxy.Upstream{{URL: "ftp://h"}, {URL: "http://h/a?b"}, {URL: ":"}, {URL: "http://ok"}},
		StripPrefix:            "api",
		Query:                  3,
		Via:                    "a b",
		RequestIDHeader:        "X_Id",
		MaxIdleConns:           -1,
		MaxResponseHeaderBytes: -1,
		MaxInformational:       -1,
		MaxTunnels:             -1,
		WrapTransport:          func(http.RoundTripper) http.RoundTripper { return nil },
	})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		"Upstreams[0].URL", "Upstreams[1].URL", "Upstreams[2].URL is not", "StripPrefix", "Query", "Via", "RequestIDHeader", "MaxIdleConns", "MaxResponseHeaderBytes",
		"MaxInformational", "MaxTunnels", "WrapTransport",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], "proxy: "+want) {
			t.Fatalf("fault %d is not about %s:\n%v", i, want, err)
		}
	}
	if len(lines) != 12 {
		t.Errorf("%d faults, want 12:\n%v", len(lines), err)
	}
}

func TestUpstreamFaults(t *testing.T) {
	if _, err := proxy.New(proxy.Config{}); err == nil || err.Error() != "proxy: Upstreams is empty: at least one is needed" {
		t.Errorf("no upstreams: %v", err)
	}
	for url, want := range map[string]string{
		"http://h":                 "",
		"https://h:8443/base/x":    "",
		"HTTP://[::1]:80/":         "",
		"http://h/a%2Fb":           "",
		"":                         "scheme",
		"h:80":                     "",
		"//h":                      "scheme",
		"/path":                    "scheme",
		"unix:///tmp/s":            "scheme",
		"http:opaque":              "host",
		"http://":                  "host",
		"http://:80":               "host",
		"http://h:":                "port",
		"http://h:0":               "port",
		"http://h:65536":           "port",
		"http://h:x":               "port",
		"http://u@h":               "user information",
		"http://h/?":               "query",
		"http://h/?a=b":            "query",
		"http://h/#":               "fragment",
		"http://h/#f":              "fragment",
		"http://h/a/../b":          "dot segment",
		"http://h/%2e%2e":          "dot segment",
		"http://h/%zz":             "not a URL",
		"http://h\n/":              "not a URL",
		"http://user:s3cret@h/?":   "query",
		"http://user:s3cret@h:x/?": "not a URL",
	} {
		_, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: url}}})
		if url == "h:80" {
			want = "scheme"
		}
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want something about %q", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error shows the password: %v", url, err)
		}
	}
}

func TestStripPrefixFaults(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"": true, "/": true, "/a": true, "/a/b": true, "/a/": true, "/%61": true, "/é": true, "/a.b/...": true,
		"a": false, "//": false, "//a": false, "/a//b": false, "/a//": false, "/a?b": false, "/a#b": false, "/%zz": false,
		"/..": false, "/a/./b": false, "/%2e%2e": false, "/a/..;x": false,
	} {
		_, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://h"}}, StripPrefix: prefix})
		if (err == nil) != ok {
			t.Errorf("%q: %v, want ok %t", prefix, err, ok)
		}
	}
}

func TestRequestIDHeaderFaults(t *testing.T) {
	for name, ok := range map[string]bool{
		"": true, "-": true, "X-Request-Id": true, "x-correlation-ID": true, "Traceparent": true,
		"X_Request_Id": false, "X.Id": false, "a b": false, "X-Id:": false, "Connection": false, "host": false, "Via": false,
		"x-forwarded-for": false, "Forwarded": false, "X-Real-Ip": false, "Content-Length": false, "TE": false,
	} {
		_, err := proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://h"}}, RequestIDHeader: name})
		if (err == nil) != ok {
			t.Errorf("%q: %v, want ok %t", name, err, ok)
		}
	}
}

func TestFaultsOfWhatIsOptional(t *testing.T) {
	_, err := proxy.New(proxy.Config{
		Upstreams:   []proxy.Upstream{{URL: "http://a", Weight: -1}, {URL: "HTTP://a/"}},
		Balance:     9,
		Key:         func(*http.Request) string { return "" },
		InFlight:    proxy.InFlight{Max: -1, Queue: -1, Wait: -1},
		Ejection:    proxy.Ejection{Failures: -1, For: -1, Max: 1, Share: 1.1},
		HealthCheck: proxy.HealthCheck{Path: "x", Interval: -1, Down: -1},
		Breaker:     proxy.Breaker{FailureRatio: 2, MinRequests: -1, Window: 1, OpenFor: -1, Probes: -1},
		Retries:     proxy.Retries{Max: -1, Statuses: []int{503, 404}, MaxBody: -1, Budget: 1.5},
	})
	for _, want := range []string{
		"Upstreams[0].Weight is -1", `Upstreams[1].URL "http://a" is there twice`, "Balance is 9", "Key and Balance",
		"InFlight.Max is -1", "InFlight.Queue is -1", "InFlight.Wait is -1ns",
		"Ejection.Failures is -1", "Ejection.For is -1ns", "Ejection.Share is 1.1",
		`HealthCheck.Path "x"`, "HealthCheck has Interval -1ns", "HealthCheck has Down -1",
		"Breaker.FailureRatio is 2", "Breaker.MinRequests is -1", "Breaker.Window is 1ns", "Breaker.OpenFor is -1ns", "Breaker.Probes is -1",
		"Retries.Max is -1", "Retries.Statuses has 404", "Retries.MaxBody is -1", "Retries.Budget is 1.5",
	} {
		if err == nil || !strings.Contains(err.Error(), "proxy: "+want) {
			t.Errorf("no fault about %s:\n%v", want, err)
		}
	}
	_, err = proxy.New(proxy.Config{Upstreams: []proxy.Upstream{{URL: "http://a"}}, Balance: proxy.ByKey,
		Ejection: proxy.Ejection{For: 10, Max: 5}})
	if err == nil || !strings.Contains(err.Error(), "Key and Balance") || !strings.Contains(err.Error(), "Ejection.Max is 5ns") {
		t.Errorf("got %v", err)
	}
}
