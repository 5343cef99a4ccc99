package stdtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

const (
	// root is put before the import path of every package that is mapped into
	// GOROOT: the first element of a path there must not have a dot.
	root = "weirtest/"

	// shimPath is where Variant.Source goes: inside the module's own path, so
	// that it may import internal packages, and not internal itself, so that
	// net/http's tests may import it.
	shimPath = root + "github.com/goweir/weir/shim"
)

// An edit changes one of net/http's test files. Every replacement must find
// something: a version of Go that words it differently must fail here, not run
// its tests without the wrapper.
type edit struct {
	file    string
	replace []replacement
}

type replacement struct{ pattern, with string }

var edits = []edit{
	{"clientserver_test.go", []replacement{
		{`(?m)^package http_test$`, "package http_test\n\nimport weirshim \"" + shimPath + "\""},
		{`(?m)^func newClientServerTest\(t testing\.TB, mode testMode, h Handler, .*\{$`, "$0\n\th = weirshim.Wrap(h)"},
		// net/http logs these two mistakes with the first caller outside of
		// itself. That is the wrapper, for any wrapper; where the handler
		// stands cannot be handed on. The rest of the line is still compared.
		{`(http: (superfluous response\.WriteHeader call|response\.WriteHeader on hijacked connection) from )net/http_test\.testWriteHeaderAfterWrite\.func1 \(clientserver_test\.go:`, "$1"},
	}},
	// Tests that play a raw connection to the server do without
	// newClientServerTest: they call Serve or have a handlerTest.
	{"serve_test.go", []replacement{
		{`(?m)^package http_test$`, "package http_test\n\nimport weirshim \"" + shimPath + "\""},
		{`(?m)^func newHandlerTest\(h Handler\) .*\{$`, "$0\n\th = weirshim.Wrap(h)"},
		{`(?m)^(.*[ \t])Serve\((l[sn]|listener), `, "${1}weirServe($2, "},
		{`\z`, "\nfunc weirServe(l net.Listener, h Handler) error { return Serve(l, weirshim.Wrap(h)) }\n"},
	}},
}

// overlay writes a file for go's -overlay flag into a temporary folder and
// returns its name. It maps the edited tests over net/http's own, and source
// with all it imports into GOROOT.
func overlay(t testing.TB, goroot, source string) (string, error) {
	o := overlayDir{dir: t.TempDir(), at: filepath.Join(goroot, "src"), Replace: map[string]string{}}
	for _, e := range edits {
		path := filepath.Join(goroot, "src/net/http", e.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("GOROOT without net/http's tests: %w", err)
		}
		for _, r := range e.replace {
			re := regexp.MustCompile(r.pattern)
			if !re.Match(text) {
				return "", fmt.Errorf("%s has nothing like %q: this version of Go needs other edits", path, r.pattern)
			}
			text = re.ReplaceAll(text, []byte(r.with))
		}
		if err := o.add("net/http/"+e.file, text); err != nil {
			return "", err
		}
	}

	shim, imports, err := rewriteImports("shim.go", []byte(source), func(string) bool { return false })
	if err != nil {
		return "", err
	}
	pkgs, err := listDeps(t, imports)
	if err != nil {
		return "", err
	}
	foreign := func(path string) bool {
		return slices.ContainsFunc(pkgs, func(p goPackage) bool { return p.ImportPath == path })
	}
	if shim, _, err = rewriteImports("shim.go", []byte(source), foreign); err != nil {
		return "", err
	}
	if err := o.add(shimPath+"/shim.go", shim); err != nil {
		return "", err
	}
	for _, p := range pkgs {
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return "", err
			}
			if text, _, err = rewriteImports(name, text, foreign); err != nil {
				return "", err
			}
			if err := o.add(root+p.ImportPath+"/"+name, text); err != nil {
				return "", err
			}
		}
	}
	return o.write()
}

type overlayDir struct {
	dir     string // where the files are
	at      string // where the go command is to see them
	Replace map[string]string
}

func (o *overlayDir) add(name string, text []byte) error {
	path := filepath.Join(o.dir, "files", filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	o.Replace[filepath.Join(o.at, filepath.FromSlash(name))] = path
	return os.WriteFile(path, text, 0o666)
}

func (o *overlayDir) write() (string, error) {
	text, err := json.Marshal(map[string]any{"Replace": o.Replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(o.dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o666)
}

type goPackage struct {
	ImportPath, Dir                          string
	Standard                                 bool
	GoFiles, CgoFiles, SFiles, EmbedPatterns []string
}

// listDeps returns the packages among paths and their dependencies that are not
// part of the standard library.
func listDeps(t testing.TB, paths []string) ([]goPackage, error) {
	if len(paths) == 0 {
		return nil, nil // go list would take the current folder
	}
	args := append([]string{"list", "-deps", "-json=ImportPath,Dir,Standard,GoFiles,CgoFiles,SFiles,EmbedPatterns", "--"}, paths...)
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if p.Standard {
			continue
		}
		if len(p.CgoFiles)+len(p.SFiles)+len(p.EmbedPatterns) > 0 {
			return nil, fmt.Errorf("%s has more than Go files: it cannot be mapped into GOROOT", p.ImportPath)
		}
		pkgs = append(pkgs, p)
	}
}

// rewriteImports returns text with root before every import path that is
// foreign, and all import paths as they were.
func rewriteImports(name string, text []byte, foreign func(path string) bool) ([]byte, []string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ImportsOnly)
	if err != nil {
		return nil, nil, err
	}
	var paths []string
	text = slices.Clone(text)
	for _, spec := range slices.Backward(file.Imports) {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, nil, err
		}
		paths = append(paths, path)
		if foreign(path) {
			at := fset.Position(spec.Path.Pos()).Offset + len(`"`)
			text = slices.Insert(text, at, []byte(root)...)
		}
	}
	return text, paths, nil
}
