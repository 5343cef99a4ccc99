module github.com/goweir/weir/internal/crosstest

go 1.26.0

require (
	github.com/goweir/weir v0.0.0
	golang.org/x/time v0.16.0
)

require pgregory.net/rapid v1.3.0

require (
	github.com/dunglas/httpsfv v1.1.2
	github.com/gorilla/websocket v1.5.3
)

replace github.com/goweir/weir => ../../
