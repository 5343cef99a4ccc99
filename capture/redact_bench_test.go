package capture_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goweir/weir/capture"
)

// shapes are documents of about 64 KiB.
func shapes() []struct {
	name string
	doc  []byte
} {
	fill := func(head, item, tail string) []byte {
		n := (64<<10 - len(head) - len(tail)) / (len(item) + 1)
		return []byte(head + strings.Repeat(item+",", n-1) + item + tail)
	}
	return []struct {
		name string
		doc  []byte
	}{
		{"records", fill(`{"users":[`, `{"id":1234567,"name":"Ada Lovelace","email":"ada@example.com","active":true,"score":98.25,`+
			`"created_at":"2026-01-02T03:04:05Z","tags":["a","b"],"address":{"street":"12 St James's Square","city":"London"}}`, `]}`)},
		{"records with secrets", fill(`[`, `{"id":1234567,"user_name":"ada","password":"correct horse battery staple",`+
			`"access_token":"eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8opsbCGfG","session":{"id":"x","exp":1767323045}}`, `]`)},
		{"numbers", fill(`{"points":[`, `[12.3456789,-98.7654321,1767323045]`, `]}`)},
		{"long strings", fill(`[`, `"`+strings.Repeat("Lorem ipsum dolor sit amet, consectetur adipiscing elit. ", 20)+`"`, `]`)},
		{"escapes", fill(`[`, `{"text":"a \"quoted\" word,\nand a line: \u00e9\u20ac","url":"https:\/\/example.com\/?page=2&size=10"}`, `]`)},
		{"indented", fill("{\n  \"items\": [\n    ", "{\n      \"key\": \"value\",\n      \"other_key\": null\n    }", "\n  ]\n}")},
		{"deep", []byte(strings.Repeat(`{"a":[`, 4<<10) + `1` + strings.Repeat(`]}`, 4<<10))},
	}
}

// roundTrip is what redaction costs by the naive way, without the redaction.
func roundTrip(doc []byte) error {
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		return err
	}
	_, err := json.Marshal(v)
	return err
}

func BenchmarkRedactJSON(b *testing.B) {
	for _, shape := range shapes() {
		b.Run(shape.name+"/redact", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(shape.doc)))
			redact, out := capture.BodyRedactor(nil), make([]byte, 0, 128<<10)
			for b.Loop() {
				if _, err := redact(out, "application/json", shape.doc); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(shape.name+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(shape.doc)))
			for b.Loop() {
				if err := roundTrip(shape.doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestRedactJSONIsCheap holds the redactor to half of what encoding/json needs
// to decode and encode, in rounds that alternate, and to no allocation.
func TestRedactJSONIsCheap(t *testing.T) {
	if raceEnabled {
		t.Log("not measured: the race detector slows both down differently")
		return
	}
	for _, shape := range shapes() {
		redact, out := capture.BodyRedactor(nil), make([]byte, 0, 128<<10)
		if !json.Valid(shape.doc) {
			t.Fatalf("%s is no JSON", shape.name)
		}
		var ratios []float64
		for range 11 {
			start := time.Now()
			for range 4 {
				if _, err := redact(out, "application/json", shape.doc); err != nil {
					t.Fatal(err)
				}
			}
			ours := time.Since(start)
			start = time.Now()
			for range 4 {
				if err := roundTrip(shape.doc); err != nil {
					t.Fatal(err)
				}
			}
			ratios = append(ratios, float64(time.Since(start))/float64(ours))
		}
		slices.Sort(ratios)
		allocs := testing.AllocsPerRun(10, func() { redact(out, "application/json", shape.doc) })
		t.Logf("%s: %.1f times faster, %v allocations", shape.name, ratios[len(ratios)/2], allocs)
		if ratios[len(ratios)/2] < 2 || allocs > 0 {
			t.Errorf("%s: %.1f times faster than encoding/json, %v allocations", shape.name, ratios[len(ratios)/2], allocs)
		}
	}
}
