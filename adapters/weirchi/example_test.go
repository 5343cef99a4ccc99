package weirchi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/chi/v5"

	"github.com/goweir/weir/adapters/weirchi"
)

// A middleware that has the route before chi has routed.
func ExamplePattern() {
	audit := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Printf("%s %q, id %q\n", r.URL, r.Pattern, r.PathValue("id"))
			next.ServeHTTP(w, r)
		})
	}
	r := chi.NewRouter()
	r.Use(weirchi.Pattern(r), audit)
	r.Get("/users/{id}", func(w http.ResponseWriter, r *http.Request) {})

	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/users/7", nil))
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/nowhere", nil))
	// Output:
	// /users/7 "/users/{id}", id "7"
	// /nowhere "", id ""
}
