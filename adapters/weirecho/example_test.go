package weirecho_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/labstack/echo/v5"

	"github.com/goweir/weir/adapters/weirecho"
)

// A middleware of the standard library as one of Echo's. What it refuses is
// formatted by the application's error handler.
func ExampleWrap() {
	e := echo.New()
	e.HTTPErrorHandler = func(c *echo.Context, err error) {
		c.String(echo.StatusCode(err), "sorry: "+http.StatusText(echo.StatusCode(err)))
	}
	e.Use(weirecho.Wrap(http.NewCrossOriginProtection().Handler))
	e.POST("/transfer", func(c *echo.Context) error { return c.String(http.StatusOK, "done") })

	for _, site := range []string{"same-origin", "cross-site"} {
		r := httptest.NewRequest("POST", "/transfer", nil)
		r.Header.Set("Sec-Fetch-Site", site)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Body)
	}
	// Output:
	// 200 done
	// 403 sorry: Forbidden
}

// A handler of net/http as a route. It answers for itself: its 404 is its own.
func ExampleHandler() {
	files := http.StripPrefix("/files", http.FileServerFS(os.DirFS(".")))
	e := echo.New()
	e.GET("/files/*", weirecho.Handler(files))

	for _, path := range []string{"/files/go.mod", "/files/nowhere"} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		body, _ := io.ReadAll(io.LimitReader(w.Body, 18))
		fmt.Printf("%d %q\n", w.Code, body)
	}
	// Output:
	// 200 "module github.com/"
	// 404 "404 page not found"
}
