package suite

// plan returns all sections, in the order of the report.
func (r *run) plan() []section {
	return []section{r.decisions(), r.algorithms()}
}
