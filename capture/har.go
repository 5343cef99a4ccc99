package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	harHead = `{"log":{"version":"1.2","creator":{"name":"weir","version":"1"},"entries":[`
	harTail = "\n]}}\n"

	harEntry = `{"startedDateTime":"` // how an entry begins
)

// A HAR is a [Sink] that writes records to an HTTP Archive 1.2, the format that
// browsers' network tools and most HTTP tools read. Each record goes to the disk
// at once, with the end of the document after it in the same write; nothing is
// held in memory.
//
// So the file is a valid JSON document whenever a record was written, with or
// without a Close. If a write fails, as on a full disk, the file is set back to
// what it was before, and the next record is tried anew. Only a process that is
// killed in the middle of a write, or a machine that dies, can leave an entry
// that is cut: [OpenHAR] removes it. By hand, cut the file off after the last
// whole line, without its comma, and put "]}}" there.
//
// A body that is not UTF-8 is in base64, with "encoding":"base64" where the
// format has that member and "_encoding" where it has not. Cookies are listed as
// header fields only, because they are masked. What the format has no member for
// begins with an underscore: _client, _route, _outcome, _side, _phase, _empty,
// _refused_by, _informational, _attributes, and _decoded, _skipped, _truncated, _complete
// and _trailer of a request or response, all as in [JSONL].
//
// A HAR must be closed, after the [Queue] in front of it. Its methods are safe
// for concurrent use. WARNING: a lock is held while the file is written.
type HAR struct {
	mu     sync.Mutex
	f      *os.File
	end    int64 // where the document's tail begins
	more   bool  // there is an entry before it
	broken bool  // the tail has to be written again
	closed bool
}

// OpenHAR creates the named archive, for its owner alone (mode 0600), or
// continues one that a HAR has written before, repaired if that was not ended
// well. Any other file is refused and stays as it is.
func OpenHAR(name string) (*HAR, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	h := &HAR{f: f}
	if err := h.resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("capture: archive %s: %w", name, err), f.Close())
	}
	return h, nil
}

var errNoHAR = errors.New("not an archive of this package: remove it, or give another name")

// resume finds the end of the archive, and begins one in an empty file.
func (h *HAR) resume() error {
	info, err := h.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	// An archive whose first write was cut is begun again.
	head := make([]byte, min(info.Size(), int64(len(harHead))))
	if _, err := h.f.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	if !strings.HasPrefix(harHead, string(head)) {
		return errNoHAR
	}
	if len(head) < len(harHead) {
		_, err := h.f.WriteAt([]byte(harHead+harTail), 0)
		h.end = int64(len(harHead))
		return err
	}
	return h.seek(info.Size())
}

// seek finds the last whole entry, which is a line, and cuts off what is behind
// it.
func (h *HAR) seek(size int64) error {
	const longest = 16 << 20 // an entry
	start := max(0, size-longest)
	text := make([]byte, size-start)
	if _, err := h.f.ReadAt(text, start); err != nil && err != io.EOF {
		return err
	}
	for {
		newline := bytes.LastIndexByte(text, '\n')
		length := entryLength(text[newline+1:])
		switch {
		case newline < 0 && start == 0: // the head; there is no entry
			h.end = int64(len(harHead))
		case newline < 0:
			return errNoHAR
		case length == 0:
			text = text[:newline]
			continue
		default:
			h.end, h.more = start+int64(newline+1)+length, true
		}
		h.broken = true
		return h.repairLocked()
	}
}

// entryLength returns the length of the entry that a line begins with, 0 if there
// is no whole one. What follows it may be left over from what was overwritten.
func entryLength(line []byte) int64 {
	if !bytes.HasPrefix(line, []byte(harEntry)) {
		return 0
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if d.Decode(new(json.RawMessage)) != nil {
		return 0
	}
	return d.InputOffset()
}

// Record appends x to the archive.
func (h *HAR) Record(_ context.Context, x *Exchange) error {
	buf := buffers.Get().(*[]byte)
	// The first byte separates x from an entry before it.
	entry := append((*buf)[:0], ",\n"...)
	entry = appendHAR(entry, x)
	entry = append(entry, harTail...)
	err := h.append(entry)
	if cap(entry) <= largestBuffer {
		*buf = entry
		buffers.Put(buf)
	}
	return err
}

func (h *HAR) append(entry []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("capture: archive %s: %w", h.f.Name(), os.ErrClosed)
	}
	if err := h.repairLocked(); err != nil {
		return err
	}
	if !h.more {
		entry = entry[1:]
	}
	if _, err := h.f.WriteAt(entry, h.end); err != nil {
		h.broken = true
		return errors.Join(err, h.repairLocked())
	}
	h.end += int64(len(entry) - len(harTail))
	h.more = true
	return nil
}

// repairLocked puts the tail where a record was cut. After one that failed the
// disk has room for it, because it was there before.
func (h *HAR) repairLocked() error {
	if !h.broken {
		return nil
	}
	err := h.f.Truncate(h.end + int64(len(harTail)))
	if err == nil {
		_, err = h.f.WriteAt([]byte(harTail), h.end)
	}
	h.broken = err != nil
	return err
}

// Close closes the archive, after its contents are on the disk. A second call
// does nothing.
func (h *HAR) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	return errors.Join(h.repairLocked(), h.f.Sync(), h.f.Close())
}

// appendHAR appends x as an entry, http://www.softwareishard.com/blog/har-12-spec/#entries.
func appendHAR(b []byte, x *Exchange) []byte {
	b = append(b, harEntry...)
	b = x.Start.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","time":`...)
	b = appendMillis(b, x.Duration)

	b = append(b, `,"request":{"method":`...)
	b = appendString(b, x.Method)
	b = append(b, `,"url":`...)
	b = appendString(b, harURL(x))
	b = appendHARMessage(b, x, &x.Request)
	b = append(b, `,"queryString":[`...)
	b = appendHARQuery(b, x.Query)
	b = append(b, ']')
	if body := x.Request.Body; body.Len() > 0 {
		b = append(b, `,"postData":{"mimeType":`...)
		b = appendString(b, body.Type)
		b = appendCaptured(b, body, "text", "_encoding")
		b = append(b, '}')
	}
	b = appendFlag(b, "_complete", x.Request.Body.Complete)

	b = append(b, `},"response":{"status":`...)
	b = strconv.AppendInt(b, int64(x.Status), 10)
	b = append(b, `,"statusText":`...)
	b = appendString(b, http.StatusText(x.Status))
	b = appendHARMessage(b, x, &x.Response)
	b = append(b, `,"redirectURL":`...)
	b = appendString(b, x.Response.Header.Get("Location"))
	b = append(b, `,"content":{"size":`...)
	size := x.Response.Body.Size
	if x.Response.Body.Encoding != "" && !x.Response.Body.Truncated {
		size = int64(x.Response.Body.Len()) // without the coding
	}
	b = strconv.AppendInt(b, size, 10)
	b = append(b, `,"mimeType":`...)
	b = appendString(b, x.Response.Body.Type)
	if x.Response.Body.Len() > 0 {
		b = appendCaptured(b, x.Response.Body, "text", "encoding")
	}

	// That of the request's body is not known apart from the waiting.
	b = append(b, `}},"cache":{},"timings":{"send":0,"wait":`...)
	wait := x.FirstByte
	if wait == 0 || wait > x.Duration {
		wait = x.Duration
	}
	b = appendMillis(b, wait)
	b = append(b, `,"receive":`...)
	b = appendMillis(b, x.Duration-wait)
	b = append(b, '}')

	if x.Client.IsValid() {
		b = appendText(b, "_client", x.Client.WithZone("").String())
	}
	b = appendText(b, "_route", x.Route)
	b = appendText(b, "_outcome", string(x.Outcome))
	b = appendText(b, "_side", string(x.Side))
	b = appendText(b, "_phase", string(x.Phase))
	b = appendFlag(b, "_empty", x.Empty)
	b = appendText(b, "_refused_by", x.RefusedBy)
	b = appendInformational(b, "_informational", x.Informational)
	b = appendAttributes(b, "_attributes", x.Attributes)
	return append(b, '}')
}

// appendHARMessage appends what requests and responses have both.
func appendHARMessage(b []byte, x *Exchange, m *Message) []byte {
	b = append(b, `,"httpVersion":`...)
	b = appendString(b, x.Proto)
	b = append(b, `,"cookies":[],"headers":[`...)
	for i, f := range m.Header {
		b = appendPair(b, i, f.Name, f.Value)
	}
	b = append(b, `],"headersSize":-1,"bodySize":`...)
	b = strconv.AppendInt(b, m.Body.Size, 10)
	b = appendHeader(b, "_trailer", m.Trailer)
	b = appendText(b, "_decoded", m.Body.Encoding)
	b = appendText(b, "_skipped", string(m.Body.Skipped))
	return appendFlag(b, "_truncated", m.Body.Truncated)
}

func appendHARQuery(b []byte, query string) []byte {
	i := 0
	for param := range strings.SplitSeq(query, "&") {
		if param == "" {
			continue
		}
		name, value, _ := strings.Cut(param, "=")
		for _, s := range []*string{&name, &value} {
			if plain, err := url.QueryUnescape(*s); err == nil {
				*s = plain
			}
		}
		b = appendPair(b, i, name, value)
		i++
	}
	return b
}

// appendPair appends element i of an array of names and values.
func appendPair(b []byte, i int, name, value string) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	b = append(b, `{"name":`...)
	b = appendString(b, name)
	b = append(b, `,"value":`...)
	b = appendString(b, value)
	return append(b, '}')
}

func harURL(x *Exchange) string {
	var b strings.Builder
	b.WriteString(x.Scheme)
	b.WriteString("://")
	b.WriteString(x.Host)
	if !strings.HasPrefix(x.Path, "/") {
		b.WriteByte('/')
	}
	b.WriteString(x.Path)
	if x.Query != "" {
		b.WriteByte('?')
		b.WriteString(x.Query)
	}
	return b.String()
}
