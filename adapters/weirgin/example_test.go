package weirgin_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"

	"github.com/goweir/weir/adapters/weirgin"
)

// A middleware of the standard library, and a file server as a route.
func Example() {
	r := gin.New()
	r.SetTrustedProxies(nil)
	r.Use(gin.RecoveryWithWriter(io.Discard))

	sameOrigin := http.NewCrossOriginProtection()
	r.Use(weirgin.Wrap(sameOrigin.Handler))

	r.POST("/orders/:id", func(c *gin.Context) {
		c.String(http.StatusCreated, "order %s", c.Param("id"))
	})
	r.GET("/docs/*path", weirgin.Handler(http.FileServer(http.Dir("/usr/share/doc"))))

	for _, site := range []string{"same-origin", "cross-site"} {
		request := httptest.NewRequest("POST", "/orders/7", nil)
		request.Header.Set("Sec-Fetch-Site", site)
		answer := httptest.NewRecorder()
		r.ServeHTTP(answer, request)
		fmt.Println(answer.Code, answer.Body)
	}
	// Output:
	// 201 order 7
	// 403 cross-origin request detected from Sec-Fetch-Site header
}

// A middleware of your own sees the route, and what Gin's handlers write.
func ExampleWrap() {
	logs := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen := &statusWriter{ResponseWriter: w}
			next.ServeHTTP(seen, r)
			fmt.Println(r.Pattern, r.PathValue("id"), seen.status)
		})
	}
	r := gin.New()
	r.SetTrustedProxies(nil)
	r.Use(weirgin.Wrap(logs))
	r.GET("/users/:id", func(c *gin.Context) { c.Status(http.StatusNoContent) })

	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/users/7", nil))
	// Output: /users/:id 7 204
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// What weirgin is for: with gin.WrapH a refusal is written, and the handler runs
// all the same.
func Example_incorrect() {
	limit := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "slow down", http.StatusTooManyRequests)
		})
	}
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	r := gin.New()
	r.Use(gin.WrapH(limit(nothing))) // use weirgin.Wrap(limit)
	r.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "SECRET") })

	answer := httptest.NewRecorder()
	r.ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	fmt.Printf("%d %q\n", answer.Code, answer.Body)
	// Output: 429 "slow down\nSECRET"
}
