package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// look opens the inspector of a gateway and waits until it is live.
func (b *browserTab) look(t *testing.T, g *gateway) {
	t.Helper()
	url, token := inspectorOf(t, g)
	b.do(t, chromedp.Navigate("about:blank"), chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelector("#live").dataset.state === "live"`)
}

// openRow opens the first row that a selector finds. It does not click, as the list
// moves.
func (b *browserTab) openRow(t *testing.T, selector string) {
	t.Helper()
	b.await(t, fmt.Sprintf(`!!document.querySelector(%q)`, selector))
	n := eval[string](t, b, fmt.Sprintf(`(tr => { tr.click(); return tr.dataset.n; })(document.querySelector(%q).closest("tr"))`, selector))
	b.await(t, fmt.Sprintf(`!document.querySelector("#detail").hidden && String(view.chosen) === %q`, n))
}

// The page shows what becomes of upstreams, slots and pace: a breaker opens and
// closes, one that does not answer is down, a request that runs has a slot.
func TestInspectorShowsTheUpstreams(t *testing.T) {
	b := newBrowser(t)
	var broken atomic.Bool
	hold := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/held":
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		case broken.Load():
			w.WriteHeader(500)
		}
	}))
	defer up.Close()
	g := start(t, fmt.Sprintf(`
admin: {listen: 127.0.0.1:0, inspector: true}
bandwidth: {total: 50MiB/s}
routes:
  - path: /
    upstreams: [%q]
    in_flight: {name: slots, max: 3}
    pool: {breaker: {failure_ratio: 0.5, min_requests: 4, open_for: 2s}}
  - path: /away/
    upstreams: ["http://127.0.0.1:1"]
    pool: {health: {path: /healthz, interval: 100ms, down: 1}}
    fallback: {json: '{"sorry":true}'}
`, up.URL))
	b.look(t, g)
	card := func(i int, text string) string {
		return fmt.Sprintf(`!!document.querySelectorAll("#overview .card")[%d]?.textContent.includes(%q)`, i, text)
	}
	b.await(t, card(0, "breaker closed"))
	b.await(t, card(0, "50MiB/s"))
	b.await(t, card(1, "down"))
	b.await(t, `!!document.querySelectorAll("#overview .card")[1]?.querySelector(".step.down .chip.bad")`)

	held := make(chan error, 1)
	go func() {
		res, err := http.Get(g.URL + "/held")
		if err == nil {
			res.Body.Close()
		}
		held <- err
	}()
	b.await(t, card(0, "1 of 3 in flight"))
	close(hold)
	if err := <-held; err != nil {
		t.Error(err)
	}
	b.await(t, card(0, "0 of 3 in flight"))

	broken.Store(true)
	for range 8 {
		get(t, g.URL+"/")
	}
	b.await(t, card(0, "breaker open")+` || `+card(0, "breaker half-open"))
	b.openRow(t, "#rows .chip.bad")
	b.await(t, `document.querySelector('#rows tr[aria-selected="true"] .chip').textContent === "proxybreaker open" && document.querySelector("#detail").textContent.includes("none answered: breaker open")`)
	b.leave(t)
	get(t, g.URL+"/away/")
	b.await(t, `document.querySelector("#rows .chip.warn")?.textContent === "fallbackall down"`)
	b.shoot(t, "breaker")
	broken.Store(false)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if res, _ := get(t, g.URL+"/"); res.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the breaker stays open")
		}
	}
	b.await(t, card(0, "breaker closed"))
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}

// A person who hears the page finds everything: what it is, what it is called,
// what it says by itself.
func TestInspectorIsAccessible(t *testing.T) {
	b := newBrowser(t)
	g := start(t, inspected)
	for range 3 {
		get(t, g.URL+"/pay/echo")
	}
	b.look(t, g)
	b.await(t, `document.querySelectorAll("#rows tr").length === 3`)
	b.openRow(t, "#rows .chip.refused")
	b.await(t, `!!document.querySelector("#detail .curve")`)

	type node struct {
		role, name string
		live       string
		focusable  bool
		parents    []string // roles
	}
	tree := func() (nodes []node) {
		t.Helper()
		b.do(t, func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
			res, err := cdp.Call(ctx, target, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
			if err != nil {
				return v, err
			}
			text := func(v *accessibility.Value) string {
				if v == nil {
					return ""
				}
				var s any
				if err := json.Unmarshal([]byte(v.Value), &s); err != nil {
					t.Error(err)
				}
				return fmt.Sprint(s)
			}
			byID := map[accessibility.NodeID]*accessibility.Node{}
			for _, n := range res.Nodes {
				byID[n.NodeID] = n
			}
			for _, n := range res.Nodes {
				if n.Ignored {
					continue
				}
				is := node{role: text(n.Role), name: text(n.Name)}
				for _, p := range n.Properties {
					switch p.Name {
					case accessibility.PropertyNameLive:
						is.live = text(p.Value)
					case accessibility.PropertyNameFocusable:
						is.focusable = text(p.Value) == "true"
					}
				}
				for p := byID[n.ParentID]; p != nil; p = byID[p.ParentID] {
					if !p.Ignored {
						is.parents = append(is.parents, text(p.Role))
					}
				}
				nodes = append(nodes, is)
			}
			return v, nil
		})
		return nodes
	}
	nodes := tree()
	for _, want := range []struct{ role, name, live, parent string }{
		{"heading", "weir", "", "banner"},
		{"status", "", "polite", "banner"},
		{"image", "In the last minute:", "", "banner"},
		{"searchbox", "Filter", "", "main"},
		{"button", "Pause", "", "region"},
		{"button", "HAR", "", "region"},
		{"region", "Exchanges", "", "main"},
		{"grid", "Exchanges, the latest to end first", "", "region"},
		{"columnheader", "Decided by", "", "row"},
		{"row", "429 GET /pay/echo 127.0.0.1", "", "rowgroup"},
		{"row", "payer 1 left", "", "rowgroup"},
		{"gridcell", "429", "", "row"},
		{"image", "limiter", "", "gridcell"},
		{"region", "Exchange", "", "complementary"},
		{"heading", "429 GET /pay/echo", "", "region"},
		{"heading", "Why it was refused", "", "region"},
		{"image", "the same fits after", "", "region"},
		{"button", "Copy as curl", "", "region"},
		{"button", "Reset payer", "", "region"},
		{"button", "Close", "", "region"},
		{"status", "", "polite", "RootWebArea"},
	} {
		if !slices.ContainsFunc(nodes, func(n node) bool {
			return n.role == want.role && strings.Contains(n.name, want.name) && n.live == want.live && slices.Contains(n.parents, want.parent)
		}) {
			t.Errorf("there is no %s with the name %q below a %s (live: %q)", want.role, want.name, want.parent, want.live)
		}
	}
	for _, n := range nodes {
		if n.focusable && n.name == "" && n.role != "RootWebArea" && n.role != "generic" && n.role != "rowgroup" && n.role != "code" {
			t.Errorf("a %s can be focused and has no name (below %v)", n.role, n.parents)
		}
		if n.role == "image" && n.name == "" {
			t.Errorf("an image has no name (below %v)", n.parents)
		}
	}
	if t.Failed() {
		for _, n := range nodes {
			if n.role != "InlineTextBox" && n.role != "StaticText" {
				t.Logf("%s %q %s below %v", n.role, n.name, n.live, n.parents)
			}
		}
	}

	// By the keyboard alone: to the exchanges, into one, and what is said on the way.
	b.leave(t)
	eval[bool](t, b, `(document.querySelector(".skip").focus(), true)`)
	b.do(t, chromedp.KeyEvent("\r"))
	b.await(t, `document.activeElement.tagName === "TR" && document.activeElement.getAttribute("aria-selected") === "false"`)
	b.do(t, chromedp.KeyEvent("\r"))
	b.await(t, `document.activeElement.tagName === "H2" && document.querySelectorAll('#rows tr[aria-selected="true"]').length === 1`)
	b.do(t, chromedp.KeyEvent("\u001b"), chromedp.KeyEvent("/"))
	// A character that is sent as an event of its own is typed, other than from a keyboard.
	b.await(t, `document.activeElement.id === "filter" && (document.activeElement.value = "") === ""`)
	b.do(t, chromedp.KeyEvent("status:429"))
	b.await(t, `document.querySelector("#said").textContent === "1 match."`)
	b.click(t, "#pause")
	b.await(t, `document.querySelector("#live").textContent === "paused" && document.querySelector("#pause").getAttribute("aria-pressed") === "true"`)

	// On a phone what lies below the detail is not there.
	b.do(t, chromedp.EmulateViewport(390, 844))
	b.openRow(t, "#rows tr")
	for _, n := range tree() {
		if n.role == "grid" || n.role == "searchbox" {
			t.Errorf("behind the detail there is still a %s", n.role)
		}
	}
	// Who is asked for the token hears of nothing else.
	eval[bool](t, b, `(ask(), true)`)
	nodes = tree()
	if !slices.ContainsFunc(nodes, func(n node) bool { return n.role == "dialog" && n.name == "Which token?" }) {
		t.Error("there is no dialog that asks for the token")
	}
	for _, n := range nodes {
		if n.role == "banner" || n.role == "grid" || n.role == "region" {
			t.Errorf("behind the dialog there is still a %s", n.role)
		}
	}
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}

// What strangers write is text: in paths, headers, bodies and names. It starts
// nothing in the page, nor in a shell that a command is pasted into.
func TestInspectorShowsHostileText(t *testing.T) {
	b := newBrowser(t)
	const evil = `<img src=x onerror=document.title=1>`
	g := start(t, `
admin: {listen: 127.0.0.1:0, inspector: true, actions: true, token: 'a%2Fb%c<i>"é✓'}
routes:
  - {path: /, upstreams: [demo], limits: [{name: '`+evil+`', key: ip, rate: 100/s}]}
`)
	send := func(path, contentType, body string) {
		t.Helper()
		req := request(t, "POST", g.URL+path, body)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("X-Evil", evil+`'; touch pwned; '`)
		req.Header.Set("User-Agent", "\"><script>document.title=1</script>\u009b201~\u202e")
		if _, _, err := do(t, req); err != nil {
			t.Fatal(err)
		}
	}
	type body struct{ path, contentType, sent, shown string }
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	bodies := []body{
		{"/echo?a=" + strings.ReplaceAll(evil, " ", "+"), "application/json", `{"` + evil + `":"` + evil + `","b":"\"}],:{"}`, "{\n  \"" + evil + "\": \"" + evil + "\",\n  \"b\": \"\\\"}],:{\"\n}"},
		{"/echo", "application/json", `{"n":12345678901234567890.10,"n":1e400,"z":[],"o":{},"a":[1,{"b":-0}]}`,
			"{\n  \"n\": 12345678901234567890.10,\n  \"n\": 1e400,\n  \"z\": [],\n  \"o\": {},\n  \"a\": [\n    1,\n    {\n      \"b\": -0\n    }\n  ]\n}"},
		{"/echo", "text/plain", "it's\x1b[201~\rtouch pwned\r\n\\'; touch pwned\n$(touch pwned)`touch pwned`", ""},
		{"/echo", "application/json", deep, ""},
		{"/echo" + strings.Repeat("/long", 2000), "application/json", `{}`, "{}"},
	}
	for _, x := range bodies {
		send(x.path, x.contentType, x.sent)
	}
	b.look(t, g)
	if got := eval[string](t, b, `view.token`); got != `a%2Fb%c<i>"é✓` {
		t.Errorf("the page has the token %q", got)
	}
	b.await(t, fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, len(bodies)))
	for i, x := range bodies {
		b.openRow(t, fmt.Sprintf("#rows tr:nth-child(%d)", len(bodies)-i))
		b.await(t, `!!document.querySelector("#request-body pre")`)
		got := eval[string](t, b, `document.querySelector("#request-body pre").textContent`)
		if x.shown != "" && got != x.shown {
			t.Errorf("%d is shown as %q, want %q", i, got, x.shown)
		}
		if len(got) > 2<<20 {
			t.Errorf("%d is shown as %d characters, of %d", i, len(got), len(x.sent))
		}
		dir := t.TempDir()
		cmd := exec.Command("bash", "-c", `curl() { for a; do printf '%s\0' "$a"; done; }`+"\n"+eval[string](t, b, `document.querySelector("#curl").textContent`))
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%d: %v: %s", i, err, out)
		}
		args := strings.Split(string(out), "\x00")
		if n := slices.Index(args, "--data-raw"); n < 0 || args[n+1] != x.sent {
			t.Errorf("%d: curl sends %.300q, want %.300q", i, args, x.sent)
		}
		if !slices.Contains(args, "X-Evil: "+evil+`'; touch pwned; '`) {
			t.Errorf("%d: the arguments of curl are %.1000q", i, args)
		}
		if left, _ := exec.Command("ls", dir).Output(); len(left) > 0 {
			t.Errorf("%d: the command has made %s", i, left)
		}
		command := eval[string](t, b, `document.querySelector("#curl").textContent`)
		if strings.ContainsAny(command, "\x1b\r\u009b\u202e") {
			t.Errorf("%d: the command has characters that a terminal obeys: %q", i, command)
		}
		// Nothing that was sent has become an element.
		if n := eval[int](t, b, `document.querySelectorAll("#rows img, #side img, #rows script, #side script").length`); n != 0 {
			t.Errorf("%d: there are %d elements that a stranger wrote", i, n)
		}
	}
	if got := eval[int](t, b, `Math.max(...[...document.querySelectorAll("#rows td")].map((e) => e.textContent.length))`); got > 700 {
		t.Errorf("a cell has %d characters", got)
	}
	b.await(t, `document.querySelector("#rows .chip b").textContent.startsWith("<img")`)

	// What is no text is shown in hex, and what is cut is said to be.
	send("/echo?what=binary", "text/plain", "caf\xe9 <b>\x01")
	send("/echo?what=very-long", "text/plain", strings.Repeat("long ", 40_000))
	b.openRow(t, `#rows td[title="/echo?what=binary"]`)
	b.await(t, `document.querySelector("#request-body .hex")?.textContent === "000000  " + "63 61 66 e9 20 3c 62 3e 01".padEnd(48) + " caf· <b>·"`)
	b.await(t, `document.querySelector("#curl").textContent.startsWith("# the body is not whole here\n")`)
	b.openRow(t, `#rows td[title="/echo?what=very-long"]`)
	b.await(t, `document.querySelector("#request-body").textContent.includes("Only the first 64 KiB of 195 KiB are here.")`)
	b.await(t, `document.querySelector("#curl").textContent.startsWith("# the body is not whole here\n")`)

	if title := eval[string](t, b, `document.title`); title != "weir inspector" {
		t.Errorf("the title is %q", title)
	}
	b.openRow(t, "#rows tr:last-child")
	b.shoot(t, "hostile")
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}

// The list stays as it is below a pointer that moves, brings back what a filter
// has left out, says when there is nothing to save, and begins anew with another
// gateway.
func TestInspectorList(t *testing.T) {
	b := newBrowser(t)
	g := start(t, inspected)
	get(t, g.URL+"/echo?first")
	b.look(t, g)
	rows := func(n int) {
		t.Helper()
		b.await(t, fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, n))
	}
	filter := func(text string) {
		t.Helper()
		eval[bool](t, b, fmt.Sprintf(`(document.querySelector("#filter").value = %q, document.querySelector("#filter").dispatchEvent(new Event("input")))`, text))
	}
	rows(1)
	eval[bool](t, b, `(window.moving = setInterval(() => document.querySelector("#rows tr").dispatchEvent(new PointerEvent("pointermove", {pointerType: "mouse", bubbles: true})), 50), true)`)
	b.await(t, `held()`)
	top := eval[float64](t, b, `document.querySelector("#rows tr").getBoundingClientRect().top`)
	get(t, g.URL+"/echo?second")
	b.await(t, `!document.querySelector("#newer").hidden`)
	if got := eval[float64](t, b, `document.querySelector("#rows tr").getBoundingClientRect().top`); got != top || eval[int](t, b, `document.querySelectorAll("#rows tr").length`) != 1 {
		t.Errorf("below the pointer the row moved from %v to %v", top, got)
	}
	eval[bool](t, b, `(clearInterval(moving), true)`)
	rows(2)
	// With a real mouse, too.
	at := eval[[]float64](t, b, `(r => [r.x + 200, r.y + 10])(document.querySelector("#rows tr").getBoundingClientRect())`)
	b.do(t, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at[0], at[1]))
	b.await(t, `pointed > 0`)
	b.do(t, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 5, 5))
	b.await(t, `pointed < 0`)

	filter("is:refused")
	rows(0)
	b.click(t, "#har")
	b.await(t, `document.querySelector("#error").textContent === "Nothing matches this filter."`)
	get(t, g.URL+"/echo?third")
	b.await(t, `view.last === 3`)
	filter("")
	rows(3)
	b.click(t, "#clear")
	rows(0)
	filter("echo")
	b.await(t, `document.querySelector("#said").textContent === "0 match."`)
	get(t, g.URL+"/echo?fourth")
	rows(1)

	url, token := inspectorOf(t, g)
	if status, _, _ := ask(t, "GET", url+"api/har?n=77", token, "", ""); status != 404 {
		t.Errorf("an archive of what is not kept: %d", status)
	}
	started := eval[int64](t, b, `view.state.started`)
	for _, tt := range []struct {
		started int64
		want    int
	}{{started, 0}, {started - 1, 4}} {
		_, _, list := ask(t, "GET", fmt.Sprintf("%sapi/exchanges?after=4&started=%d", url, tt.started), token, "", "")
		if got := strings.Count(list, `"path"`); got != tt.want {
			t.Errorf("after 4, started %d: %d rows, want %d", tt.started, got, tt.want)
		}
	}
	// Of a thousand a second there is a sample, and all that went wrong.
	eval[bool](t, b, `(receive("event: rows\ndata: " + JSON.stringify({lost: 0, rows: [...Array(3000)].map((_, i) => ({
		n: 5 + i, at: 2e12 + Math.floor(i / 1000) * 1000, method: "GET", path: "/echo", status: i % 50 ? 200 : 500, outcome: "ok", size: 1,
		ms: 1, waiting_ms: 0, limiter_ms: 0, upstream_ms: 1, body_ms: 0}))})), true)`)
	for second, plain := range []string{"=== 60", "> 20", "> 20"} { // the first seen is not known to be busy
		got := eval[string](t, b, fmt.Sprintf(`(rows => [rows.filter((r) => r.status === 500).length, rows.filter((r) => r.status === 200).length].join(" "))
			(kept.filter((r) => r.at === 2e12 + %d))`, second*1000))
		if !eval[bool](t, b, fmt.Sprintf(`((bad, good) => bad === 20 && good <= 60 && good %s)(...%q.split(" ").map(Number))`, plain, got)) {
			t.Errorf("in second %d, of 20 errors and 980 others, there are %s", second, got)
		}
	}
	b.await(t, `/about 1 in 1[0-9] is listed/.test(document.querySelector("#note").textContent) && document.querySelectorAll("#rows tr").length === 160`)

	// The next state comes from another gateway.
	eval[bool](t, b, `(view.state.started--, true)`)
	b.await(t, `kept.length === 0 && view.last === 0`)
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}
