package stdtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests of httputil.ReverseProxy are pointed at package proxy in an overlay
// of this module: a package of theirs beside a shim with ReverseProxy's fields,
// and a copy of package proxy that is changed in one import only. Below it
// stands the real ReverseProxy, which the shim hands what a test sets and a
// proxy.Config has not: ModifyResponse, ErrorHandler, BufferPool, FlushInterval.
// Rewrite and Director run before the transport. All else is the proxy's: the
// front door, routing, transport, bodies, informational responses, upgrades,
// aborts, errors.

const (
	thisModule   = "github.com/goweir/weir"
	shimFolder   = "internal/stdtest/testdata/reverseproxy" // on disk, because tests run where they are
	delegatePath = thisModule + "/" + shimFolder + "/delegate"
)

// everywhere are the edits without which the tests would not build outside of
// their package.
var everywhere = []replacement{
	{`\n\t"net/http/internal/ascii"`, ""},
	{`ascii\.EqualFold`, "strings.EqualFold"},
	{`\n\tinOurTests = true`, ""},
	{`\n\thopHeaders = append\(hopHeaders, fakeHopHeader\)`, ""},
}

// An adapted test differs from Go's in what is named here, and runs otherwise
// as it is.
type adapted struct {
	reason  string
	replace []replacement
}

var adaptedTests = map[string]adapted{
	"TestReverseProxy": {
		"it adds a hop-by-hop field of its own to an unexported list, where a real one will do; and it sends an upgrade to foo, which is refused, see TestTrapProxy07",
		[]replacement{
			{`"X-Fake-Hop-Header-For-Test"`, `"Proxy-Authenticate"`},
			{`\n\tgetReq\.Header\.Set\("Upgrade", "foo"\)`, ""},
		},
	},
	"TestReverseProxyRewriteStripsForwarded": {
		"the fields are not absent but written by the proxy; the client's own must not pass",
		[]replacement{{`if v := r\.Header\.Get\(h\); v != "" \{`, `if v := r.Header.Get(h); v == "x" {`}},
	},
	"TestReverseProxy_CopyBuffer": {
		"the proxy sends on what came before the break, so that the error is that of the body; and the test looks for words of ReverseProxy's log",
		[]replacement{
			{`if _, err = frontendProxy\.Client\(\)\.Get\(frontendProxy\.URL\); err == nil \{`,
				"res, err := frontendProxy.Client().Get(frontendProxy.URL)\n\tif err == nil {\n\t\t_, err = io.ReadAll(res.Body)\n\t}\n\tif err == nil {"},
			{`\t\t"EOF",\n\t\t"read",`, "\t\t\"EOF\",\n\t\t\"broken off\","},
		},
	},
	"TestReverseProxyUpgradeNoCloseWrite": {
		"only upgrades to websocket pass",
		[]replacement{{`\.Set\("Upgrade", "u"\)`, `.Set("Upgrade", "websocket")`}},
	},
	"TestSingleJoinSlash": {
		"an upstream without a host cannot be configured",
		[]replacement{{`\n\t\t\{"", "favicon\.ico", "/favicon\.ico"\},`, ""}},
	},
	"TestJoinURLPath": {
		"the proxy always sets RawPath; what is sent is the same",
		[]replacement{{`rp != tt\.wantRaw`, `rp != (&url.URL{Path: tt.wantPath, RawPath: tt.wantRaw}).EscapedPath()`}},
	},
	"TestReverseProxyHijackCopyError": {
		"only upgrades to websocket pass, with Connection as RFC 9110 section 7.8 demands; and it must come to the hijacking that it is about",
		[]replacement{
			{`w\.Header\(\)\.Set\("Upgrade", "someproto"\)`, "w.Header().Set(\"Connection\", \"Upgrade\")\n\t\tw.Header().Set(\"Upgrade\", \"websocket\")"},
			{`req\.Header\.Set\("Upgrade", "someproto"\)\n\tproxyHandler\.ServeHTTP\(rw, req\)`,
				"req.Header.Set(\"Connection\", \"Upgrade\")\n\treq.Header.Set(\"Upgrade\", \"websocket\")\n\tproxyHandler.ServeHTTP(rw, req)\n\tif !hijacked {\n\t\tt.Error(\"not hijacked\")\n\t}"},
		},
	},
}

// exempt are tests that pin what ReverseProxy does and package proxy does not,
// on purpose.
var exempt = map[string]string{
	"TestSelectFlushInterval": "white-box: an unexported method; the policy itself is in TestReverseProxyFlushIntervalHeaders",
	"TestXForwardedFor":       "it expects the client's own X-Forwarded-For to be passed on; the proxy writes one address, by trust, see TestForwarded",
	"TestReverseProxyQueryParameterSmugglingDirectorDoesNotParseForm": "it expects a query that two parsers read differently to be passed on, see TestTrapProxy23",
}

// An Edit changes a file of the copy of package proxy, to see that the tests
// notice.
type Edit struct{ File, Pattern, With string }

// CompareReverseProxy runs the tests of httputil.ReverseProxy as they are and
// pointed at package proxy. Exempt tests are in neither count, and are run: one
// that passes is an error, because its reason is gone. Tests without subtests
// are counted. What is lost is tried again as [Compare] does.
func CompareReverseProxy(t testing.TB, edits ...Edit) (Report, error) {
	var r Report
	goroot, err := goEnv(t, "GOROOT")
	if err != nil {
		return r, err
	}
	dir, file, tests, err := reverseProxyOverlay(t, goroot, edits)
	if err != nil {
		return r, err
	}
	run := "-run=^(" + strings.Join(tests, "|") + ")$"
	ours := []string{"-overlay=" + file, "-timeout=1m"}
	if race {
		ours = append(ours, "-race")
	}
	pointed := func(flags ...string) (Results, error) {
		return GoTest(t, dir, "./"+shimFolder, append(slices.Clone(ours), flags...)...)
	}
	base, err := GoTest(t, t.TempDir(), "net/http/httputil", run)
	if err != nil {
		return r, err
	}
	if len(base.Failed) > 0 { // on a busy machine, perhaps
		again, err := GoTest(t, t.TempDir(), "net/http/httputil", run, fmt.Sprintf("-count=%d", reruns))
		if err != nil {
			return r, err
		}
		maps.Copy(base.Passed, again.Passed)
	}
	start := time.Now()
	got, err := pointed(run, "-count=1")
	if err != nil {
		return r, err
	}
	r.Elapsed = time.Since(start)
	var lost []string
	for _, name := range tests {
		switch reason := exempt[name]; {
		case reason != "" && got.Passed[name] > 0:
			return r, fmt.Errorf("%s passes, though exempt because %s", name, reason)
		case reason != "" && got.Failed[name] == 0:
			return r, fmt.Errorf("%s did not run:\n%s", name, got.tail())
		case reason != "" || base.Passed[name] == 0:
			continue
		}
		r.Baseline++
		if got.Passed[name] == 0 {
			lost = append(lost, name)
		}
	}
	r.Passed = r.Baseline - len(lost)
	if len(lost) == 0 {
		return r, nil
	}
	err = r.again(lost, func(flags ...string) (with, without Results, err error) {
		if with, err = pointed(flags...); err == nil {
			without, err = GoTest(t, t.TempDir(), "net/http/httputil", flags...)
		}
		return with, without, err
	})
	for _, name := range r.Lost {
		for test, output := range got.Output {
			if test == name || strings.HasPrefix(test, name+"/") {
				r.Output += output
			}
		}
	}
	return r, err
}

// reverseProxyOverlay returns this module's folder, an overlay for it, and the
// names of the tests.
func reverseProxyOverlay(t testing.TB, goroot string, edits []Edit) (dir, overlay string, tests []string, err error) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", thisModule).Output()
	if err != nil {
		return "", "", nil, fmt.Errorf("go list: %w", err)
	}
	dir = strings.TrimSpace(string(out))
	o := overlayDir{dir: t.TempDir(), at: dir, Replace: map[string]string{}}

	source := filepath.Join(goroot, "src/net/http/httputil/reverseproxy_test.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", "", nil, fmt.Errorf("GOROOT without httputil's tests: %w", err)
	}
	replace := func(name string, text []byte, r replacement) ([]byte, error) {
		re, err := regexp.Compile(r.pattern)
		if err != nil {
			return nil, err
		}
		if !re.Match(text) {
			return nil, fmt.Errorf("%s has nothing like %q: this version needs other edits", name, r.pattern)
		}
		return re.ReplaceAll(text, []byte(r.with)), nil
	}
	all := slices.Clone(everywhere)
	for _, name := range slices.Sorted(maps.Keys(adaptedTests)) {
		all = append(all, adaptedTests[name].replace...)
	}
	for _, r := range all {
		if text, err = replace(source, text, r); err != nil {
			return "", "", nil, err
		}
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), source, text, parser.SkipObjectResolution)
	if err != nil {
		return "", "", nil, err
	}
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
			tests = append(tests, f.Name.Name)
		}
	}
	for name := range exempt {
		if !slices.Contains(tests, name) {
			return "", "", nil, fmt.Errorf("%s, which is exempt, does not exist", name)
		}
	}
	for name := range adaptedTests {
		if !slices.Contains(tests, name) {
			return "", "", nil, fmt.Errorf("%s, which is adapted, does not exist", name)
		}
	}
	if err := o.add(shimFolder+"/reverseproxy_test.go", text); err != nil {
		return "", "", nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "proxy/*.go"))
	if err != nil {
		return "", "", nil, err
	}
	delegated := 0
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", "", nil, err
		}
		text = bytes.ReplaceAll(text, []byte(`"net/http/httputil"`), []byte(`"`+delegatePath+`"`))
		delegated += bytes.Count(text, []byte(delegatePath))
		for _, e := range edits {
			if e.File == name {
				if text, err = replace(path, text, replacement{e.Pattern, e.With}); err != nil {
					return "", "", nil, err
				}
			}
		}
		if err := o.add("proxy/"+name, text); err != nil {
			return "", "", nil, err
		}
	}
	if delegated == 0 {
		return "", "", nil, fmt.Errorf("package proxy no longer imports net/http/httputil")
	}
	overlay, err = o.write()
	return dir, overlay, tests, err
}
