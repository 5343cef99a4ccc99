module github.com/goweir/weir/internal/crosstest

go 1.26.0

require (
	github.com/goweir/weir v0.0.0
	golang.org/x/time v0.16.0
)

require pgregory.net/rapid v1.3.0

require github.com/dunglas/httpsfv v1.1.2

require github.com/anishathalye/porcupine v1.3.1

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/redis/go-redis/v9 v9.23.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
)

replace github.com/goweir/weir => ../../
