module github.com/goweir/weir

go 1.26.0
