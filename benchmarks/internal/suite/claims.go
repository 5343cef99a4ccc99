package suite

import "github.com/goweir/weir/benchmarks/internal/report"

func claim(*report.Results) []report.Claim { return nil }
