package capture

import "slices"

// A names judges names of fields. Only letters and digits count, in lower case,
// so that X-Api-Key, x_api_key and apiKey are one. It does not change once made.
//
// Whether a name contains one of the parts is told by the automaton of Aho and
// Corasick (CACM 18, 1975), in one pass whatever the number of parts: names are
// judged for each field of each body.
type names struct {
	class   [256]uint8 // ignored, other, or that of a byte that occurs in a part
	lower   [256]byte
	classes int32
	next    []int32  // next[state+class], states being multiples of classes
	exact   []uint64 // whole names, packed
	loose   []uint64 // those of exact that are no secrets in a body
}

const (
	ignored = 0 // punctuation
	other   = 1 // in no part
	found   = -1
)

// newNames returns the judge of names that contain one of parts or are one of
// exact, except those of loose in bodies.
func newNames(parts, exact, loose []string) *names {
	n := &names{classes: 2}
	for c := range 256 {
		n.lower[c] = byte(c)
		if 'A' <= c && c <= 'Z' {
			n.lower[c] += 'a' - 'A'
		}
		if isAlphanumeric(byte(c)) {
			n.class[c] = other
		}
	}
	var plain [][]byte
	for _, part := range parts {
		p := appendPlain(nil, part)
		if len(p) == 0 {
			continue
		}
		plain = append(plain, p)
		for _, c := range p {
			if n.class[c] == other && n.classes < 255 { // more are not told apart
				n.class[c] = uint8(n.classes)
				n.classes++
			}
		}
	}
	for c := range 256 {
		n.class[c] = n.class[n.lower[c]]
	}
	n.build(plain)
	for _, name := range exact {
		if !slices.Contains(loose, name) {
			n.exact = append(n.exact, pack(name))
		}
	}
	for _, name := range loose {
		n.loose = append(n.loose, pack(name))
	}
	return n
}

func (n *names) build(parts [][]byte) {
	k := n.classes
	grow := func() int32 {
		at := int32(len(n.next))
		n.next = append(n.next, make([]int32, k)...)
		return at
	}
	grow()
	for _, part := range parts {
		s := int32(0)
		for i, c := range part {
			at := s + int32(n.class[c])
			switch {
			case n.next[at] == found:
			case i == len(part)-1:
				n.next[at] = found
			case n.next[at] == 0:
				to := grow()
				n.next[at] = to
			}
			if s = n.next[at]; s == found {
				break // a shorter part is the beginning of this one
			}
		}
	}
	// Breadth first: where a state has no edge, it goes where its longest
	// proper suffix goes.
	suffix := make([]int32, len(n.next)/int(k))
	var queue []int32
	for _, to := range n.next[:k] {
		if to > 0 {
			queue = append(queue, to)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		back := suffix[s/k]
		for c := range k {
			to := &n.next[s+c]
			switch {
			case n.next[back+c] == found:
				*to = found
			case *to == 0:
				*to = n.next[back+c]
			case *to > 0:
				suffix[*to/k] = n.next[back+c]
				queue = append(queue, *to)
			}
		}
	}
}

// A place is where a name stands.
type place uint8

const (
	inHead place = iota // a header field, or a parameter of a query or form
	inBody              // a member of a JSON document, or free text
)

func isSecretIn[T string | []byte](n *names, name T, where place) bool {
	var s int32
	var packed uint64
	length := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 0x80 {
			c, i = fold(name, i)
		}
		class := n.class[c]
		if class == ignored {
			continue
		}
		if s = n.next[s+int32(class)]; s == found {
			return true
		}
		packed = packed<<8 | uint64(n.lower[c])
		length++
	}
	if length > 8 {
		return false
	}
	return slices.Contains(n.exact, packed) || where == inHead && slices.Contains(n.loose, packed)
}

// fold returns the byte at i and the index of its end, in which those two
// characters beyond ASCII count as ASCII that decoders without regard to case,
// Go's encoding/json among them, take for an s and a k.
func fold[T string | []byte](name T, i int) (byte, int) {
	switch {
	case name[i] == 0xC5 && i+1 < len(name) && name[i+1] == 0xBF: // U+017F
		return 's', i + 1
	case name[i] == 0xE2 && i+2 < len(name) && name[i+1] == 0x84 && name[i+2] == 0xAA: // U+212A
		return 'k', i + 2
	}
	return name[i], i
}

// appendPlain appends the letters and digits of name in lower case.
func appendPlain[T string | []byte](dst []byte, name T) []byte {
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 0x80:
			c, i = fold(name, i)
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case !isAlphanumeric(c):
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// pack puts a plain name of at most 8 bytes into a number.
func pack(name string) (packed uint64) {
	for i := range len(name) {
		packed = packed<<8 | uint64(name[i])
	}
	return packed
}
