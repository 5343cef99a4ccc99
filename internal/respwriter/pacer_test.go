package respwriter_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/goweir/weir/internal/respwriter"
)

// pacer is a Pacer that admits so many bytes at once, and so many in all.
type pacer struct {
	respwriter.NoHooks
	most  int64
	left  int64 // before it fails; 0: never
	log   *[]string
	spent int64
}

var errPace = errors.New("the pace is lost")

func (p *pacer) Header(status int, _ http.Header) { p.logf("Header %d", status) }

func (p *pacer) Admit(n int64) (int64, error) {
	if p.left > 0 && p.spent >= p.left {
		p.logf("Admit fails")
		return 0, errPace
	}
	if n != respwriter.Unknown {
		p.logf("Admit %d", n)
	} else {
		p.logf("Admit Unknown")
	}
	return min(n, p.most), nil
}

func (p *pacer) Body(b []byte, n int64, err error) {
	p.spent += n
	p.logf("Body %d %v", n, err)
}

func (p *pacer) logf(format string, args ...any) {
	if p.log != nil {
		*p.log = append(*p.log, fmt.Sprintf(format, args...))
	}
}

// What a pacer admits is what reaches the inner writer before it is asked
// again.
func TestPacer(t *testing.T) {
	body := strings.Repeat("0123456789", 60)
	write := func(w http.ResponseWriter) (int64, error) {
		n, err := w.Write([]byte(body[:10]))
		return int64(n), err
	}
	writeString := func(w http.ResponseWriter) (int64, error) {
		n, err := io.WriteString(w, body[:10])
		return int64(n), err
	}
	// Behind a WriteHeader, so that there is no prefix.
	readFrom := func(src io.Reader) func(http.ResponseWriter) (int64, error) {
		return func(w http.ResponseWriter) (int64, error) {
			w.WriteHeader(200)
			return w.(io.ReaderFrom).ReadFrom(src)
		}
	}
	limited := &io.LimitedReader{R: strings.NewReader(body), N: 10}
	tests := []struct {
		name       string
		do         func(http.ResponseWriter) (int64, error)
		most, left int64
		short      bool
		want       string
		n          int64
		err        error
	}{
		{"Write", write, 4, 0, false, "Header 200, Admit 10, inner.Write 4, Body 4 <nil>, Admit 6, inner.Write 4, Body 4 <nil>, Admit 2, inner.Write 2, Body 2 <nil>", 10, nil},
		{"Write at once", write, 10, 0, false, "Header 200, Admit 10, inner.Write 10, Body 10 <nil>", 10, nil},
		{"Write fails", write, 4, 4, false, "Header 200, Admit 10, inner.Write 4, Body 4 <nil>, Admit fails", 4, errPace},
		{"Write is short", write, 4, 0, true, "Header 200, Admit 10, inner.Write 3, Body 3 <nil>", 3, nil},
		{"WriteString", writeString, 6, 0, false, "Header 200, Admit 10, inner.WriteString 6, Body 6 <nil>, Admit 4, inner.WriteString 4, Body 4 <nil>", 10, nil},
		{"ReadFrom", readFrom(strings.NewReader(body[:10])), 6, 0, false,
			"Header 200, inner.WriteHeader 200, Admit Unknown, inner.ReadFrom 6, Body 6 <nil>, Admit Unknown, inner.ReadFrom 4, Body 4 <nil>", 10, nil},
		{"ReadFrom fails", readFrom(strings.NewReader(body[:10])), 6, 6, false,
			"Header 200, inner.WriteHeader 200, Admit Unknown, inner.ReadFrom 6, Body 6 <nil>, Admit fails", 6, errPace},
		{"ReadFrom at once", readFrom(strings.NewReader(body[:10])), respwriter.Unknown, 0, false,
			"Header 200, inner.WriteHeader 200, Admit Unknown, inner.ReadFrom 10, Body 10 <nil>", 10, nil},
		{"ReadFrom of what is limited", readFrom(limited), 6, 0, false,
			"Header 200, inner.WriteHeader 200, Admit 10, inner.ReadFrom 6, Body 6 <nil>, Admit 4, inner.ReadFrom 4, Body 4 <nil>", 10, nil},
	}
	for _, tt := range tests {
		log := new([]string)
		inner := newFake(log)
		inner.short = tt.short
		rw, hooks := new(respwriter.Writer), &pacer{most: tt.most, left: tt.left, log: log}
		n, err := tt.do(rw.Wrap(inner, hooks))
		if got := strings.Join(*log, ", "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
		if n != tt.n || err != tt.err {
			t.Errorf("%s: %d, %v, want %d, %v", tt.name, n, err, tt.n, tt.err)
		}
		if got := inner.body.String(); got != body[:tt.n] {
			t.Errorf("%s: body %q", tt.name, got)
		}
	}
	if limited.N != 0 {
		t.Errorf("the limited reader has %d bytes left", limited.N)
	}
}

// The prefix that ReadFrom shows to decide the header is paced too, and what it
// was is sent in the end.
func TestPacerOfPrefix(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 200)
	for _, most := range []int64{1, 100, 511, 512, 513, 1999, 2000, 2001, respwriter.Unknown} {
		for _, left := range []int64{0, 1, 300, 600} {
			inner := newFake(new([]string))
			rw, hooks := new(respwriter.Writer), &pacer{most: most, left: left, log: new([]string)}
			n, err := rw.Wrap(inner, hooks).(io.ReaderFrom).ReadFrom(bytes.NewReader(body))
			fails := left > 0 && slices.ContainsFunc(*hooks.log, func(s string) bool { return strings.HasSuffix(s, "fails") })
			if fails != (err == errPace) || !fails && (err != nil || n != int64(len(body))) {
				t.Errorf("most %d, left %d: %d, %v", most, left, n, err)
			}
			if hooks.spent != n || !bytes.Equal(inner.body.Bytes(), body[:n]) {
				t.Errorf("most %d, left %d: ReadFrom says %d bytes, the hooks %d, the inner writer %d", most, left, n, hooks.spent, inner.body.Len())
			}
		}
	}
}

// After Finish nobody is asked.
func TestPacerAfterFinish(t *testing.T) {
	log := new([]string)
	rw := new(respwriter.Writer)
	w := rw.Wrap(newFake(log), &pacer{most: 1, log: log})
	rw.Finish(true)
	*log = nil
	w.Write([]byte("late"))
	if want := []string{"inner.Write 4"}; !slices.Equal(*log, want) {
		t.Errorf("got %v, want %v", *log, want)
	}
}
