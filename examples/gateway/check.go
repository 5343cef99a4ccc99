package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/goweir/weir/clientip"
)

// check says that a configuration is well, and what would handle the request
// that the arguments of the command describe, if there are any. It starts
// nothing, asks nobody and writes nothing.
func check(cmd *command, w io.Writer) error {
	r, err := askedFor(cmd.args)
	if err != nil {
		return usageError{err}
	}
	c := *cmd.config
	c.Audit.File, c.Audit.HAR = "-", ""
	out := outside{stdout: io.Discard, log: slog.New(slog.DiscardHandler), demo: "http://demo", dry: true}
	chain, err := build(&c, out, nil)
	if err != nil {
		return usage(err)
	}
	defer chain.parts.release()
	fmt.Fprintf(w, "%s is well: %d routes, hash %s\n", c.File, len(c.Routes), chain.sum)
	if r != nil {
		explain(w, chain, r)
	}
	return nil
}

// askedFor reads [METHOD] PATH [ADDRESS], nil if there is nothing.
func askedFor(args []string) (*http.Request, error) {
	if len(args) == 0 {
		return nil, nil
	}
	method, addr := "GET", "192.0.2.1"
	if !strings.Contains(args[0], "/") {
		method, args = args[0], args[1:]
	}
	if len(args) == 0 || len(args) > 2 {
		return nil, errors.New("-check: want [METHOD] PATH [ADDRESS], such as GET /path 192.0.2.1")
	}
	if len(args) == 2 {
		addr = args[1]
	}
	peer, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("-check: %q is no address", addr)
	}
	r, err := http.NewRequest(method, args[0], nil)
	if err != nil {
		return nil, fmt.Errorf("-check: %w", err)
	}
	r.RemoteAddr = net.JoinHostPort(peer.String(), "1")
	return r, nil
}

// explain prints what would handle r, in order.
func explain(w io.Writer, c *chain, r *http.Request) {
	fmt.Fprintf(w, "%s %s from %s\n", r.Method, r.URL, r.RemoteAddr[:strings.LastIndex(r.RemoteAddr, ":")])
	line := func(room, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", room, fmt.Sprintf(format, args...))
	}
	var client netip.Addr
	c.resolver.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { client = clientip.From(r) })).ServeHTTP(nil, r)
	if trusted(c, client) {
		line("client", "%v, whose %s is believed", client, c.config.ClientIP.Field())
	} else {
		line("client", "%v; its %s is not believed", client, c.config.ClientIP.Field())
	}
	h, pattern := c.mux.Handler(r)
	if built, ok := h.(*route); ok && !built.config.Capture {
		line("audit", "recorded without bodies")
	} else {
		line("audit", "recorded")
	}
	for _, built := range c.routes {
		if built.config.Path.Text != pattern {
			continue
		}
		line("route", "%s", pattern)
		if _, ok := h.(*route); !ok {
			line("mux", "redirected to a path that it matches")
			return
		}
		for i := range built.config.Limits {
			l := &built.config.Limits[i]
			applies := "applies"
			if m := built.rules[i].Match; m != nil && !m(r) {
				applies = "does not apply to this request"
			}
			line("limit", "%s: %v; %s", l.Name, l, applies)
		}
		for _, step := range built.steps[len(built.config.Limits):] {
			room, rest, _ := strings.Cut(step, ": ")
			line(room, "%s", rest)
		}
		return
	}
	line("route", "none: 404, or 405 if another method would match")
}

func trusted(c *chain, addr netip.Addr) bool {
	for _, p := range c.config.Trust {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
