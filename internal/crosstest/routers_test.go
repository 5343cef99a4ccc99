package crosstest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	echo4 "github.com/labstack/echo/v4"
	echo4middleware "github.com/labstack/echo/v4/middleware"
	echo5 "github.com/labstack/echo/v5"
	echo5middleware "github.com/labstack/echo/v5/middleware"

	"github.com/goweir/weir/adapters/weirchi"
	"github.com/goweir/weir/adapters/weirecho"
	"github.com/goweir/weir/adapters/weirecho4"
	"github.com/goweir/weir/adapters/weirgin"
)

// A seen is what a logger outside everything else saw of a response.
type seen struct {
	status int
	size   int64
}

// A router is an application of one framework. Outermost is a logger of the
// framework's own kind, then its middleware that recovers, then what was given
// to its maker, by our adapter.
type router interface {
	http.Handler

	// Mount adds h as a route, by our adapter. The path has its parameters in
	// net/http's syntax.
	Mount(method, path string, h http.Handler)

	// Native adds the framework's own handler that does what kind says: one of
	// the kinds.
	Native(path, kind string)

	// Pattern is what the framework calls the route of path.
	Pattern(path string) string
}

// kinds are what handlers do, with the status and the body, or a part of it, of
// the answer.
var kinds = map[string]struct {
	status int
	body   string
}{
	"text":       {200, "text"},
	"empty":      {200, ""},
	"no content": {204, ""},
	"status":     {418, ""},
	"json":       {201, `"a":1`},
	"error":      {409, "taken"}, // by the framework's own idiom for errors
	"flush":      {200, "onetwo"},
	"panic":      {500, ""}, // answered by the framework, net/http aborts
	"value":      {200, "from the middleware"},
}

type valueKey struct{}

// values is a middleware that puts into the context what "value" answers with.
func values(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), valueKey{}, "from the middleware")))
	})
}

var errTaken = errors.New("taken")

// A maker makes a router. Log is told when everything else is done.
type maker func(log func(seen), use ...func(http.Handler) http.Handler) router

// makers has the table's columns.
func makers() map[string]maker {
	gin.SetMode(gin.ReleaseMode)
	return map[string]maker{"net/http": newStd, "chi": newChi, "Gin": newGin, "Echo v5": newEcho5, "Echo v4": newEcho4}
}

// logged is a logger of net/http's kind.
func logged(log func(seen)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ww := chimiddleware.NewWrapResponseWriter(w, r.ProtoMajor)
			defer func() { log(seen{ww.Status(), int64(ww.BytesWritten())}) }()
			next.ServeHTTP(ww, r)
		})
	}
}

// plain is the handler of kind for net/http and chi.
func plain(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch kind {
		case "text":
			io.WriteString(w, "text")
		case "empty":
		case "no content":
			w.WriteHeader(204)
		case "status":
			w.WriteHeader(418)
		case "json":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(201)
			io.WriteString(w, `{"a":1}`)
		case "error":
			http.Error(w, errTaken.Error(), 409)
		case "flush":
			io.WriteString(w, "one")
			http.NewResponseController(w).Flush()
			io.WriteString(w, "two")
		case "panic":
			panic("oh")
		case "value":
			io.WriteString(w, r.Context().Value(valueKey{}).(string))
		}
	}
}

// chain puts h behind middleware, the first outermost.
func chain(h http.Handler, use ...func(http.Handler) http.Handler) http.Handler {
	for i := len(use) - 1; i >= 0; i-- {
		h = use[i](h)
	}
	return h
}

type std struct {
	*http.ServeMux
	use []func(http.Handler) http.Handler
	log func(seen)
}

func newStd(log func(seen), use ...func(http.Handler) http.Handler) router {
	return &std{http.NewServeMux(), use, log}
}

// ServeHTTP matches first, as whoever wants to limit by route has to.
func (s *std) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	match := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, r.Pattern = s.Handler(r)
			next.ServeHTTP(w, r)
		})
	}
	chain(chain(s.ServeMux, s.use...), logged(s.log), match).ServeHTTP(w, r)
}

func (s *std) Mount(method, path string, h http.Handler) { s.Handle(method+" "+path, h) }
func (s *std) Native(path, kind string)                  { s.Mount("GET", path, plain(kind)) }
func (s *std) Pattern(path string) string                { return "GET " + path }

type chiRouter struct{ *chi.Mux }

func newChi(log func(seen), use ...func(http.Handler) http.Handler) router {
	r := chi.NewRouter()
	r.Use(logged(log), chimiddleware.Recoverer, weirchi.Pattern(r))
	r.Use(use...)
	return chiRouter{r}
}

func (c chiRouter) Mount(method, path string, h http.Handler) { c.Method(method, path, h) }
func (c chiRouter) Native(path, kind string)                  { c.Mount("GET", path, plain(kind)) }
func (c chiRouter) Pattern(path string) string                { return path }

// colons translates a path into the syntax of Gin and Echo.
func colons(path string) string { return strings.NewReplacer("{", ":", "}", "").Replace(path) }

type ginRouter struct{ *gin.Engine }

func newGin(log func(seen), use ...func(http.Handler) http.Handler) router {
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.Use(func(c *gin.Context) {
		c.Next()
		log(seen{c.Writer.Status(), int64(max(0, c.Writer.Size()))})
	}, gin.RecoveryWithWriter(io.Discard))
	for _, mw := range use {
		e.Use(weirgin.Wrap(mw))
	}
	e.Use(func(c *gin.Context) { // inside, as weirgin advises
		c.Next()
		if err := c.Errors.Last(); err != nil && !c.Writer.Written() {
			c.JSON(http.StatusConflict, gin.H{"error": err.Error()})
		}
	})
	return ginRouter{e}
}

func (g ginRouter) Mount(method, path string, h http.Handler) {
	g.Handle(method, colons(path), weirgin.Handler(h))
}

func (g ginRouter) Native(path, kind string) {
	g.GET(colons(path), func(c *gin.Context) {
		switch kind {
		case "text":
			c.String(200, "text")
		case "no content", "status":
			c.Status(kinds[kind].status)
		case "json":
			c.JSON(201, gin.H{"a": 1})
		case "error":
			c.Error(errTaken)
		case "flush":
			c.String(200, "one")
			c.Writer.Flush()
			c.Writer.WriteString("two")
		case "panic":
			panic("oh")
		case "value":
			c.String(200, c.Request.Context().Value(valueKey{}).(string))
		}
	})
}

func (g ginRouter) Pattern(path string) string { return colons(path) }

type echo5Router struct{ *echo5.Echo }

func newEcho5(log func(seen), use ...func(http.Handler) http.Handler) router {
	e := echo5.New()
	e.Logger = quiet
	e.HTTPErrorHandler = func(c *echo5.Context, err error) {
		if res, uerr := echo5.UnwrapResponse(c.Response()); uerr == nil && res.Committed {
			return
		}
		status, message := 500, "internal"
		var coder echo5.HTTPStatusCoder
		if errors.As(err, &coder) {
			status, message = coder.StatusCode(), err.Error()
		}
		c.JSON(status, map[string]string{"error": message})
	}
	e.Use(func(next echo5.HandlerFunc) echo5.HandlerFunc {
		return func(c *echo5.Context) error {
			res, err := echo5.UnwrapResponse(c.Response())
			if err != nil {
				return err
			}
			defer func() { log(seen{res.Status, res.Size}) }()
			if err := next(c); err != nil {
				c.Echo().HTTPErrorHandler(c, err) // as Echo's own loggers do
			}
			return nil
		}
	}, echo5middleware.Recover())
	for _, mw := range use {
		e.Use(weirecho.Wrap(mw))
	}
	return echo5Router{e}
}

func (e echo5Router) Mount(method, path string, h http.Handler) {
	e.Add(method, colons(path), weirecho.Handler(h))
}

func (e echo5Router) Native(path, kind string) {
	e.GET(colons(path), func(c *echo5.Context) error {
		switch kind {
		case "text":
			return c.String(200, "text")
		case "no content", "status":
			return c.NoContent(kinds[kind].status)
		case "json":
			return c.JSON(201, map[string]int{"a": 1})
		case "error":
			return echo5.NewHTTPError(409, errTaken.Error())
		case "flush":
			c.String(200, "one")
			http.NewResponseController(c.Response()).Flush()
			_, err := io.WriteString(c.Response(), "two")
			return err
		case "panic":
			panic("oh")
		case "value":
			return c.String(200, c.Request().Context().Value(valueKey{}).(string))
		}
		return nil
	})
}

func (e echo5Router) Pattern(path string) string { return colons(path) }

type echo4Router struct{ *echo4.Echo }

func newEcho4(log func(seen), use ...func(http.Handler) http.Handler) router {
	e := echo4.New()
	e.Logger.SetOutput(io.Discard)
	e.HTTPErrorHandler = func(err error, c echo4.Context) {
		if c.Response().Committed {
			return
		}
		status, message := 500, "internal"
		if he, ok := errors.AsType[*echo4.HTTPError](err); ok {
			status, message = he.Code, err.Error()
		}
		c.JSON(status, map[string]string{"error": message})
	}
	e.Use(func(next echo4.HandlerFunc) echo4.HandlerFunc {
		return func(c echo4.Context) error {
			defer func() { log(seen{c.Response().Status, c.Response().Size}) }()
			if err := next(c); err != nil {
				c.Error(err)
			}
			return nil
		}
	}, echo4middleware.Recover())
	for _, mw := range use {
		e.Use(weirecho4.Wrap(mw))
	}
	return echo4Router{e}
}

func (e echo4Router) Mount(method, path string, h http.Handler) {
	e.Add(method, colons(path), weirecho4.Handler(h))
}

func (e echo4Router) Native(path, kind string) {
	e.GET(colons(path), func(c echo4.Context) error {
		switch kind {
		case "text":
			return c.String(200, "text")
		case "no content", "status":
			return c.NoContent(kinds[kind].status)
		case "json":
			return c.JSON(201, map[string]int{"a": 1})
		case "error":
			return echo4.NewHTTPError(409, errTaken.Error())
		case "flush":
			c.String(200, "one")
			c.Response().Flush()
			_, err := io.WriteString(c.Response(), "two")
			return err
		case "panic":
			panic("oh")
		case "value":
			return c.String(200, c.Request().Context().Value(valueKey{}).(string))
		}
		return nil
	})
}

func (e echo4Router) Pattern(path string) string { return colons(path) }

// everywhere runs f for every framework over HTTP/1.1 and HTTP/2.
func everywhere(t *testing.T, f func(t *testing.T, name, proto string, build maker)) {
	for name, build := range makers() {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run(name+" "+proto, func(t *testing.T) { f(t, name, proto, build) })
		}
	}
}
