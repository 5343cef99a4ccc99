package weirgin

import "sync"

// ForgetWarnings makes both warnings be given once more.
func ForgetWarnings() { trustOnce, abortOnce = sync.Once{}, sync.Once{} }
