package suite

import "errors"

var (
	errNoMemory  = errors.New("the embedded server does not tell what memory it uses")
	errNoCluster = errors.New("a cluster needs a redis-server that this run may start")
)

// plan returns all sections, in the order of the report.
func (r *run) plan() []section {
	return []section{
		r.decisions(), r.algorithms(), r.costs(), r.exactness(), r.memory(),
		r.redisPeers(), r.memoryPeers(), r.middlewares(), r.chain(), r.captures(), r.proxies(), r.processes(), r.downloadMemory(), r.pinned(),
	}
}
