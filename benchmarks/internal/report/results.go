// Package report keeps what a run measured, and shows it: as JSON, as tables on
// a terminal and in Markdown, and as one page of HTML with plots.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/goweir/weir/benchmarks/pace"
)

// Schema is the version of what results.json holds.
const Schema = 1

// Results are one run.
type Results struct {
	Schema  int       `json:"schema"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Command []string  `json:"command"`

	// Partial says why not all was measured that was asked for. Empty: all was.
	Partial string `json:"partial,omitempty"`

	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
	Claims   []Claim   `json:"claims,omitempty"`

	// Left is what this run leaves out, each with its reason.
	Left []string `json:"left_out,omitempty"`
}

// A Machine is where the run took place.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"` // that this process uses
	OS     string `json:"os"`
	Go     string `json:"go"`
	Load   string `json:"load"`  // averages at the start
	Redis  string `json:"redis"` // which server, and whose
	Server string `json:"server_kind"`
}

// A Section is a part of the run, with what its figures mean.
type Section struct {
	ID      string   `json:"id"`
	Title   string   `json:"title"`
	Text    string   `json:"text"`
	Columns []string `json:"columns"` // metrics, in the order of the table
	Groups  []Group  `json:"groups"`
}

// A Group is rows that took turns with each other: only these may be compared.
type Group struct {
	Name string `json:"name"`
	X    int    `json:"x,omitempty"`     // where on the axis of a line plot
	Plot string `json:"panel,omitempty"` // in which panel of it
	Rows []Row  `json:"rows"`
}

// A Row is one of the things measured. A metric that is not known is missing.
type Row struct {
	Name    string                 `json:"name"`
	Metrics map[string]pace.Spread `json:"metrics"`
	Note    string                 `json:"note,omitempty"`
}

// A Claim is a ratio that the documentation quotes.
type Claim struct {
	Text     string      `json:"text"`
	AtLeast  float64     `json:"at_least,omitempty"`
	AtMost   float64     `json:"at_most,omitempty"`
	Measured pace.Spread `json:"measured"`
	Known    bool        `json:"known"` // whether it was measured
}

// Held reports whether the median is on the right side.
func (c Claim) Held() bool {
	return c.Known && (c.AtLeast == 0 || c.Measured.Median >= c.AtLeast) && (c.AtMost == 0 || c.Measured.Median <= c.AtMost)
}

// Bound returns what is claimed, in words.
func (c Claim) Bound() string {
	if c.AtMost > 0 {
		return fmt.Sprintf("at most %v", c.AtMost)
	}
	return fmt.Sprintf("at least %v", c.AtLeast)
}

// Section returns the section of that name, or nil.
func (r *Results) Section(id string) *Section {
	for i := range r.Sections {
		if r.Sections[i].ID == id {
			return &r.Sections[i]
		}
	}
	return nil
}

// Group returns the group of that name, or nil. A nil Section has none.
func (s *Section) Group(name string) *Group {
	if s == nil {
		return nil
	}
	for i := range s.Groups {
		if s.Groups[i].Name == name {
			return &s.Groups[i]
		}
	}
	return nil
}

// Row returns the row of that name, or nil. A nil Group has none.
func (g *Group) Row(name string) *Row {
	if g == nil {
		return nil
	}
	for i := range g.Rows {
		if g.Rows[i].Name == name {
			return &g.Rows[i]
		}
	}
	return nil
}

// Get returns a metric. A nil Row has none.
func (r *Row) Get(metric string) (pace.Spread, bool) {
	if r == nil {
		return pace.Spread{}, false
	}
	s, ok := r.Metrics[metric]
	return s, ok
}

// Read reads what Write wrote.
func Read(name string) (*Results, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("%s: schema %d, want %d, as this version writes it", name, r.Schema, Schema)
	}
	return r, nil
}

// Write writes r as JSON.
func Write(name string, r *Results) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
