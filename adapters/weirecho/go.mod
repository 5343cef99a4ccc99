module github.com/goweir/weir/adapters/weirecho

go 1.26.0

require github.com/labstack/echo/v5 v5.3.1

require golang.org/x/time v0.15.0 // indirect
