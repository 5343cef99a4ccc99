//go:build race

package stdtest_test

const raceEnabled = true
