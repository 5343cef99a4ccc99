//go:build unix

package redislimiter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/redistest"
	"github.com/goweir/weir/limiter"
	"github.com/goweir/weir/limiter/redislimiter"
)

// What docs/redis.md says a cluster's users need beside the documented ACL is
// enough, also while slots move, and none of it is too much.
func TestACLOnCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	t.Parallel()
	cl := redistest.StartCluster(t, 0)
	everywhere := func(args ...string) {
		for _, s := range cl.Nodes() {
			s.Do(args...)
		}
	}
	key := ""
	finish := func() {}
	try := func() error {
		c, err := redislimiter.Dial(t.Context(), strings.Replace(clusterURL(cl), "://", "://limits:PASSWORD@", 1))
		if err != nil {
			return err
		}
		defer c.Close()
		l, err := redislimiter.New(c, &redislimiter.Options{DenyCache: -1})
		if err != nil {
			return err
		}
		if err := l.Diagnose(t.Context()); err != nil {
			return err
		}
		_, err = l.Take(t.Context(), one(1000))
		if key == "" { // its first: from now on its slot is moving, and it is not there
			key = quotaOf(t, cl, l, one(1000))
			old := cl.Owner(key)
			finish = cl.OpenSlot(key, other(cl, old))
			old.Do("DEL", key)
			_, err = l.Take(t.Context(), one(1000))
		}
		return err
	}
	everywhere(append(append(documentedACL(t), "+hello"), clusterACL...)...)
	if err := try(); err != nil {
		t.Errorf("as the documented user: %v", err)
	}
	for _, permission := range clusterACL {
		everywhere("ACL", "SETUSER", "limits", "-"+permission[1:])
		if err := try(); !errors.Is(err, redislimiter.ErrPermission) {
			t.Errorf("without %s: %v", permission, err)
		}
		everywhere("ACL", "SETUSER", "limits", permission)
	}
	if err := try(); err != nil {
		t.Errorf("as the documented user again: %v", err)
	}
	finish()
}

// quotaOf returns the key of c: the one that another charge changes.
func quotaOf(t *testing.T, cl *redistest.Cluster, l limiter.Limiter, c limiter.Charge) string {
	t.Helper()
	read := func() map[string]string {
		all := map[string]string{}
		for _, s := range cl.Nodes() {
			for _, k := range keysOf(s) {
				if s.Do("TYPE", k) == "string" {
					all[k] = s.Do("GET", k)
				}
			}
		}
		return all
	}
	before := read()
	if _, err := l.Take(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for k, v := range read() {
		if before[k] != v {
			return k
		}
	}
	t.Fatal("no key has changed")
	return ""
}
