package capture

import (
	"net/http"
	"strconv"
	"strings"
)

// A SkipReason says why a body, or the rest of it, is not in the record.
type SkipReason string

const (
	SkipContentType SkipReason = "content_type" // neither JSON nor text
	SkipAttachment  SkipReason = "attachment"   // a download by its Content-Disposition
	SkipSSE         SkipReason = "sse"          // text/event-stream
	SkipUpgrade     SkipReason = "upgrade"      // 101, or a hijacked connection
	SkipGRPC        SkipReason = "grpc"         // application/grpc and its kin
	SkipRange       SkipReason = "range"        // a part of a resource: 206
	SkipMultipart   SkipReason = "multipart"    // multipart/*, form uploads for example
	SkipNoBody      SkipReason = "no_body"      // nothing was, or may be, sent
	SkipEncoded     SkipReason = "encoded"      // in a coding that is not, or cannot be, undone
	SkipSampledOut  SkipReason = "sampled_out"  // a hook or Live.Skip said so
	SkipStatus      SkipReason = "status"       // not kept for such an answer: 401, 403, a refusal
	SkipBudget      SkipReason = "budget"       // the Budget had no room (left)
	SkipCap         SkipReason = "cap"          // longer than the cap

	// SkipRedaction: the body, or the coding it is in, cannot be read, so its
	// secrets cannot be found.
	SkipRedaction SkipReason = "redaction_failed"
)

// sniffLen is how much of a body net/http looks at to guess its type.
const sniffLen = 512

// decideRequest says why the body of a request is not captured, by its header.
func decideRequest(r *http.Request, decoders map[string]Decoder) SkipReason {
	if r.Body == nil || r.Body == http.NoBody || endedWithHeader(r) {
		return SkipNoBody
	}
	return decideType(r.Header.Get("Content-Type"), r.Header, decoders)
}

// endedWithHeader reports whether an HTTP/2 request has no body, though net/http
// gives it a Body: a ContentLength that nobody declared is -1 then, unless the
// stream ended with the header.
func endedWithHeader(r *http.Request) bool {
	if r.ProtoMajor != 2 || r.ContentLength != 0 {
		return false
	}
	declared := r.Header.Get("Content-Length") // which may be no number
	return declared == "" || declared == "0"
}

// decideResponse says why the body of a response is not captured, by its final
// header. With sniff the type is not known before the first bytes are.
func decideResponse(method string, status int, h http.Header, decoders map[string]Decoder) (skip SkipReason, sniff bool) {
	switch {
	case status == http.StatusSwitchingProtocols:
		return SkipUpgrade, false
	case method == http.MethodHead, status == http.StatusNoContent, status == http.StatusNotModified:
		return SkipNoBody, false
	case status == http.StatusPartialContent:
		return SkipRange, false
	case isAttachment(h.Get("Content-Disposition")):
		return SkipAttachment, false
	}
	// The conditions of net/http: a key without a value switches sniffing off,
	// and so does any coding (golang/go#31753).
	_, typed := h["Content-Type"]
	if !typed && h.Get("Content-Encoding") == "" && h.Get("Transfer-Encoding") == "" {
		return "", true
	}
	return decideType(h.Get("Content-Type"), h, decoders), false
}

// isAttachment reports whether a Content-Disposition asks to save the body.
// Types that are not known count as attachments: RFC 6266, section 4.2.
func isAttachment(disposition string) bool {
	kind, _, _ := strings.Cut(disposition, ";")
	kind = strings.TrimSpace(kind)
	return kind != "" && !strings.EqualFold(kind, "inline")
}

func decideType(contentType string, h http.Header, decoders map[string]Decoder) SkipReason {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.TrimSpace(media)
	switch {
	case strings.EqualFold(media, "text/event-stream"):
		return SkipSSE
	case hasPrefixFold(media, "application/grpc"):
		return SkipGRPC
	case hasPrefixFold(media, "multipart/"):
		return SkipMultipart
	case !isText(media):
		return SkipContentType
	case !decodable(h, decoders):
		return SkipEncoded
	}
	return ""
}

// isText reports whether bodies of a media type are captured by default: text
// and the JSON family, RFC 6839, section 3.1.
func isText(media string) bool {
	return strings.EqualFold(media, "application/json") ||
		hasPrefixFold(media, "text/") ||
		len(media) > len("+json") && strings.EqualFold(media[len(media)-len("+json"):], "+json")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// negotiable reports whether a hook may decide otherwise. There is nothing to
// capture without a body, and in bytes of an unknown coding no secret is found.
func (s SkipReason) negotiable() bool {
	return s != SkipNoBody && s != SkipUpgrade && s != SkipEncoded
}

func declaredLength(h http.Header) int64 {
	s := h.Get("Content-Length")
	if s == "" {
		return -1 // before the parser makes an error of it
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}
