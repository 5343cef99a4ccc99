// Command caddybench is Caddy's reverse_proxy at its defaults, as a process that
// the benchmarks of package proxy measure: caddybench LISTEN UPSTREAM, both
// host:port. It prints its URL, and ends when its standard input does.
//
// It is a module of its own, and not part of the workspace, because of the many
// modules that Caddy needs: build it with GOWORK=off.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

type object = map[string]any

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: caddybench LISTEN UPSTREAM")
		os.Exit(2)
	}
	config, err := json.Marshal(object{
		"admin":   object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{"level": "ERROR"}}},
		"apps": object{"http": object{"servers": object{"proxy": object{
			"listen":          []string{os.Args[1]},
			"automatic_https": object{"disable": true},
			"routes": []object{{"handle": []object{{
				"handler":   "reverse_proxy",
				"upstreams": []object{{"dial": os.Args[2]}},
			}}}},
		}}}},
	})
	if err == nil {
		err = caddy.Load(config, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("http://" + os.Args[1])
	io.Copy(io.Discard, os.Stdin)
}
