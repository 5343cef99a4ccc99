package proxy

import (
	"testing"
	"unsafe"
)

// An exchange is the largest of what a request allocates. Beyond this the next
// size that Go allocates is 768 bytes.
func TestExchangeSize(t *testing.T) {
	if size := unsafe.Sizeof(exchange{}); size > 704 {
		t.Errorf("%d bytes, want at most 704", size)
	}
}
