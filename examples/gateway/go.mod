module github.com/goweir/weir/examples/gateway

go 1.26.0

require (
	github.com/coder/websocket v1.8.15
	github.com/goccy/go-yaml v1.19.2
	github.com/goweir/weir v0.0.0
)

require github.com/sony/gobreaker/v2 v2.4.0 // indirect

replace github.com/goweir/weir => ../..
