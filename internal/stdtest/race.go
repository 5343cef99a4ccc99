//go:build race

package stdtest

const race = true
