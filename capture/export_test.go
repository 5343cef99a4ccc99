package capture

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
