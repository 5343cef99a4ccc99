//go:build !unix

package suite

import "os/exec"

func haveRedis() bool { return false }

func startRedis(*stage) string { panic("not started here") }

func startCluster(*stage) []string { panic("not started here") }

func endTogether(*exec.Cmd) {}
