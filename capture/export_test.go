package capture

import "errors"

// Poison fills the free chunks of b.
func Poison(b *Budget) {
	for _, size := range []int{firstChunk, nextChunk} {
		var free []*chunk
		for {
			c, ok := b.pool(size).Get().(*chunk)
			if !ok {
				break
			}
			for i := range c.buf[:size] {
				c.buf[:size][i] = 0xDB
			}
			free = append(free, c)
		}
		for _, c := range free {
			b.pool(size).Put(c)
		}
	}
}

// BodyRedactor returns a function that appends to out what may be seen of a
// body, at the cost of doing so for one record after the other.
func BodyRedactor(o *Options) func(out []byte, contentType string, body []byte) ([]byte, error) {
	if o == nil {
		o = new(Options)
	}
	rd, err := newRedactor(o)
	if err != nil {
		panic(err)
	}
	s := &jsonScan{rd: rd}
	return func(out []byte, contentType string, body []byte) ([]byte, error) {
		spans, with, ok := s.scanBody(contentType, body, false)
		if !ok {
			return nil, errors.New("redaction failed")
		}
		done := 0
		for _, span := range spans {
			out = append(append(out, body[done:span.from]...), with...)
			done = span.to
		}
		return append(out, body[done:]...), nil
	}
}
