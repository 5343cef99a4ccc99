package proxybench

import (
	"net/http"
	"os"
	"os/exec"
	"runtime/pprof"
	"testing"
	"net/http/httptest"
	"strconv"
)

func TestProf(t *testing.T) {
	up := start(t, role{})
	var h http.Handler
	for _, p := range Peers {
		if p.Name == os.Getenv("PEER") { h = p.New(up.URL) }
	}
	s := httptest.NewServer(h)
	defer s.Close()
	f, _ := os.Create(os.Getenv("OUT"))
	pprof.StartCPUProfile(f)
	if os.Getenv("KIND") == "small" {
		for range 4 { r, _ := wrk(t, s.URL+"/small"); t.Log(r) }
	} else {
		cmd := startClient(t, s.URL+"/bytes?size="+strconv.Itoa(4<<30)+os.Getenv("KIND"))
		cmd.Wait()
	}
	pprof.StopCPUProfile()
	f.Close()
}

func startClient(t *testing.T, url string) *exec.Cmd {
	c := exec.Command("curl", "-s", "-o", "/dev/null", url)
	if err := c.Start(); err != nil { t.Fatal(err) }
	return c
}
