//go:build unix

package redislimiter_test

var clusterFaults = []fault{}
