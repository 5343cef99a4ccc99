package main_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// With -traffic the page is alive at once.
func TestInspectorWithTraffic(t *testing.T) {
	b := newBrowser(t)
	g := spawn(t, "-listen", "127.0.0.1:0", "-traffic", "-audit", filepath.Join(t.TempDir(), "audit.jsonl"))
	g.awaitListening(t, g.stdout)
	url, token := inspectorOf(t, g)
	b.scheme(t, "light")
	b.do(t, chromedp.Navigate(url+"#"+token))
	b.await(t, `document.querySelectorAll("#rows tr").length >= 5`)
	b.await(t, `!!document.querySelector("#rows .chip.refused")`)
	if *screenshots != "" {
		time.Sleep(25 * time.Second)
	}
	b.shoot(t, "light")
	b.click(t, "#rows tr:has(.chip.refused)")
	b.await(t, `!!document.querySelector("#detail .curve")`)
	b.shoot(t, "light-why")
	b.scheme(t, "dark")
	b.shoot(t, "dark-why")
	b.click(t, "#close")
	b.await(t, `document.querySelectorAll("#overview .card").length >= 3`)
	b.shoot(t, "dark")
	b.do(t, chromedp.EmulateViewport(390, 844))
	b.shoot(t, "narrow-dark")
	b.scheme(t, "light")
	b.shoot(t, "narrow")
	b.click(t, "#rows tr:has(.chip.refused)")
	b.await(t, `!!document.querySelector("#detail .curve")`)
	b.shoot(t, "narrow-why")
	if c := b.complaints(); len(c) > 0 {
		t.Errorf("the console complains: %q", c)
	}
}
