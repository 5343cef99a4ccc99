package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// A query is an expression for Prometheus, and where it stands.
type query struct{ where, expr string }

// An alertRule is what this package uses of a rule for Prometheus.
type alertRule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

type alertGroup struct {
	Name  string
	Rules []alertRule
}

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions(readFile(t, name), into, yaml.DisallowUnknownField()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readAlerts(t *testing.T) []alertGroup {
	t.Helper()
	var file struct{ Groups []alertGroup }
	readYAML(t, "grafana/alerts.yaml", &file)
	return file.Groups
}

// A panel is what this package uses of Grafana's.
type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []struct{ RefID, Expr string }
}

type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct{ Name, Definition string }
	}
	Annotations struct{ List []struct{ Expr string } }
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(readFile(t, "grafana/dashboard.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// queries lists every expression of the dashboard and of the alerts.
func queries(t *testing.T) []query {
	t.Helper()
	var all []query
	for _, g := range readAlerts(t) {
		for _, r := range g.Rules {
			all = append(all, query{"alert " + r.Alert, r.Expr})
		}
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, query{"panel " + p.Title, target.Expr})
		}
	}
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			metric, _, _ := strings.Cut(inner, ",")
			all = append(all, query{"variable " + v.Name, metric})
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, query{"annotation", a.Expr})
	}
	return all
}

// The dashboard is one that Grafana can show: ids are unique, panels lie beside
// each other, and each says what it shows.
func TestDashboardIsWhole(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) < 20 {
		t.Errorf("the dashboard is %q, %q with schema %d and %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	ids, taken, rows := map[int]bool{}, map[[2]int]string{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q has the id %d, which another has", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x > 23 {
					t.Fatalf("panel %q lies on %q, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			rows++
			continue
		}
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d, %q: without a title, a description or a query", p.ID, p.Title)
		}
	}
	if rows != 3 {
		t.Errorf("%d rows, want the three levels", rows)
	}
}

// Each alert says how bad it is and leads to a section of the runbook, and each
// section says what it means, what to look at and what to do. None is left over.
func TestAlertsHaveRunbookSections(t *testing.T) {
	const base = "https://github.com/goweir/weir/blob/main/docs/runbook.md#"
	runbook := string(readFile(t, filepath.Join("..", "..", "docs", "runbook.md")))
	sections := map[string]string{} // by anchor
	for _, s := range strings.Split(runbook, "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[strings.ToLower(title)] = text
	}
	groups := readAlerts(t)
	if len(groups) != 3 {
		t.Errorf("%d groups, want the three levels", len(groups))
	}
	linked := map[string]bool{}
	for _, g := range groups {
		for _, r := range g.Rules {
			anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], base)
			text, found := sections[anchor]
			if !ok || !found || anchor != strings.ToLower(r.Alert) {
				t.Errorf("%s links %q, which is no section of its own", r.Alert, r.Annotations["runbook_url"])
			}
			linked[anchor] = true
			for _, want := range []string{"**Means**: ", "**Look at**", "**Do**"} {
				if !strings.Contains(strings.ReplaceAll(text, "**do**", "**Do**"), want) {
					t.Errorf("the section of %s lacks %s", r.Alert, want)
				}
			}
			if s := r.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" {
				t.Errorf("%s has no summary", r.Alert)
			}
		}
	}
	for anchor := range sections {
		if strings.HasPrefix(anchor, "weir") && !linked[anchor] {
			t.Errorf("no alert leads to the section %s", anchor)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(#([a-z]+)\)`).FindAllStringSubmatch(runbook, -1) {
		if _, ok := sections[link[1]]; !ok {
			t.Errorf("the runbook links #%s, which is not there", link[1])
		}
	}
	// What it says to look at in the dashboard is there.
	var titles []string
	for _, p := range readDashboard(t).Panels {
		titles = append(titles, p.Title)
	}
	for _, named := range regexp.MustCompile(`[ :(,]\*([A-Z][^*\n]+)\*`).FindAllStringSubmatch(runbook, -1) {
		if !slices.Contains(titles, named[1]) {
			t.Errorf("the runbook names the panel %q, which is not in the dashboard", named[1])
		}
	}
}

// The files that compose.yaml mounts exist, its gateways can read their
// configuration, and what is named in one place is what is named in the other.
func TestCompose(t *testing.T) {
	type service struct {
		Image           string
		WorkingDir      string `yaml:"working_dir"`
		Command         []string
		DependsOn       []string `yaml:"depends_on"`
		StopGracePeriod string   `yaml:"stop_grace_period"`
		Ports, Volumes  []string
		Environment     map[string]string
	}
	var compose struct {
		Name     string
		Gateway  service `yaml:"x-gateway"`
		Services map[string]service
		Volumes  map[string]any
	}
	readYAML(t, "compose.yaml", &compose)
	for _, name := range []string{"redis", "gateway-1", "gateway-2", "prometheus", "grafana"} {
		s, ok := compose.Services[name]
		if !ok || s.Image == "" {
			t.Errorf("there is no service %s with an image", name)
		}
		for _, other := range s.DependsOn {
			if _, ok := compose.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if _, named := compose.Volumes[source]; named {
				continue
			}
			if !strings.HasPrefix(source, "./") && !strings.HasPrefix(source, "../") {
				t.Errorf("%s mounts %s, which is neither a path nor a volume", name, source)
			}
			if _, err := os.Stat(source); err != nil {
				t.Errorf("%s mounts %v", name, err)
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s opens %s to everybody", name, p)
			}
		}
	}
	if args := compose.Services["gateway-1"].Command; len(args) != 3 || !strings.Contains(args[2], "-config /etc/weir/gateway.yaml") {
		t.Errorf("a gateway is started by %q", args)
	}

	var prometheus struct {
		Global struct {
			ScrapeInterval     string `yaml:"scrape_interval"`
			EvaluationInterval string `yaml:"evaluation_interval"`
		}
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, "compose/prometheus.yml", &prometheus)
	mounted := func(s, target string) bool {
		return slices.ContainsFunc(compose.Services[s].Volumes, func(v string) bool { return strings.Contains(v, ":"+target+":") })
	}
	for _, f := range append(prometheus.RuleFiles, "/etc/prometheus/prometheus.yml") {
		if !mounted("prometheus", f) {
			t.Errorf("prometheus has no %s", f)
		}
	}
	for _, target := range prometheus.ScrapeConfigs[0].StaticConfigs[0].Targets {
		host, _, _ := strings.Cut(target, ":")
		if _, ok := compose.Services[host]; !ok {
			t.Errorf("prometheus scrapes %s, which is not there", target)
		}
	}
	if job := prometheus.ScrapeConfigs[0].JobName; job != "weir" {
		t.Errorf("the job is %q; the alert WeirDown asks for weir", job)
	}
	var source struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []map[string]any
	}
	readYAML(t, "compose/grafana-datasource.yaml", &source)
	var provider struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Type string
			Options    map[string]string
		}
	}
	readYAML(t, "compose/grafana-dashboards.yaml", &provider)
	if dir := provider.Providers[0].Options["path"]; !mounted("grafana", dir+"/dashboard.json") {
		t.Errorf("grafana has no dashboard in %s", dir)
	}

	// The gateway itself can be started with its file.
	text := string(readFile(t, "compose/gateway.yaml"))
	here := strings.ReplaceAll(text, `"0.0.0.0:9090"`, `"127.0.0.1:0"`)
	if here == text {
		t.Error("the gateways of compose.yaml do not listen where Prometheus asks")
	}
	if res, _ := get(t, start(t, here, "-redis", "embedded").URL+"/limited/echo"); res.StatusCode != 200 {
		t.Errorf("a gateway of compose.yaml answers %s", res.Status)
	}
}
