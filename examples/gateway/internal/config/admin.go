package config

// Admin says where people and programs look after the gateway: health, metrics,
// profiles and the inspector. It is no part of what clients can reach.
type Admin struct {
	Pos
	Listen       Address  `yaml:"listen"`              // empty: nowhere
	Token        string   `yaml:"token" secret:"true"` // empty: a random one, printed at the start
	Inspector    bool     `yaml:"inspector"`
	Actions      bool     `yaml:"actions"`       // what changes something: reset a key, degrade a route
	ProfileAbove FileSize `yaml:"profile_above"` // memory at which a heap profile is written, once; 0: none is
}

// checkAdmin looks for what would silently do nothing.
func (d *decoder) checkAdmin(a *Admin) {
	if a.Inspector && a.Listen == "" {
		d.fault(a.Pos, "admin.inspector", "there is no admin.listen to reach it at")
	}
	if !a.Inspector && (a.Actions || a.Token != "") {
		d.fault(a.Pos, "admin", "actions and token are about the inspector, which is not on")
	}
}
