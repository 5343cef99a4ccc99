//go:build unix

package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// user is whom this package's commands run as. It has no password.
const user = "redistest"

// do runs one command on a connection of its own, in RESP2.
func do(addr string, timeout time.Duration, args ...string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c, encode("AUTH", user, "")+encode(args...)); err != nil {
		return "", err
	}
	br := bufio.NewReader(c)
	if _, err := decode(br); err != nil {
		return "", err
	}
	return decode(br)
}

func encode(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

// decode reads a reply. An error within an array makes the whole one an error.
func decode(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, text := line[0], strings.TrimSuffix(line[1:], "\r\n")
	switch kind {
	case '+', ':':
		return text, nil
	case '-':
		return "", errors.New(text)
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || kind != '$' && kind != '*':
		return "", fmt.Errorf("redistest: no RESP2: %q", line)
	case n < 0:
		return "", nil
	case kind == '$':
		bulk := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(br, bulk)
		return string(bulk[:n]), err
	}
	elems := make([]string, n)
	var first error
	for i := range elems {
		if elems[i], err = decode(br); err != nil && first == nil {
			first = err
		}
	}
	return strings.Join(elems, "\n"), first
}
