package proxy

import (
	"net/http"
	"net/textproto"
	"strings"
)

const websocket = "websocket"

// checkUpgrade refuses every request with an Upgrade field that is not the
// opening handshake of RFC 6455 section 4.1, whether or not Connection lists
// the field: intermediaries disagree on that.
func checkUpgrade(r *http.Request) *refusal {
	upgrade, ok := r.Header["Upgrade"]
	if !ok {
		return nil
	}
	if len(upgrade) != 1 || !isWebSocket(upgrade[0]) ||
		r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor != 1 ||
		r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return refusedUpgrade
	}
	return nil
}

// isWebSocket compares without regard to case. The length keeps out letters
// beyond ASCII that fold to one of these.
func isWebSocket(token string) bool {
	return len(token) == len(websocket) && strings.EqualFold(token, websocket)
}

// wantsUpgrade reports whether r, which passed checkUpgrade, asks for one.
func wantsUpgrade(r *http.Request) bool {
	return len(r.Header["Upgrade"]) == 1 && hasToken(r.Header["Connection"], "upgrade")
}

// hasToken reports whether a list-valued field contains an ASCII token.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = textproto.TrimString(element)
			if len(element) == len(token) && strings.EqualFold(element, token) {
				return true
			}
		}
	}
	return false
}
