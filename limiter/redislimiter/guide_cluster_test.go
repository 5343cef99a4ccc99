//go:build unix

package redislimiter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/redistest"
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
			key = l.KeyOf(one(1000))
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
