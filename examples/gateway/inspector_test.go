package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// inspected is a configuration whose page may do all it can.
const inspected = `
admin: {listen: 127.0.0.1:0, inspector: true, actions: true}
routes:
  - {path: /, upstreams: [demo]}
  - {path: /pay/, upstreams: [demo], strip_prefix: /pay, limits: [{name: payer, key: ip, rate: 2/m}, {name: all, key: global, rate: 100000/s}]}
`

// The page is alive at once with -traffic, in light and dark, wide and narrow.
func TestInspectorWithTraffic(t *testing.T) {
	b := newBrowser(t)
	g := spawn(t, "-listen", "127.0.0.1:0", "-traffic", "-audit", filepath.Join(t.TempDir(), "audit.jsonl"))
	g.awaitListening(t, g.stdout)
	url, token := inspectorOf(t, g)
	b.scheme(t, "light")
	b.do(t, chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelectorAll("#rows tr").length >= 5`)
	b.await(t, `!!document.querySelector("#rows .chip.refused")`)
	b.await(t, `document.querySelectorAll("#overview .card").length >= 3`)
	if *screenshots != "" {
		time.Sleep(30 * time.Second) // for pictures that are worth looking at
	}
	why := func(name string) {
		t.Helper()
		b.openRow(t, "#rows .chip.refused")
		b.await(t, `!!document.querySelector("#detail .why .curve")`)
		eval[bool](t, b, `(document.querySelector("#scroll").scrollTop = 0, document.activeElement.blur(), true)`)
		b.await(t, `document.querySelector("#newer").hidden`)
		b.shoot(t, name)
	}
	b.shoot(t, "light")
	why("light-why")
	b.scheme(t, "dark")
	b.shoot(t, "dark-why")
	b.leave(t)
	b.shoot(t, "dark")
	b.do(t, chromedp.EmulateViewport(390, 844))
	if wide := eval[float64](t, b, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("on a phone the page is %v pixels wide", wide)
	}
	b.shoot(t, "narrow-dark")
	b.scheme(t, "light")
	b.shoot(t, "narrow")
	why("narrow-why")
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}

// What a person does with the page: rows come by themselves, a filter narrows
// them, a row opens, a refusal is explained, a key is reset, the archive is
// saved; by mouse and by keyboard.
func TestInspectorInABrowser(t *testing.T) {
	b := newBrowser(t)
	g := start(t, inspected)
	url, token := inspectorOf(t, g)

	b.do(t, chromedp.Navigate(url))
	b.await(t, `!document.querySelector("#ask").hidden`) // without a token there is nothing to see
	b.do(t, chromedp.SendKeys(chromedp.CSS("#token"), "wrong\r"))
	b.await(t, `view.token === "wrong" && !document.querySelector("#ask").hidden`)
	refused := false // the console may be told later than the page
	for deadline := time.Now().Add(15 * time.Second); !refused && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, c := range b.complaints() {
			refused = strings.Contains(c, "401")
			if !refused {
				t.Errorf("the console complains: %q", c)
			}
		}
	}
	if !refused {
		t.Error("a wrong token is not refused")
	}
	b.do(t, chromedp.Navigate("about:blank"), chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelector("#live").dataset.state === "live"`)
	if hash := eval[string](t, b, `location.hash + document.cookie`); hash != "" {
		t.Errorf("the address still has %q", hash)
	}
	post := func(path, body string) {
		t.Helper()
		req := request(t, "POST", g.URL+path, body)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer s3cret")
		req.Header.Set("X-Odd", `it's $HOME "x"`)
		if _, _, err := do(t, req); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		post("/pay/echo?it=1", `{"amount":12,"note":"<img src=x onerror=alert(1)>","password":"s3cret"}`)
	}
	get(t, g.URL+"/fail")
	get(t, g.URL+"/download?size=3MiB")
	b.await(t, `document.querySelectorAll("#rows tr").length === 5`)

	rows := func(filter string, want int) {
		t.Helper()
		eval[bool](t, b, fmt.Sprintf(`(document.querySelector("#filter").value = %q, document.querySelector("#filter").dispatchEvent(new Event("input")))`, filter))
		if got := eval[int](t, b, `document.querySelectorAll("#rows tr").length`); got != want {
			t.Errorf("%q shows %d rows, want %d", filter, got, want)
		}
	}
	rows("status:5xx", 1)
	rows("route:/pay", 3)
	rows("route:/pay -status:429", 2)
	rows("ip:127.0.0.1 method:get", 2)
	rows("ip:10.", 0)
	rows("is:refused", 1)
	rows("size:>1000000", 1)
	rows("status:>=400", 2)
	rows("it=1", 3)
	rows("", 5)
	b.await(t, `document.querySelector("#said").textContent === "No filter."`) // or it might be said later

	b.openRow(t, "#rows .chip.refused")
	if got := eval[string](t, b, `document.querySelector("#detail .why").textContent`); !strings.Contains(got, "payer") || !strings.Contains(got, "fits after") {
		t.Errorf("the refusal is explained by %q", got)
	}
	if got := eval[int](t, b, `document.querySelectorAll("#detail .why .curve path.no").length`); got != 1 {
		t.Errorf("%d refusals on the curve, want 1", got)
	}
	// Two were admitted before, and the line has a step down for each.
	if got := eval[int](t, b, `document.querySelectorAll("#detail .why .curve circle.yes").length`); got < 1 {
		t.Errorf("%d admissions on the curve, want 1 or, if they came apart, 2", got)
	}
	b.press(t, `#detail [data-id^="reset"]`)
	b.await(t, `document.querySelector("#said").textContent === "reset a key"`)
	post("/pay/echo", `{}`)
	b.await(t, `[...document.querySelectorAll("#rows tr")].filter((r) => r.textContent.includes("/pay/echo") && r.textContent.includes("200")).length === 3`)
	if !strings.Contains(g.stderr.String(), "inspector: reset a key") {
		t.Error("that a key was reset is not logged")
	}

	// The oldest, by keyboard: focus goes into it and back.
	eval[bool](t, b, `(document.querySelector("#rows tr").focus(), true)`)
	b.do(t, chromedp.KeyEvent("jjjjjj"), chromedp.KeyEvent("\r"))
	b.await(t, `!document.querySelector("#detail").hidden && document.activeElement.tagName === "H2" && document.querySelector("#request-body pre") !== null`)
	body := eval[string](t, b, `document.querySelector("#request-body pre").textContent`)
	if !strings.Contains(body, "\n  \"amount\": 12,\n") || !strings.Contains(body, "<img src=x") || !strings.Contains(body, "●●●") {
		t.Errorf("the body is shown as %q", body)
	}
	if n := eval[int](t, b, `document.querySelectorAll("#detail .masked").length`); n < 2 {
		t.Errorf("%d masked values stand out, want 2 and more", n)
	}
	curl := eval[string](t, b, `document.querySelector("#curl").textContent`)
	checkCurl(t, curl)
	b.do(t, chromedp.KeyEvent("\u001b"))
	b.await(t, `document.querySelector("#detail").hidden && document.activeElement.tagName === "TR"`)

	// What was not captured is said.
	b.openRow(t, `#rows td.req[title^="/download"]`)
	b.await(t, `document.querySelector("#response-body").textContent.includes("A download: its bytes were not captured.")`)
	b.leave(t)

	// A rule is turned to shadow, and a route degraded.
	b.press(t, `[data-id^="shadow/pay/payer"]`)
	b.await(t, `document.querySelector("#overview").textContent.includes("shadow hits")`)
	for range 3 {
		if res, _ := get(t, g.URL+"/pay/echo"); res.StatusCode != 200 {
			t.Errorf("with a shadow the answer is %s", res.Status)
		}
	}
	b.await(t, `!!document.querySelector("#rows .chip.shadow")`)
	b.press(t, `[data-id^="degrade/pay/"]`)
	b.await(t, `document.querySelector("#overview").textContent.includes("degraded")`)
	if res, _ := get(t, g.URL+"/pay/echo"); res.StatusCode != 503 {
		t.Errorf("degraded, without a fallback, the answer is %s", res.Status)
	}

	// Paused, nothing moves.
	b.click(t, "#pause")
	before := eval[int](t, b, `document.querySelectorAll("#rows tr").length`)
	get(t, g.URL+"/echo?late")
	b.await(t, `!document.querySelector("#newer").hidden`)
	if after := eval[int](t, b, `document.querySelectorAll("#rows tr").length`); after != before {
		t.Errorf("while it is paused, %d rows became %d", before, after)
	}
	b.click(t, "#newer")
	b.await(t, `document.querySelector("#rows tr").textContent.includes("late")`)

	checkDownload(t, b)
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
	shadowed := 0
	for _, r := range g.stop(t) {
		if r.Attributes["shadow"] == "payer" {
			shadowed++
		}
	}
	if shadowed == 0 {
		t.Error("the audit does not name the shadow that was switched on by hand")
	}
}

// checkCurl runs the command in a shell, with a curl that tells its arguments.
func checkCurl(t *testing.T, command string) {
	t.Helper()
	out, err := exec.Command("sh", "-c", `curl() { for a; do printf '%s\n' "$a"; done; }`+"\n"+command).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"\nPOST\n", "\nX-Odd: it's $HOME \"x\"\n", "\nAuthorization: REDACTED\n", "\nContent-Type: application/json\n",
		`"note":"<img src=x onerror=alert(1)>"`, "/pay/echo?it=1\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the arguments of curl are %q, want %q among them", out, want)
		}
	}
}

// checkDownload saves the archive and reads it.
func checkDownload(t *testing.T, b *browserTab) {
	t.Helper()
	dir := t.TempDir()
	b.do(t, func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir,
		})
		return v, err
	})
	b.click(t, "#har")
	file := filepath.Join(dir, "weir.har")
	var data []byte
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if data, err = os.ReadFile(file); err == nil && len(data) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no archive: %v", err)
		}
	}
	var har struct {
		Log struct {
			Version string
			Entries []struct {
				Request  struct{ Method, URL string }
				Response struct{ Status int }
			}
		}
	}
	if err := json.Unmarshal(data, &har); err != nil {
		t.Fatal(err)
	}
	if len(har.Log.Entries) < 8 || har.Log.Version != "1.2" || har.Log.Entries[0].Request.Method != "POST" ||
		!strings.HasSuffix(har.Log.Entries[0].Request.URL, "/pay/echo?it=1") {
		t.Errorf("the archive is %+v", har)
	}
	if bytes.Contains(data, []byte("s3cret")) || bytes.Contains(data, []byte("weir.inspect")) {
		t.Error("the archive has what it should not")
	}
}

// ask sends a request to the inspector.
func ask(t *testing.T, method, url, token, host, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req := request(t, method, url, body)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if host != "" {
		req.Host = host
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, answer, err := do(t, req)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(answer)
}

// Twenty secrets are sent in every place that package capture masks; none of
// them is in the page, its data or the archive, nor in metrics, audit or log.
func TestInspectorCanary(t *testing.T) {
	b := newBrowser(t)
	g := start(t, "log: {requests: true}\n"+inspected)
	url, token := inspectorOf(t, g)
	canary := func(i int) string { return fmt.Sprintf("canary-%02d-wx7q", i) }
	const secrets = 20
	n := 0
	next := func() string { n++; return canary(n) }
	req := request(t, "POST", g.URL+"/echo?access_token="+next()+"&sig="+next()+"&api_key="+next()+"&password="+next(),
		fmt.Sprintf(`{"password":%q,"user":{"client_secret":%q,"tokens":[%q]},"apiKey":%q}`, next(), next(), next(), next()))
	req.Header.Set("Content-Type", "application/json")
	for _, name := range []string{"Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "X-Auth-Token", "X-Csrf-Token"} {
		req.Header.Set(name, next())
	}
	req.Header.Set("Referer", "https://example.com/?token="+next())
	if _, _, err := do(t, req); err != nil {
		t.Fatal(err)
	}
	form := request(t, "POST", g.URL+"/pay/echo", "password="+next()+"&code="+next()+"&session="+next()+"&credential="+next()+"&secret="+next())
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, _, err := do(t, form); err != nil {
		t.Fatal(err)
	}
	if n != secrets {
		t.Fatalf("%d secrets, want %d", n, secrets)
	}
	b.do(t, chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelectorAll("#rows tr").length === 2`)
	places := map[string]string{}
	for _, route := range []string{"/pay/", "/"} {
		b.openRow(t, fmt.Sprintf(`#rows tr[title="route %s"]`, route))
		b.await(t, `document.querySelector("#detail").textContent.includes("Request header")`)
		places["page of "+route] = eval[string](t, b, `document.documentElement.outerHTML`)
	}
	for _, path := range []string{"exchanges", "exchanges/1", "exchanges/2", "state", "har"} {
		status, _, body := ask(t, "GET", url+"api/"+path, token, "", "")
		if status != 200 {
			t.Errorf("%s: %d", path, status)
		}
		places[path] = body
	}
	status, _, metrics := ask(t, "GET", strings.TrimSuffix(url, "inspector/")+"metrics", "", "", "")
	if status != 200 || !strings.Contains(metrics, "weir_") {
		t.Errorf("metrics: %d, %.100q", status, metrics)
	}
	places["metrics"] = metrics
	g.stop(t)
	audit, err := os.ReadFile(g.Audit)
	if err != nil || strings.Count(string(audit), "\n") != 2 {
		t.Errorf("the audit has %q, %v", audit, err)
	}
	places["audit"] = string(audit)
	places["log"] = g.stdout.String() + g.stderr.String()
	for place, text := range places {
		if strings.Contains(text, "wx7q") {
			i := strings.Index(text, "wx7q")
			t.Errorf("%s has a secret: %q", place, text[max(0, i-60):i+4])
		}
	}
	if !strings.Contains(places["exchanges/1"], "REDACTED") {
		t.Errorf("the exchange shows nothing masked: %s", places["exchanges/1"])
	}
}

// What the page says of a route is of that route: its own proxy and not that of
// its fallback, its slots and those of all, its pace.
func TestInspectorState(t *testing.T) {
	g := start(t, `
admin: {listen: 127.0.0.1:0, inspector: true}
in_flight: {max: 70}
bandwidth: {total: 50MiB/s}
routes:
  - path: /
    upstreams: ["http://127.0.0.1:1"]
    in_flight: {name: own, max: 7}
    fallback: {upstreams: [demo]}
`)
	url, token := inspectorOf(t, g)
	_, _, body := ask(t, "GET", url+"api/state", token, "", "")
	var got struct {
		Routes []struct {
			InFlight []struct {
				Name string
				Max  int
			} `json:"in_flight"`
			Bandwidth []struct{ Limit string }
			Upstreams []struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if text := fmt.Sprint(got.Routes); text != "[{[{own 7} {in-flight 70}] [{50MiB/s}] [{http://127.0.0.1:1}]}]" {
		t.Errorf("the state of the route is %s", text)
	}
}

// Who has no token, or comes from elsewhere, gets nothing.
func TestInspectorIsGuarded(t *testing.T) {
	g := start(t, strings.Replace(inspected, ", actions: true", "", 1))
	url, token := inspectorOf(t, g)
	own := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/inspector/")
	port := own[strings.LastIndexByte(own, ':'):]
	for _, tt := range []struct {
		name, method, path, token, host string
		header                          []string
		want                            int
	}{
		{"the page", "GET", "", "", "", nil, 200},
		{"the page by localhost", "GET", "", "", "localhost" + port, nil, 200},
		{"the page, followed from elsewhere", "GET", "", "", "", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		{"the page, embedded elsewhere", "GET", "app.js", "", "", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"data", "GET", "api/state", token, "", nil, 200},
		{"data without a token", "GET", "api/state", "", "", nil, 401},
		{"the feed without a token", "GET", "api/feed", "", "", nil, 401},
		{"the archive without a token", "GET", "api/har", "", "", nil, 401},
		{"a wrong token", "GET", "api/state", token + "x", "", nil, 401},
		{"a token in the query", "GET", "api/state?token=" + token, "", "", nil, 401},
		{"another host", "GET", "api/state", token, "evil.example" + port, nil, 421},
		{"another host, the page", "GET", "", "", "evil.example" + port, nil, 421},
		{"a host that begins like an address", "GET", "", "", "127.0.0.1.evil.example", nil, 421},
		{"another origin", "GET", "api/state", token, "", []string{"Origin", "http://evil.example"}, 403},
		{"an origin on another port", "GET", "api/state", token, "", []string{"Origin", g.URL}, 403},
		{"no origin a page may have", "GET", "api/state", token, "", []string{"Origin", "null"}, 403},
		{"its own origin", "GET", "api/state", token, "", []string{"Origin", "http://" + own, "Sec-Fetch-Site", "same-origin"}, 200},
		{"another site", "GET", "api/state", token, "", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"an action that is off", "POST", "api/degrade", token, "", nil, 403},
		{"an action by GET", "GET", "api/degrade", token, "", nil, 404},
		{"an exchange that is not", "GET", "api/exchanges/77", token, "", nil, 404},
		{"nothing", "GET", "none", "", "", nil, 404},
	} {
		status, header, body := ask(t, tt.method, url+tt.path, tt.token, tt.host, "", tt.header...)
		if status != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, status, tt.want)
		}
		if status != 200 && strings.Contains(body, "routes") {
			t.Errorf("%s: told %s", tt.name, body)
		}
		if csp := header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") ||
			header.Get("X-Frame-Options") != "DENY" || header.Get("Referrer-Policy") != "no-referrer" || (status != 404 && header.Get("Cache-Control") != "no-store") { // http.FileServer takes it off its own 404
			t.Errorf("%s: header %v", tt.name, header)
		}
	}
	if res, _ := get(t, g.URL+"/inspector/"); res.StatusCode != 404 { // the demo's
		t.Errorf("clients of the gateway reach the inspector: %s", res.Status)
	}
}

// At a thousand requests a second, or as many as the machine can do, the page
// stays small and quick. It bears three seconds' worth of them, and twenty's if
// WEIR_SOAK is set.
func TestInspectorUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("a load test")
	}
	b := newBrowser(t)
	g := start(t, inspected)
	url, token := inspectorOf(t, g)
	b.do(t, chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelector("#live").dataset.state === "live"`)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
	for i := range 10 {
		wg.Go(func() {
			ticker := time.NewTicker(10 * time.Millisecond)
			defer ticker.Stop()
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/echo?load=%d-%d", g.URL, i, n), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if res, err := client.Do(req); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	// The heap is looked at when all that is bounded is full, and later.
	heap := func() float64 {
		b.do(t, func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
			return v, target.Call(ctx, "HeapProfiler.collectGarbage", nil, nil)
		})
		return eval[float64](t, b, `performance.memory.usedJSHeapSize`) / (1 << 20)
	}
	// It is told by what has passed, as a busy machine passes less: half of what it
	// is to bear before, and half after.
	passed := func(n float64) float64 {
		t.Helper()
		for deadline := time.Now().Add(75 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if got := eval[float64](t, b, `view.last`); got >= n {
				return got
			}
			if time.Now().After(deadline) {
				t.Fatalf("fewer than %v exchanges have passed", n)
			}
		}
	}
	enough := 3000.0
	if os.Getenv("WEIR_SOAK") != "" {
		enough = 20_000
	}
	began := time.Now()
	seenEarly := passed(enough / 2)
	early := heap()
	// The time that the page takes for what it draws, which is all it does.
	eval[bool](t, b, `(window.took = [], tick = (then => () => { const at = performance.now(); then(); took.push(performance.now() - at); })(tick), true)`)
	seenLate := passed(seenEarly + enough/2)
	late := heap()
	t.Logf("%.0f exchanges in %v; heap of the page %.1f and then %.1f MiB; a drawing takes %.1f ms in the median, at most %.0f ms",
		seenLate, time.Since(began).Round(100*time.Millisecond), early, late, eval[float64](t, b, `took.sort((a, b) => a - b)[took.length >> 1]`), eval[float64](t, b, `took.at(-1)`))
	if late > 1.5*early+4 {
		t.Errorf("the page grew from %.1f to %.1f MiB", early, late)
	}
	if n := eval[int](t, b, `document.querySelectorAll("#rows tr").length`); n > 160 {
		t.Errorf("%d rows in the page", n)
	}
	b.shoot(t, "load")
	// A narrow filter is sampled from what matches.
	get(t, g.URL+"/fail")
	b.await(t, `kept.some((r) => r.path === "/fail")`)
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}
