package config

import (
	"errors"
	"regexp"
	"strings"

	"github.com/goweir/weir/limiter"
)

// check looks for faults between values that are each well.
func (d *decoder) check(c *Config) {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		d.fault(c.TLS.Pos, "tls", "want both cert and key")
	}
	d.verdicts(c.Audit.Pos, "audit", c.Audit.Options("").Validate(), "capture: ")
	d.checkClientIP(c)
	d.checkMemory(&c.Memory)
	d.checkRedis(&c.Redis)
	d.checkAdmin(&c.Admin)
	d.checkAPIKeys(&c.APIKeys)
	inFlight := map[string]Pos{}
	d.checkInFlight(&c.InFlight, c, inFlight, "", "in_flight")
	d.checkBandwidth(c)
	d.checkRoutes(c, inFlight)
}

// verdicts notes what a room says of values together, each fault for itself.
func (d *decoder) verdicts(at Pos, field string, err error, prefix string) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, fault := range joined.Unwrap() {
			d.verdicts(at, field, fault, prefix)
		}
		return
	}
	if p, ok := errors.AsType[*limiter.PolicyError](err); ok {
		d.fault(at, field+"."+fileName(p.Field), "%s", fileNames(p.Fault))
		return
	}
	d.fault(at, field, "%s", fileNames(verdict(err, prefix).Error()))
}

// fileNames writes the names of fields, with which rooms begin their verdicts and
// which they compare, as the file does.
func fileNames(text string) string {
	return knownName.ReplaceAllStringFunc(leadingName.ReplaceAllStringFunc(text, fileName), fileName)
}

// fileName returns what a field of a room is called in the file:
// Breaker.MinRequests is breaker.min_requests there, if it is not called
// something else altogether.
func fileName(name string) string {
	return strings.ToLower(capital.ReplaceAllString(otherNames.Replace(name), "${1}_$2"))
}

var (
	leadingName = regexp.MustCompile(`^[A-Z][A-Za-z.\[\]0-9]*`)
	capital     = regexp.MustCompile(`([a-z])([A-Z])`)
	knownName   = regexp.MustCompile(`\b(Adaptive|Balance|Burst|ByKey|Classes|For|Key|Limit|Max|MaxPerKey|MaxWait|Weight)\b`)
	otherNames  = strings.NewReplacer("MaxPerKey", "PerKey", "MaxWait", "Wait", "HealthCheck", "Health", "Limits.Classes", "Classes",
		"Limit", "Rate", "Window", "Rate", "UpstreamIdle", "Idle", "ResponseHeader", "Header", "TLSHandshake", "TLS")
)

// At returns a fault at a place of the configuration that only shows when it is
// put to use, such as a file that is not there.
func (c *Config) At(at Pos, field string, err error) error {
	return Fault{c.File, at, field, verdict(err, "").Error()}
}

// Join returns every fault of several errors, those with a place in order.
func Join(errs ...error) error {
	var (
		faults Faults
		others []error
	)
	for _, err := range errs {
		if f, ok := errors.AsType[Fault](err); ok {
			faults = append(faults, f)
		} else if err != nil {
			others = append(others, err)
		}
	}
	if len(faults) > 0 {
		others = append([]error{faults.sorted()}, others...)
	}
	return errors.Join(others...)
}
