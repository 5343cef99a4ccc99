module github.com/goweir/weir/adapters/weirchi

go 1.26.0

require github.com/go-chi/chi/v5 v5.5.0
