package config

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

func parseRate(s string) (int, time.Duration, error) {
	n, w, ok := strings.Cut(s, "/")
	limit, err := strconv.Atoi(n)
	if !ok || err != nil || limit < 0 {
		return 0, 0, errors.New("no rate")
	}
	if w != "" && w[0] >= 'a' {
		w = "1" + w
	}
	window, err := time.ParseDuration(w)
	if err != nil || window <= 0 {
		return 0, 0, errors.New("no rate")
	}
	return limit, window, nil
}
