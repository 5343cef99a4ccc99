package proxy

import (
	"testing"
	"unsafe"
)

// An exchange is the largest of what a request allocates. Beyond this the next
// size that Go allocates is 896 bytes.
func TestExchangeSize(t *testing.T) {
	if size := unsafe.Sizeof(exchange{}); size > 768 {
		t.Errorf("%d bytes, want at most 768", size)
	}
}
