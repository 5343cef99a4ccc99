package proxy_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goweir/weir/proxy"
)

// notebook is an Observer that writes down what it is told.
type notebook struct {
	mu     sync.Mutex
	events []proxy.Event
}

func (n *notebook) Observe(_ context.Context, e proxy.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// take returns what was written down since the last take, of some kinds or of
// all.
func (n *notebook) take(kinds ...proxy.EventKind) (events []proxy.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if len(kinds) == 0 || slices.Contains(kinds, e.Kind) {
			events = append(events, e)
		}
	}
	n.events = nil
	return events
}

// agree fails unless each request has ended once, and as the log has it.
func (n *notebook) agree(t *testing.T, log string) {
	t.Helper()
	ended := 0
	for _, e := range n.take(proxy.EventRequest) {
		ended++
		said := e.Side != "" && strings.HasSuffix(log, ", "+string(e.Side)+", "+string(e.Phase))
		well := e.Side == "" && e.Result == proxy.OutcomeOK && !strings.Contains(log, "request failed") && !strings.Contains(log, "broken off")
		switch {
		case e.Phase == proxy.PhaseCheck && log == "-": // refusals come in floods, and are not logged
			well = e.Side == proxy.SideServer && (e.Result == proxy.OutcomeRefused || e.Result == proxy.OutcomeFallback)
		case e.Phase == proxy.PhaseTunnel:
			well = strings.HasPrefix(log, "tunnel ended")
		}
		if !said && !well {
			t.Errorf("observed %q on the side %q in phase %q; logged %q", e.Result, e.Side, e.Phase, log)
		}
	}
	if ended == 0 {
		t.Error("the end of the request was not observed")
	}
}
