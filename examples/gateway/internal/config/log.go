package config

import "fmt"

// Log says what is written to standard error while the gateway runs.
type Log struct {
	Format   LogFormat `yaml:"format" default:"text"`
	Requests bool      `yaml:"requests"` // a line for each
}

// A LogFormat is how a line of the log is written.
type LogFormat string

// The formats, which are those of log/slog.
const (
	TextFormat LogFormat = "text"
	JSONFormat LogFormat = "json"
)

func (f *LogFormat) UnmarshalText(text []byte) error {
	switch *f = LogFormat(text); *f {
	case TextFormat, JSONFormat:
		return nil
	}
	return fmt.Errorf("%.60q is no format: want text or json", text)
}
