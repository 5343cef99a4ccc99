package main_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var screenshots = flag.String("screenshots", "", "write pictures of the inspector into this `folder`")

// A browserTab is one page of a headless Chromium with a fresh profile.
type browserTab struct {
	ctx      context.Context
	mu       sync.Mutex
	problems []string // what its console complained of
}

func newBrowser(t *testing.T) *browserTab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not installed")
		}
		t.Skip("chromium is not installed")
	}
	opts := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.WindowSize(1360, 960)} // and a profile in a new folder
	for _, name := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
		"disable-component-update", "disable-sync", "disable-dev-shm-usage", "hide-scrollbars", "enable-precise-memory-info",
	} {
		opts = append(opts, chromedp.Flag(name, true))
	}
	ctx, timeout := context.WithTimeout(context.Background(), 3*time.Minute)
	ctx, stop := chromedp.NewExecAllocator(ctx, opts...)
	ctx, cancel := chromedp.NewContext(ctx)
	b := &browserTab{ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		stop()
		timeout()
	})
	// The first context is the browser's for good.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			switch m.Type {
			case chromedp.ConsoleWarning, chromedp.ConsoleError, chromedp.ConsoleException:
				b.mu.Lock()
				b.problems = append(b.problems, m.String()+" "+m.URL)
				b.mu.Unlock()
			}
		}
	}()
	return b
}

// do fails the test if an action does.
func (b *browserTab) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatalf("browser: %v; console: %q", err, b.complaints())
	}
}

func (b *browserTab) click(t *testing.T, selector string) {
	t.Helper()
	b.do(t, chromedp.Click(chromedp.CSS(selector)))
}

// press clicks what the page may build anew at any time, and so without a mouse,
// which would have to find it first.
func (b *browserTab) press(t *testing.T, selector string) {
	t.Helper()
	b.await(t, fmt.Sprintf(`(e => { e?.click(); return !!e; })(document.querySelector(%q))`, selector))
}

// leave closes the detail, and leaves the row that has the focus then: for as
// long as somebody is there by keyboard the list is held.
func (b *browserTab) leave(t *testing.T) {
	t.Helper()
	b.press(t, "#close")
	b.await(t, `(document.activeElement.blur(), document.querySelector("#detail").hidden)`)
}

// await waits until a JavaScript expression is true.
func (b *browserTab) await(t *testing.T, expression string) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if eval[bool](t, b, expression) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never true: %s; console: %q", expression, b.complaints())
		}
	}
}

// eval returns the value of a JavaScript expression.
func eval[T any](t *testing.T, b *browserTab, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// complaints returns what the console has complained of since the last call.
func (b *browserTab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.problems
	b.problems = nil
	return p
}

// shoot writes a picture, if pictures are wanted.
func (b *browserTab) shoot(t *testing.T, name string) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
}

// scheme sets whether the page is to be light or dark.
func (b *browserTab) scheme(t *testing.T, name string) {
	t.Helper()
	b.do(t, func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return v, err
	})
}

// inspectorOf returns the address of the page, without its token, and the token.
func inspectorOf(t *testing.T, g *gateway) (url, token string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, rest, ok := strings.Cut(g.stdout.String(), "inspector: "); ok {
			if line, _, ok := strings.Cut(rest, "\n"); ok {
				url, token, _ = strings.Cut(line, "#")
				return url, token
			}
		}
	}
	t.Fatalf("no address of an inspector in %q", g.stdout)
	return "", ""
}
