//go:build !race

package stdtest

const race = false
