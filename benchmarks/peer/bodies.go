package peer

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httplog/v3"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
)

// A BodyLogger is a way to log the bodies of responses that Go programs use
// today, at its defaults.
type BodyLogger struct {
	Name string
	Wrap func(http.Handler) http.Handler
}

// BodyLoggers are those of Gin (the writer that is passed around since
// gin-gonic/gin#1363), Echo, chi and httplog. Where they leave it to the program
// what becomes of a body, it is written to nowhere.
var BodyLoggers = []BodyLogger{
	{"Gin #1363 snippet", ginSnippet},
	{"Echo v5 BodyDump", echoBodyDump},
	{"chi Tee", chiTee},
	{"httplog v3", httplogBodies},
}

// ginTee is a gin.ResponseWriter that keeps what passes.
type ginTee struct {
	gin.ResponseWriter
	body *bytes.Buffer
}

func (w ginTee) Write(p []byte) (int, error) {
	w.body.Write(p)
	return w.ResponseWriter.Write(p)
}

func ginSnippet(next http.Handler) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(func(c *gin.Context) {
		tee := ginTee{c.Writer, new(bytes.Buffer)}
		c.Writer = tee
		c.Next()
		io.Discard.Write(tee.body.Bytes())
	})
	engine.Any("/*path", gin.WrapH(next))
	return engine
}

func echoBodyDump(next http.Handler) http.Handler {
	e := echo.New()
	e.Use(echomiddleware.BodyDump(func(_ *echo.Context, _, body []byte, _ error) { io.Discard.Write(body) }))
	e.Any("/*", echo.WrapHandler(next))
	return e
}

func chiTee(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		tee := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		tee.Tee(&body)
		next.ServeHTTP(tee, r)
		io.Discard.Write(body.Bytes())
	})
}

func httplogBodies(next http.Handler) http.Handler {
	always := func(*http.Request) bool { return true }
	return httplog.RequestLogger(slog.New(slog.DiscardHandler), &httplog.Options{
		LogRequestBody: always, LogResponseBody: always,
	})(next)
}
