package capture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// redactBody returns what may be seen of a body, and false for nothing.
func redactBody(rd *redactor, contentType, body string, cut bool) (string, bool) {
	s := jsonScan{rd: rd}
	spans, with, ok := s.scanBody(contentType, []byte(body), cut)
	if !ok {
		return "", false
	}
	return apply(body, spans, with), true
}

func apply(body string, spans []span, with string) string {
	var b strings.Builder
	done := 0
	for _, s := range spans {
		b.WriteString(body[done:s.from])
		b.WriteString(with)
		done = s.to
	}
	b.WriteString(body[done:])
	return b.String()
}

func TestRedactJSON(t *testing.T) {
	const failed = "(dropped)"
	type test struct{ in, want string }
	run := func(t *testing.T, o Options, cut bool, tests []test) {
		t.Helper()
		rd := mustRedactor(t, o)
		for _, c := range tests {
			got, ok := redactBody(rd, "application/json", c.in, cut)
			if !ok {
				got = failed
			}
			if got != c.want {
				t.Errorf("%s\nbecame %s,\nwant   %s", c.in, got, c.want)
			}
			if ok && !cut && json.Valid([]byte(c.in)) && !json.Valid([]byte(got)) {
				t.Errorf("%s\nbecame invalid: %s", c.in, got)
			}
		}
	}
	t.Run("names", func(t *testing.T) {
		run(t, Options{Redact: []string{"e-mail"}}, false, []test{
			{`{"a":1}`, `{"a":1}`},
			{`{"password":"x"}`, `{"password":"REDACTED"}`},
			{` { "password" : "x" , "a" : 1 } `, ` { "password" : "REDACTED" , "a" : 1 } `},
			{`{"accessToken":1,"access_token":true,"ACCESS-TOKEN":null}`,
				`{"accessToken":"REDACTED","access_token":"REDACTED","ACCESS-TOKEN":"REDACTED"}`},
			{`{"token":{"a":[1,{"b":"}"}]},"c":2}`, `{"token":"REDACTED","c":2}`},
			{`{"tokens":["a","b"],"c":[]}`, `{"tokens":"REDACTED","c":[]}`},
			{`{"secret":-1.5e+3}`, `{"secret":"REDACTED"}`},
			{`{"token":""}`, `{"token":"REDACTED"}`},
			{`{"a":{"b":[{"c":{"apiKey":"x"}}]}}`, `{"a":{"b":[{"c":{"apiKey":"REDACTED"}}]}}`},
			{`{"a":"1","token":"x","a":"2","token":"y"}`, `{"a":"1","token":"REDACTED","a":"2","token":"REDACTED"}`},
			{`{"\u0061ccess_token":"x","pass\u0077ord":"y","\u0070in":1}`,
				`{"\u0061ccess_token":"REDACTED","pass\u0077ord":"REDACTED","\u0070in":"REDACTED"}`},
			{"{\"pa\u017f\u017fword\":\"x\",\"to\u212aen\":1}", "{\"pa\u017f\u017fword\":\"REDACTED\",\"to\u212aen\":\"REDACTED\"}"},
			{`{"Email":"x","e_mail":"x"}`, `{"Email":"REDACTED","e_mail":"REDACTED"}`},
			{`{"code":"not_found","key":"k","pin":"1","session":"s"}`, `{"code":"not_found","key":"k","pin":"REDACTED","session":"REDACTED"}`},
			{`{"a\"password":"x"}`, `{"a\"password":"REDACTED"}`},
			{`["password","x"]`, `["password","x"]`},
			{`"x"`, `"x"`},
			{``, ``},
			{"\uFEFF" + `{"token":1}`, "\uFEFF" + `{"token":"REDACTED"}`},
		})
	})
	t.Run("within strings", func(t *testing.T) {
		run(t, Options{}, false, []test{
			{`{"u":"https://a/?x=1&token=s"}`, `{"u":"REDACTED"}`},
			{`{"u":"https://a/?code=s"}`, `{"u":"REDACTED"}`},
			{`{"u":"https://a/?x=1"}`, `{"u":"https://a/?x=1"}`},
			{`{"e":"rpc error: code = NotFound"}`, `{"e":"rpc error: code = NotFound"}`},
			{`{"t":"2026-01-02T03:04:05Z"}`, `{"t":"2026-01-02T03:04:05Z"}`},
			{`{"body":"{\"password\":\"s\"}"}`, `{"body":"REDACTED"}`},
			{`{"body":"{\\\"password\\\":\\\"s\\\"}"}`, `{"body":"{\\\"password\\\":\\\"s\\\"}"}`[:8] + `"REDACTED"}`},
			{`{"body":"{\"p\u0061ssword\":\"s\"}"}`, `{"body":"REDACTED"}`},
			{`{"u":"token\u003ds"}`, `{"u":"REDACTED"}`},
			{`{"u":"x%3Ftoken%3Ds"}`, `{"u":"REDACTED"}`},
			{`{"u":"x%253Ftoken%253Ds"}`, `{"u":"REDACTED"}`},
			{`{"u":"\u0025"}`, `{"u":"\u0025"}`},
			{`{"query":"mutation { login(user: \"u\", password: \"s\") { id } }"}`, `{"query":"REDACTED"}`},
			{`{"m":"100% of: it, 5%"}`, `{"m":"100% of: it, 5%"}`},
			{`["Authorization: Bearer s"]`, `["REDACTED"]`},
		})
	})
	t.Run("paths", func(t *testing.T) {
		run(t, Options{RedactPaths: []string{
			"$.user.email", "$.cards[*].number", "$..address", "$['a b'][1]", `$.deep..x["y"]`, "$.all.*",
		}}, false, []test{
			{`{"user":{"e-mail":"s","name":"n"},"email":"n"}`, `{"user":{"e-mail":"REDACTED","name":"n"},"email":"n"}`},
			{`{"cards":[{"number":1,"n":2},{"number":[3]}]}`, `{"cards":[{"number":"REDACTED","n":2},{"number":"REDACTED"}]}`},
			{`{"a":[{"Address":{"b":1}}],"address":2}`, `{"a":[{"Address":"REDACTED"}],"address":"REDACTED"}`},
			{`{"a_b":[1,2,3],"ab":[[1],[2]]}`, `{"a_b":[1,"REDACTED",3],"ab":[[1],"REDACTED"]}`},
			{`{"deep":{"x":{"y":1},"z":[{"x":{"y":2,"q":3}}]},"x":{"y":4}}`,
				`{"deep":{"x":{"y":"REDACTED"},"z":[{"x":{"y":"REDACTED","q":3}}]},"x":{"y":4}}`},
			{`{"all":{"a":1,"b":[]},"b":{"all":{"c":1}}}`, `{"all":{"a":"REDACTED","b":"REDACTED"},"b":{"all":{"c":1}}}`},
			{`{"all":[1,{}]}`, `{"all":["REDACTED","REDACTED"]}`},
			{`{"token":{"user":{"email":1}},"user":{"email":2}}`, `{"token":"REDACTED","user":{"email":"REDACTED"}}`},
			{"{\"user\":{\"email\":1}}\n{\"user\":{\"email\":2}}", "{\"user\":{\"email\":\"REDACTED\"}}\n{\"user\":{\"email\":\"REDACTED\"}}"},
		})
		run(t, Options{RedactPaths: []string{"$"}}, false, []test{{`{"a":1}`, `"REDACTED"`}, {`[1] 2`, `"REDACTED" "REDACTED"`}})
		run(t, Options{RedactPaths: []string{"$[1]", "$..[0].x"}}, false, []test{
			{`[1,2,3]`, `[1,"REDACTED",3]`},
			{`[{"x":1},{"x":2}]`, `[{"x":"REDACTED"},"REDACTED"]`},
			{`{"a":[[{"x":1}]]}`, `{"a":[[{"x":"REDACTED"}]]}`},
		})
	})
	t.Run("allow-list", func(t *testing.T) {
		run(t, Options{AllowOnly: []string{"id", "tags", "token"}}, false, []test{
			{`{"id":1,"name":"n","tags":["a","b",["c"],{"d":1}],"o":{"id":"x","p":null}}`,
				`{"id":1,"name":"REDACTED","tags":["a","b",["c"],{"d":"REDACTED"}],"o":{"id":"x","p":"REDACTED"}}`},
			{`{"token":"s","a":[1,{"id":2},3]}`, `{"token":"REDACTED","a":["REDACTED",{"id":2},"REDACTED"]}`},
			{`["a",true]`, `["REDACTED","REDACTED"]`},
			{`"a" 1`, `"REDACTED" "REDACTED"`},
			{`{"tags":[{"x":1},"a"],"x":["b"]}`, `{"tags":[{"x":"REDACTED"},"a"],"x":["REDACTED"]}`},
		})
		run(t, Options{AllowOnly: []string{}}, true, []test{{`{"a":12`, `{"a":"REDACTED"`}, {`{"a":"x`, `{"a":"REDACTED"`}, {`tr`, `"REDACTED"`}})
	})
	t.Run("cut", func(t *testing.T) {
		run(t, Options{}, true, []test{
			{`{"a":1`, `{"a":1`},
			{`{"a":"b`, `{"a":"b`},
			{`{"a":"b\u00`, `{"a":"b\u00`},
			{`{"passw`, `{"passw`},
			{`{"password`, `{"password`},
			{`{"password":`, `{"password":`},
			{`{"password": "`, `{"password": "REDACTED"`},
			{`{"password":"s`, `{"password":"REDACTED"`},
			{`{"password":"s\`, `{"password":"REDACTED"`},
			{`{"password":-`, `{"password":"REDACTED"`},
			{`{"password":12`, `{"password":"REDACTED"`},
			{`{"password":tr`, `{"password":"REDACTED"`},
			{`{"password":{"a":["s`, `{"password":"REDACTED"`},
			{`{"u":"https://a/?token=s`, `{"u":"REDACTED"`},
			{`{"u":"x","b":[{"c":nul`, `{"u":"x","b":[{"c":nul`},
			{`{"password":"s"} garbage`, failed},
			{`{"a":"b\x`, failed},
			{`{"a":tru1`, failed},
		})
	})
	t.Run("several texts", func(t *testing.T) {
		run(t, Options{}, false, []test{
			{"{\"token\":1}\n{\"token\":2}\n", "{\"token\":\"REDACTED\"}\n{\"token\":\"REDACTED\"}\n"},
			{"\x1e{\"token\":1}\n\x1e{\"a\":2}\n", "\x1e{\"token\":\"REDACTED\"}\n\x1e{\"a\":2}\n"},
			{"{\"a\":\x1e1}", failed},
		})
	})
	t.Run("no JSON", func(t *testing.T) {
		for _, in := range []string{
			`{"password":"hunter2"`, `{"password":"hunter2"]`, `{"a":1}}`, `}`, `]`, `{"a":]`, `[1,]`, `{"a":1,}`, `[,1]`, `{,}`,
			`{'password':'s'}`, `{password:"s"}`, `{"a" 1}`, `{"a"}`, `{1:2}`, `[1 2]`, `{"a":1 "b":2}`, `{"a":01}`, `{"a":+1}`, `{"a":.5}`,
			`{"a":1.}`, `{"a":1e}`, `{"a":-}`, `{"a":NaN}`, `{"a":True}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":"\u12g4"}`,
			`{"a":/**/1}`, `// x`, `password=hunter2`, "\x00", "{\x00}", `[`, `{`, `"`, `"\`, `tru`, `{"a"`, `{"a":`, `{"a":[}`, `[{"a":1]`,
		} {
			if json.Valid([]byte(in)) {
				t.Fatalf("%q is valid", in)
			}
			if got, ok := redactBody(mustRedactor(t, Options{}), "application/json", in, false); ok {
				t.Errorf("%q became %q, want nothing", in, got)
			}
		}
	})
	t.Run("off", func(t *testing.T) {
		run(t, Options{DangerouslyKeepSecrets: true}, false, []test{{`{"token":1}`, `{"token":1}`}, {`{"token":`, `{"token":`}})
	})
}

func TestRedactPathFaults(t *testing.T) {
	bad := []string{"", "user", "$.", "$..", "$x", "$.a-b", "$[", "$[]", "$[1", "$[-1]", "$[a]", "$['a", "$['a'", "$['']", "$.a.", "$.0a", "$.a*", "$[?@.x]", "$[1:2]", "$[0,1]", "$...a"}
	err := (&Options{RedactPaths: append([]string{"$.fine"}, bad...), Redact: []string{"ok", "--"}, Decoders: map[string]Decoder{"br": nil, "zstd": nil}}).Validate()
	if err == nil {
		t.Fatal("no error")
	}
	if got, want := len(strings.Split(err.Error(), "\n")), len(bad)+3; got != want {
		t.Errorf("%d faults, want %d:\n%v", got, want, err)
	}
	for _, expr := range bad {
		if !strings.Contains(err.Error(), strconv.Quote(expr)) {
			t.Errorf("no fault found in %q", expr)
		}
	}
	if err := (*Options)(nil).Validate(); err != nil {
		t.Error(err)
	}
	defer func() {
		if v := recover(); v == nil {
			t.Error("Middleware did not panic")
		}
	}()
	Middleware(SinkFunc(nil), &Options{RedactPaths: bad})
}

// A document nested deeply, or a long string, costs what its length deserves
// and no stack.
func TestRedactJSONIsBounded(t *testing.T) {
	rd := mustRedactor(t, Options{RedactPaths: []string{"$..x.y", "$[*]..[0]"}})
	const depth = 10_000
	deep := strings.Repeat(`[{"a":`, depth) + `{"token":"s3cret"}` + strings.Repeat(`}]`, depth)
	got, ok := redactBody(rd, "application/json", deep, false)
	if !ok || strings.Contains(got, "s3cret") || len(got) == 0 {
		t.Errorf("depth %d: %v, %d bytes", 2*depth, ok, len(got))
	}
	for _, brackets := range []string{"[", `{"a":`} {
		if _, ok := redactBody(rd, "application/json", strings.Repeat(brackets, 1<<20), true); !ok {
			t.Errorf("a million open %s were dropped", brackets)
		}
	}
	long := strings.Repeat("x", 1<<20)
	if got, ok := redactBody(rd, "application/json", `{"a":"`+long+`","token":"`+long+`"}`, false); !ok || got != `{"a":"`+long+`","token":"REDACTED"}` {
		t.Errorf("1 MiB strings: %v, %d bytes", ok, len(got))
	}
	long = strings.Repeat("a:=", 1<<18) + strings.Repeat(" ", 1<<18) + strings.Repeat("%3d", 1<<16)
	if got, ok := redactBody(rd, "application/json", `["`+long+`"]`, false); !ok || got != `["`+long+`"]` {
		t.Errorf("1 MiB of marks: %v, %d bytes", ok, len(got))
	}
}

const canary = "c4n4ry"

// TestRedactJSONCutAnywhere cuts a document that has a secret in every place
// that secrets are found in, at every offset.
func TestRedactJSONCutAnywhere(t *testing.T) {
	rd := mustRedactor(t, Options{RedactPaths: []string{"$.cards[*].number", "$..inner"}})
	doc := `{"password":"c4n4ry","a":[{"\u0061pi_key":"\u0063c4n4ry\\c4n4ry"},"x"],"token":{"a":"c4n4ry","b":["c4n4ry",1e5]},` +
		`"cards":[{"number":"c4n4ry"},{"number":["c4n4ry"]}],"o":{"inner":{"c4n4ry":"c4n4ry"}},"secret" : [ "c4n4ry" ] ,` +
		`"u":"/?a=1&token=c4n4ry","v":"{\"password\":\"c4n4ry\"}","w":"\u0074oken%3dc4n4ry","q":"é€😀","pin":"c4n4ry","end":true}`
	if !json.Valid([]byte(doc)) {
		t.Fatal("not JSON")
	}
	for i := range len(doc) + 1 {
		got, ok := redactBody(rd, "application/json", doc[:i], true)
		if !ok || containsPart(got, canary) {
			t.Errorf("cut at %d: %v\n%s\nbecame\n%s", i, ok, doc[:i], got)
		}
	}
	if whole, _ := redactBody(rd, "application/json", doc, false); !json.Valid([]byte(whole)) || strings.Count(whole, mask) != 11 {
		t.Errorf("the whole became %s", whole)
	}
}

// containsPart reports whether s contains the first 3 bytes of secret.
func containsPart(s, secret string) bool { return strings.Contains(s, secret[:3]) }

// reference is the redaction of a document by encoding/json, the naive way.
func (rd *redactor) reference(doc []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var out []byte
	for {
		var v any
		switch err := dec.Decode(&v); {
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, err
		}
		text, err := json.Marshal(rd.referenceValue(v))
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
}

func (rd *redactor) referenceValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			if rd.referenceSecret(name) {
				v[name] = mask
			} else {
				v[name] = rd.referenceValue(v[name])
			}
		}
	case []any:
		for i := range v {
			v[i] = rd.referenceValue(v[i])
		}
	}
	return v
}

func (rd *redactor) referenceSecret(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r == '\u017f':
			return 's'
		case r == '\u212a':
			return 'k'
		case r >= 0x80 || '0' <= r && r <= '9' || 'a' <= r && r <= 'z':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, name)
	return slices.ContainsFunc(secretParts, func(part string) bool { return strings.Contains(plain, part) }) ||
		slices.Contains(secretNames, plain) && !slices.Contains(bodyNames, plain)
}

// TestRedactJSONAgainstEncodingJSON compares with the reference on random
// documents.
func TestRedactJSONAgainstEncodingJSON(t *testing.T) {
	rd := mustRedactor(t, Options{})
	rnd := rand.New(rand.NewPCG(1, 2))
	rounds := 20_000
	if testing.Short() {
		rounds = 2_000
	}
	masked := 0
	for range rounds {
		doc := appendRandom(nil, rnd, 0)
		want, err := rd.reference(doc)
		if err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		got, ok := redactBody(rd, "application/json", string(doc), false)
		if !ok {
			t.Fatalf("dropped: %s", doc)
		}
		var a, b any
		if err := errors.Join(json.Unmarshal([]byte(got), &a), json.Unmarshal(want, &b)); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%s\nbecame %s\nwant   %s", doc, got, want)
		}
		if got != string(doc) {
			masked++
		}
	}
	if masked < rounds/10 {
		t.Errorf("only %d of %d documents had anything to mask", masked, rounds)
	}
}

var randomNames = []string{
	`a`, `id`, `name`, `password`, `Pass-Word`, `access\u005ftoken`, `\u0041PIKEY`, `x_secret_y`, `pin`, `pinned`, `spin`, `code`,
	`key`, `monkey`, `sess`, `session`, `s\u0065ssion`, ``, `\"`, `\\token`, `to\\ken`, `éé`, `aus_authorization`, `tok`, `en`, `passwor`,
}

// appendRandom appends a random document whose strings mention no secrets,
// which the reference does not look for.
func appendRandom(b []byte, rnd *rand.Rand, depth int) []byte {
	space := func() {
		for rnd.IntN(8) == 0 {
			b = append(b, " \n\t\r"[rnd.IntN(4)])
		}
	}
	space()
	kind := rnd.IntN(8)
	if depth > 6 {
		kind = 2 + rnd.IntN(6)
	}
	switch kind {
	case 0:
		b = append(b, '{')
		// encoding/json keeps the last of several members with the same name,
		// so there are none.
		for i, at := range rnd.Perm(len(randomNames))[:rnd.IntN(6)] {
			if i > 0 {
				b = append(b, ',')
			}
			space()
			b = append(append(append(b, '"'), randomNames[at]...), '"')
			space()
			b = append(b, ':')
			b = appendRandom(b, rnd, depth+1)
		}
		b = append(b, '}')
	case 1:
		b = append(b, '[')
		for i := range rnd.IntN(5) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendRandom(b, rnd, depth+1)
		}
		space()
		b = append(b, ']')
	case 2:
		b = append(b, `true`...)
	case 3:
		b = append(b, `null`...)
	case 4:
		b = strconv.AppendFloat(b, rnd.NormFloat64()*1e9, "efg"[rnd.IntN(3)], -1, 64)
	case 5:
		b = strconv.AppendInt(b, rnd.Int64N(1000)-500, 10)
	default:
		b = append(b, '"')
		for range rnd.IntN(12) {
			b = append(b, []string{`x`, `é`, `\n`, `\"`, `\\`, `\u00e9`, `\ud83d\ude00`, ` `, `:`, `=`, `12`, `{`, `]`}[rnd.IntN(13)]...)
		}
		b = append(b, '"')
	}
	space()
	return b
}

// FuzzRedactJSON holds the redactor against encoding/json: it accepts what that
// accepts, what it returns is as valid as what it got, and no cut shows what the
// whole hides.
func FuzzRedactJSON(f *testing.F) {
	for _, seed := range []string{
		`{"password":"x","a":[1,2.5e-3,true,null,"b"]}`,
		`{"\u0061ccess_token":{"a":[{}]},"token":1,"token":"2"}`,
		`{"u":"https://a/?token=x","n":"{\"secret\":1}"}`,
		strings.Repeat(`[{"a":`, 200) + `1` + strings.Repeat(`}]`, 200),
		"{\"pa\u017f\u017fword\":\"\\ud83d\\ude00\"}\n\x1e[1]",
		`{"a":"b\`, `[1,`, `"\u12`, "\xEF\xBB\xBF", "\xEF\xBB\xBF[1]",
		`":"`, ` 0 `, "\"password\"\n",
	} {
		f.Add([]byte(seed), uint(len(seed)/2))
	}
	rd := mustRedactor(f, Options{})
	withPaths := mustRedactor(f, Options{RedactPaths: []string{"$..a", "$[1].b", "$.*[*]"}})
	strict := mustRedactor(f, Options{AllowOnly: []string{"a", "n"}})
	f.Fuzz(func(t *testing.T, doc []byte, at uint) {
		got, ok := redactBody(rd, "application/json", string(doc), false)
		valid := json.Valid(doc)
		plain := bytes.TrimPrefix(doc, []byte("\xEF\xBB\xBF"))
		if bytes.IndexByte(plain, recordSeparator) < 0 && len(bytes.TrimSpace(plain)) > 0 {
			// One text or several, by a reader that shares nothing.
			dec := json.NewDecoder(bytes.NewReader(plain))
			var err error
			for err == nil {
				var v json.RawMessage
				err = dec.Decode(&v)
			}
			if (err == io.EOF) != ok && !strings.Contains(err.Error(), "max depth") {
				t.Fatalf("%q: encoding/json says %v, the redactor %v", doc, err, ok)
			}
		}
		if valid && !json.Valid([]byte(got)) {
			t.Fatalf("%q became invalid: %q", doc, got)
		}
		if again, _ := redactBody(rd, "application/json", got, false); ok && again != got {
			t.Fatalf("%q became %q, and that %q", doc, got, again)
		}
		if !ok {
			return
		}
		// Under a secret name nothing of it is seen, wherever it is cut.
		if valid {
			const head, tail = `{"x":0,"password":`, `,"y":0}`
			cut := (head + string(doc) + tail)[:len(head)+int(at%uint(len(doc)+1))]
			hidden, ok := redactBody(rd, "application/json", cut, true)
			hidden = strings.TrimRight(hidden, " \t\r\n") // before the value begins
			if masked, found := strings.CutSuffix(hidden, maskedJSON); !ok || strings.TrimRight(masked, " \t\r\n") != head && found || !found && hidden != head {
				t.Fatalf("%q became %q", cut, hidden)
			}
			hidden, _ = redactBody(rd, "application/json", head+string(doc)+tail, false)
			before, after, _ := strings.Cut(string(doc), string(bytes.TrimSpace(doc)))
			if want := head + before + maskedJSON + after + tail; hidden != want {
				t.Fatalf("%q became %q, want %q", doc, hidden, want)
			}
		}
		for _, rd := range []*redactor{rd, withPaths, strict} {
			whole, ok := redactBody(rd, "application/json", string(doc), false)
			if valid && (!ok || !json.Valid([]byte(whole))) {
				t.Fatalf("%q became invalid: %q", doc, whole)
			}
			// A cut shows a beginning of what the whole shows, and then at most
			// a mask, unless what was cut away is what made it a secret.
			cut := doc[:at%uint(len(doc)+1)]
			part, ok := redactBody(rd, "application/json", string(cut), true)
			if !ok {
				t.Fatalf("the beginning %q of %q was dropped", cut, doc)
			}
			common := 0
			for common < min(len(part), len(whole)) && part[common] == whole[common] {
				common++
			}
			if rest := part[common:]; rest != "" && !strings.HasPrefix(maskedJSON, rest) && !strings.HasSuffix(part, maskedJSON) &&
				!strings.HasPrefix(whole[common:], mask) && !strings.HasPrefix(whole[common:], maskedJSON[1:]) && !inMention(rd, doc) {
				t.Fatalf("%q cut to %q became %q, the whole %q", doc, cut, part, whole)
			}
		}
	})
}

// inMention reports whether masking depends on the rest of a string.
func inMention(rd *redactor, doc []byte) bool {
	return bytes.ContainsAny(doc, `=:%\`) && (&jsonScan{rd: rd}).mentions(doc, hasEscape)
}

func TestNames(t *testing.T) {
	// The automaton against a search for each part.
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var parts, exact []string
		word := func(n int) string {
			var b strings.Builder
			for range 1 + rnd.IntN(n) {
				b.WriteByte("abab9"[rnd.IntN(5)])
			}
			return b.String()
		}
		for range rnd.IntN(6) {
			parts = append(parts, word(5))
		}
		for range rnd.IntN(3) {
			exact = append(exact, word(8))
		}
		n := newNames(parts, exact, nil)
		for range 20 {
			var b strings.Builder
			for range rnd.IntN(12) {
				b.WriteString([]string{"a", "b", "A", "B", "_", "-", "9", "\u017f"}[rnd.IntN(8)])
			}
			name := b.String()
			plain := string(appendPlain(nil, name))
			want := slices.Contains(exact, plain) ||
				slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(plain, p) })
			if got := isSecretIn(n, name, inHead); got != want {
				t.Fatalf("parts %q, exact %q: %q is secret: %v, want %v", parts, exact, name, got, want)
			}
		}
	}
}
