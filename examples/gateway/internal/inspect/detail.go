package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goweir/weir/capture"
)

// find returns the exchange with this number, if it is kept.
func (in *Inspector) find(n int64) (*capture.Exchange, bool) {
	if n < 1 || n > in.ring.Last() {
		return nil, false
	}
	x, at, err := in.ring.Next(ended, n-1)
	return x, err == nil && at == n
}

// detail answers with one exchange: the record as the audit has it, what was
// decided about it, and the past of the quotas it was charged to.
func (in *Inspector) detail(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
	x, ok := in.find(n)
	if !ok {
		refuse(w, http.StatusNotFound, "this exchange is not kept any more: only the latest are")
		return
	}
	t, x := take(x)
	var record bytes.Buffer
	if err := capture.JSONL(&record).Record(r.Context(), x); err != nil {
		refuse(w, http.StatusInternalServerError, "the record cannot be written")
		return
	}
	curves := []curve{}
	for i := range t.Decisions {
		if d := &t.Decisions[i]; d.Key != "" && d.Remaining >= 0 && d.Verdict != "spared" {
			in.keys.find(d.Policy, d.Key, func(s *keyState) { curves = append(curves, s.around(d)) })
		}
	}
	answer(w, map[string]any{
		"row": rowOf(n, x, t), "exchange": json.RawMessage(record.Bytes()), "trace": t,
		"curves": curves,
	})
}

// har answers with what is kept, or with the exchanges that n lists, as an HTTP
// Archive.
func (in *Inspector) har(w http.ResponseWriter, r *http.Request) {
	want := map[int64]bool{}
	if list := r.FormValue("n"); list != "" {
		for s := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				refuse(w, http.StatusBadRequest, "n: want numbers of exchanges, such as 1,2")
				return
			}
			want[n] = true
		}
	}
	dir, err := os.MkdirTemp("", "weir-har-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = in.writeHAR(filepath.Join(dir, "weir.har"), want)
	}
	if errors.Is(err, errForgotten) {
		refuse(w, http.StatusNotFound, err.Error())
		return
	}
	if err != nil {
		in.opts.Log.Error("inspector: no archive", "error", err)
		refuse(w, http.StatusInternalServerError, "the archive cannot be written: the log says why")
		return
	}
	w.Header().Set("Content-Type", "application/har+json")
	w.Header().Set("Content-Disposition", `attachment; filename="weir.har"`)
	http.ServeFile(w, r, filepath.Join(dir, "weir.har"))
}

var errForgotten = errors.New("none of these is kept any more")

func (in *Inspector) writeHAR(name string, want map[int64]bool) error {
	har, err := capture.OpenHAR(name)
	if err != nil {
		return err
	}
	defer har.Close()
	written := 0
	for n := int64(0); n < in.ring.Last(); {
		x, at, err := in.ring.Next(ended, n)
		if err != nil {
			break
		}
		n = at
		if len(want) > 0 && !want[n] {
			continue
		}
		_, x = take(x)
		if err := har.Record(ended, x); err != nil {
			return err
		}
		written++
	}
	if written == 0 && len(want) > 0 {
		return errForgotten
	}
	return har.Close()
}
