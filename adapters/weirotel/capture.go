package weirotel

import (
	"context"

	"github.com/goweir/weir/capture"
)

// Capture returns an observer for capture.Options and capture.AsyncOptions. One
// is enough for all of them. A middleware in front of a queue tells of what the
// queue was offered and the queue of what came of it: give it to both.
func (t *Telemetry) Capture() capture.Observer { return &t.capture }

type captureTelemetry struct {
	exchanges, outcomes, dropped, skipped, truncated counter
	sink                                             histogram
}

func (c *captureTelemetry) init(t *Telemetry) {
	c.exchanges = t.counter("weir.capture.exchanges", "{exchange}", "Exchanges, by what became of their records.", byRoute(resultKey))
	c.outcomes = t.counter("weir.capture.outcomes", "{exchange}", "Exchanges, by how they ended.", byWord("weir.outcome"))
	c.dropped = t.counter("weir.capture.dropped", "{record}", "Records that were lost.", byWord(reasonKey))
	c.skipped = t.counter("weir.capture.skipped", "{body}", "Bodies of which nothing was captured.", byBoth(reasonKey, partKey))
	c.truncated = t.counter("weir.capture.truncated", "{body}", "Bodies of which only a beginning was captured.", byBoth(reasonKey, partKey))
	c.sink = t.histogram("weir.capture.sink.duration", "Time that sinks took for a record.", sinkBuckets, byWord(resultKey))
}

// Observe implements [capture.Observer].
func (c *captureTelemetry) Observe(ctx context.Context, e capture.Event) {
	switch e.Kind {
	case capture.EventSkipped:
		c.skipped.add(ctx, 1, key{name: string(e.Skip), word: string(e.Part)}) // a hook may have a word of its own
		return
	case capture.EventTruncated:
		c.truncated.add(ctx, 1, key{name: string(e.Skip), word: string(e.Part)})
		return
	case capture.EventOffered, capture.EventThinned, capture.EventSampledOut:
		// Exactly one of them is told of each exchange.
		c.outcomes.add(ctx, 1, key{word: string(e.Outcome)})
	}
	switch e.Kind {
	case capture.EventThinned, capture.EventSampledOut, capture.EventDelivered, capture.EventDropped:
		c.exchanges.add(ctx, 1, key{route: e.Route, word: e.Kind.String()})
	}
	if e.Kind == capture.EventDropped {
		c.dropped.add(ctx, 1, key{word: string(e.Drop)})
	}
	if e.Kind == capture.EventDelivered || e.Drop == capture.DropFailed {
		c.sink.record(ctx, e.Duration.Seconds(), key{word: e.Kind.String()})
	}
}
