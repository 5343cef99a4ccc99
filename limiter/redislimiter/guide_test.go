package redislimiter_test

import (
	"context"
	"log"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/limiter/failover"
	"github.com/goweir/weir/limiter/redislimiter"
)

// The whole of it: a client with the right settings, a server that is fit for
// it, and a plan for when it fails.
func Example_operating() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client, err := redislimiter.Dial(ctx, os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	shared, err := redislimiter.New(client, &redislimiter.Options{
		Prefix: "shop",
		Secret: []byte(os.Getenv("LIMIT_SECRET")),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := shared.Diagnose(ctx); err != nil {
		log.Print(err) // every finding in a line of its own
	}
	limits := failover.New(shared, failover.Local, &failover.Options{Instances: 4})

	_ = limits // for limiter.Middleware
}

// TestGuide holds docs/redis.md against what is compiled and tested.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	guide := string(text)
	src, err := os.ReadFile("guide_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(guide, -1) {
		if body := strings.ReplaceAll("\t"+strings.TrimSpace(block[1]), "\n", "\n\t"); !strings.Contains(string(src), strings.ReplaceAll(body, "\n\t\n", "\n\n")) {
			t.Errorf("docs/redis.md has a block that no example contains:\n%s", block[1])
		}
	}
	if acl := strings.Join(documentedACL(t), " "); !strings.Contains(strings.Join(strings.Fields(guide), " "), acl) {
		t.Errorf("docs/redis.md does not have the ACL of Diagnose: %s", acl)
	}
	if extra := strings.Join(clusterACL, " "); !strings.Contains(guide, "`"+extra+"`") {
		t.Errorf("docs/redis.md does not have what a cluster needs beside it: %s", extra)
	}
}

// clusterACL is what a user on a Redis Cluster needs beside documentedACL.
var clusterACL = []string{"+cluster|slots", "+asking"}
