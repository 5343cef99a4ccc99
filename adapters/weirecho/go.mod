module github.com/goweir/weir/adapters/weirecho

go 1.26.0

require github.com/labstack/echo/v5 v5.3.1
