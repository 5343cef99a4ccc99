package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/goweir/weir/examples/gateway/internal/config"
)

// describe prints what a configuration serves, a line for each route.
func describe(w io.Writer, c *config.Config) {
	for _, r := range c.Routes {
		fmt.Fprintf(w, "  %-12s -> %s", r.Path.Text, upstreamNames(r.Upstreams))
		for i, l := range r.Limits {
			sep := ", "
			if i == 0 {
				sep = "; limits: "
			}
			fmt.Fprintf(w, "%s%s %v", sep, l.Name, &l)
		}
		if !r.Capture {
			fmt.Fprint(w, "; recorded without bodies")
		}
		fmt.Fprintln(w)
	}
}

func upstreamNames(us []config.Upstream) string {
	var names []string
	for _, u := range us {
		name := string(u.URL)
		if u.URL == config.Demo {
			name = "the demo upstream inside"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// tour prints requests worth trying against the configuration that is built
// in, each showing one feature.
func tour(w io.Writer, base, auditFile string) {
	show := "; sleep 1; tail -n 1 " + auditFile
	if auditFile == "-" {
		show = ""
	}
	fmt.Fprintf(w, `
Try, in another terminal:

  # recorded as JSON, the secret masked
  curl -H 'Authorization: Bearer s3cret' -H 'Content-Type: application/json' -d '{"hello":"weir"}' %[1]s/echo%[2]s

  # a limit: five at once, then one a second, else 429 with Retry-After
  for i in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%%{http_code} ' %[1]s/limited/echo; done; curl -i %[1]s/limited/echo

  # a large download: streamed, its size recorded, its body not
  curl -o /dev/null '%[1]s/download?size=1GiB'

  # server-sent events, passed on as they happen
  curl -N %[1]s/clock

  # an upstream that dies in mid-answer: an error here too, never a clean end
  curl '%[1]s/broken?chunked=1'

Also there: /ws (a WebSocket that echoes), /slow?delay=5s, /fail. Ctrl-C ends it.
`, base, show)
}
