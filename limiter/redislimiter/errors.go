package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// What the server, or the way to it, may fail with. Each error of a [Limiter]
// that is not about an invalid charge or the caller's own context matches one of
// these by [errors.Is], and still wraps what go-redis returned.
//
// After all of them but ErrUnknown it is certain that nothing was taken.
var (
	// ErrUnknown: the question was sent, and no answer came. It may have been
	// decided, so it is never asked again.
	ErrUnknown = errors.New("no answer, the charge may have been taken")

	// ErrUnreachable: there was no connection to ask by: refused, not there in
	// time, none free, or the client is closed.
	ErrUnreachable = errors.New("server not reached, nothing was taken")

	// ErrCrowded: 65536 decisions of this process wait for the server already.
	ErrCrowded = errors.New("too many decisions wait, nothing was taken")

	// ErrReadOnly: the server is a replica. The connection is dropped, and the
	// question was asked once more on another.
	ErrReadOnly = errors.New("the server is a read-only replica")

	// ErrLoading: the server reads its data after a start.
	ErrLoading = errors.New("the server is loading its data")

	// ErrBusy: a script of somebody else runs for too long.
	ErrBusy = errors.New("the server is busy with another script")

	// ErrOutOfMemory: maxmemory is reached, and maxmemory-policy evicts nothing.
	ErrOutOfMemory = errors.New("the server is out of memory")

	// ErrPermission: the ACL of the user lacks a command or the keys; see
	// [Limiter.Diagnose] for a line that suffices.
	ErrPermission = errors.New("the server's ACL forbids it")

	// ErrAuth: the server wants a password, or another one.
	ErrAuth = errors.New("the server refuses the credentials")

	// ErrWrongType: a key of ours holds something else. Another program uses the
	// same prefix.
	ErrWrongType = errors.New("a key holds what is not ours")

	// ErrCluster: the cluster, or the part of it that holds the key, is down or
	// moving.
	ErrCluster = errors.New("the cluster cannot serve the key")

	// ErrServer: anything else that the server refused, or answered and should
	// not have.
	ErrServer = errors.New("the server refused")
)

// prefixes are the codes of errors; some come from inside a script, behind
// others.
var prefixes = []struct {
	code string
	is   error
}{
	{"READONLY", ErrReadOnly},
	{"LOADING", ErrLoading},
	{"BUSY", ErrBusy},
	{"OOM", ErrOutOfMemory},
	{"NOPERM", ErrPermission},
	{"NOAUTH", ErrAuth},
	{"WRONGPASS", ErrAuth},
	{"WRONGTYPE", ErrWrongType},
	{"CLUSTERDOWN", ErrCluster},
	{"TRYAGAIN", ErrCluster},
	{"MASTERDOWN", ErrCluster},
	{"CROSSSLOT", ErrCluster},
	{"MOVED", ErrCluster},
	{"ASK", ErrCluster},
}

// explain says what err means. sent is whether the question may have left.
func explain(err error, sent bool) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("redislimiter: %w: %w", meaning(err, sent), err)
}

func meaning(err error, sent bool) error {
	if server, ok := errors.AsType[redis.Error](err); ok {
		text := server.Error()
		for _, p := range prefixes {
			if hasCode(text, p.code) {
				return p.is
			}
		}
		if strings.Contains(text, "unauthenticated") {
			return ErrAuth // to a command of many arguments
		}
		if strings.Contains(text, "can't run this command or subcommand") || strings.Contains(text, "ACL failure in script") ||
			strings.Contains(text, "can't access at least one of the keys") {
			return ErrPermission
		}
		return ErrServer
	}
	if !sent || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrClosed) {
		return ErrUnreachable
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return ErrUnreachable
	}
	return ErrUnknown
}

// hasCode reports whether a server's error has a code, in front or where a
// script passed it on ("ERR Error running script ...: -OOM ...").
func hasCode(text, code string) bool {
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(text, "ERR "), code); ok && strings.HasPrefix(rest, " ") {
		return true
	}
	return strings.Contains(text, "-"+code+" ") || strings.Contains(text, ": "+code+" ")
}

// callers reports whether err is the end of the caller's own context before
// anything was sent.
func callers(ctx context.Context, err error) bool {
	return ctx.Err() != nil && errors.Is(err, ctx.Err())
}
