package suite

// Child reports whether this process was started by a run, and does what it was
// started for.
func Child() bool { return false }
