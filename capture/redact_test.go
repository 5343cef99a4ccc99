package capture

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func mustRedactor(t testing.TB, o Options) *redactor {
	t.Helper()
	rd, err := newRedactor(&o)
	if err != nil {
		t.Fatal(err)
	}
	return rd
}

func TestRedactQuery(t *testing.T) {
	rd := mustRedactor(t, Options{Redact: []string{"My-Field"}})
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"a=1&b=2", "a=1&b=2"},
		{"token=x", "token=REDACTED"},
		{"a=1&Access_Token=x&b=2", "a=1&Access_Token=REDACTED&b=2"},
		{"x-amz-signature=x&x-amz-date=1", "x-amz-signature=REDACTED&x-amz-date=1"},
		{"%74oken=x", "%74oken=REDACTED"},
		{"%zz=x", "%zz=REDACTED"},
		{"token", "token"},
		{"token=", "token="},
		{"token=a=b;c=d&e=f", "token=REDACTED&e=f"},
		{"a=1;token=x&b=2", "a=1;token=REDACTED&b=2"},
		{"user[password]=x", "user[password]=REDACTED"},
		{"a[pin]=x&b%5Bkey%5D%5B0%5D=x&c[pinned][]=x", "a[pin]=REDACTED&b%5Bkey%5D%5B0%5D=REDACTED&c[pinned][]=x"},
		{"tok+en=x", "tok+en=REDACTED"},
		{"next=/cb?code=x&a=1", "next=REDACTED&a=1"},
		{"next=%2Fcb%3Fcode%3Dx", "next=REDACTED"},
		{"next=%252Fcb%253Fcode%253Dx", "next=REDACTED"},
		{`f={"a":1,"password":"x"}`, "f=REDACTED"},
		{"time=12:30", "time=12:30"},
		{"q=100%", "q=REDACTED"},
		{"page_token_size=1", "page_token_size=REDACTED"},
		{"myfield=x&my=1", "myfield=REDACTED&my=1"},
		{"&&a&=&", "&&a&=&"},
	} {
		if got := rd.query(c.in); got != c.want {
			t.Errorf("query(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestRedactText(t *testing.T) {
	rd := mustRedactor(t, Options{})
	for _, c := range []struct{ in, want string }{
		{"text/html; q=0.8, */*", "text/html; q=0.8, */*"},
		{"what? nothing#here", "what? nothing#here"},
		{"me@example.com", "me@example.com"},
		{"https://a/?x=1", "https://a/?x=1"},
		{"https://a/?x=1&token=s", "https://a/?x=1&token=REDACTED"},
		{"https://u:s@a/?x=1", "https://REDACTED@a/?x=1"},
		{"<https://a/>, <ws://u:s@b>; rel=x, <https://u:s@c/>", "<https://a/>, <ws://REDACTED@b>; rel=x, <https://REDACTED@c/>"},
		{"https://a/#access_token=s&x=1", "https://a/#access_token=REDACTED&x=1"},
		{"https://a/?x=1#access_token=s", "https://a/?x=REDACTED"},
	} {
		if got := rd.text(c.in); got != c.want {
			t.Errorf("text(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"/a/b", "/a/b"},
		{"/a;v=1/b", "/a;v=1/b"},
		{"/a;v=1;JSESSIONID=s/b;x", "/a;REDACTED/b;x"},
	} {
		if got := rd.path(c.in); got != c.want {
			t.Errorf("path(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestRedactNames(t *testing.T) {
	rd := mustRedactor(t, Options{})
	for name, want := range map[string]bool{
		"Authorization": true, "Proxy-Authorization": true, "Cookie": true, "Set-Cookie": true,
		"X-Api-Key": true, "Api_Key": true, "X-Goog-Api-Key": true, "X-Access-Token": true,
		"Client-Secret": true, "Db.Password": true, "Auth": true, "Key": true,
		"Accept": false, "User-Agent": false, "Author": false, "Keyboard": false, "Monkey": false,
		"Www-Authenticate": false, "X-Request-Id": false, "Etag": false, "Idempotency-Key": false,
		"": false, "-": false,
	} {
		if got := rd.headerIsSecret(name); got != want {
			t.Errorf("headerIsSecret(%q) = %v", name, got)
		}
	}
	for name := range rd.common {
		if http.CanonicalHeaderKey(name) != name {
			t.Errorf("%q is not canonical", name)
		}
	}
}

// Text that a stranger sends must not cost more than its size deserves.
func TestRedactIsBounded(t *testing.T) {
	rd := mustRedactor(t, Options{})
	for name, s := range map[string]string{
		"assignments": strings.Repeat("a=", 512<<10),
		"semicolons":  strings.Repeat(";a=:", 256<<10),
		"escapes":     strings.Repeat("%25", 340<<10),
		"segments":    strings.Repeat("/;a=", 256<<10),
		"parameters":  strings.Repeat("&a=%3D", 170<<10),
		"long name":   strings.Repeat("a", 1<<20) + "=",
		"passwords":   strings.Repeat("://a@", 200<<10),
	} {
		start := time.Now()
		rd.query(s)
		rd.path(s)
		rd.text("https://x@a/?" + s)
		// What grew with the square of the size would take minutes.
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s: 1 MiB took %v", name, d)
		}
	}
	long := "a=1&" + strings.Repeat("b=2&", 10_000) + "token=s"
	if got := rd.query(long); len(got) > longestText+len(mask) || strings.Contains(got, "token=s") || !strings.HasSuffix(got, mask) {
		t.Errorf("a long query became %d bytes ending in %q", len(got), got[len(got)-20:])
	}
}

func FuzzRedactQuery(f *testing.F) {
	for _, s := range []string{"a=1", "token=s", "a=1;token=s", "next=%2F%3Ftoken%3Ds", "%74oken=s", "tok%en=s", "a[token]=s&b"} {
		f.Add(s)
	}
	rd := mustRedactor(f, Options{})
	f.Fuzz(func(t *testing.T, q string) {
		got := rd.query(q)
		if again := rd.query(got); again != got && max(len(q), len(got)) <= longestText {
			t.Errorf("query(%q) = %q, and that %q", q, got, again)
		}
		// What net/url would find under a secret name is not to be found.
		values, _ := url.ParseQuery(got)
		for name, vs := range values {
			for _, v := range vs {
				if rd.hidesValueOf(name) && v != "" && v != mask && !strings.HasSuffix(v, mask) {
					t.Errorf("query(%q) = %q shows %s=%q", q, got, name, v)
				}
			}
		}
	})
}
