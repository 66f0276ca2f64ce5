// Command facts-go reads what the published Kubernetes modules know about themselves
// (struct tags, generated schemas, registered printers, bootstrap objects) and writes it
// as compact text, facts only, under the directory named by -out.
//
//	facts-go -out crates/facts/data/1.33            the data set
//	facts-go -samples crates/facts/testdata/protobuf  protobuf samples
//	facts-go -defaults crates/registry/testdata/defaults  objects before and after defaulting
//	facts-go -record crates/registry/testdata/recorded  answers of the API server KUBECONFIG names
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", "", "directory of the data set")
	samples := flag.String("samples", "", "directory of the protobuf samples")
	defaulted := flag.String("defaults", "", "directory of the objects before and after defaulting")
	recorded := flag.String("record", "", "directory of the recorded answers")
	flag.Parse()
	if *out != "" {
		must(os.MkdirAll(filepath.Join(*out, "types"), 0o755))
		resources := readDiscovery(moduleDir("k8s.io/kubernetes"))
		writeTypes(*out, resources)
		writeResources(*out, resources)
		writeFeatures(*out)
		writeColumns(*out)
		writeBootstrap(*out)
	}
	if *defaulted != "" {
		writeDefaulted(*defaulted, readDiscovery(moduleDir("k8s.io/kubernetes")))
	}
	if *recorded != "" {
		record(*recorded)
	}
	if *samples != "" {
		must(os.MkdirAll(*samples, 0o755))
		writeSamples(*samples, readDiscovery(moduleDir("k8s.io/kubernetes")))
	}
}

// moduleDir names the directory the go command keeps a module's source in.
func moduleDir(path string) string {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	must(err)
	return strings.TrimSpace(string(dir))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "facts-go:", err)
		os.Exit(1)
	}
}

// write puts lines under the set's directory, headed by what the file is.
func write(dir, name, head string, lines []string) {
	text := ""
	for _, line := range strings.Split(head, "\n") {
		text += "# " + line + "\n"
	}
	must(os.WriteFile(filepath.Join(dir, name), []byte(text+strings.Join(lines, "\n")+"\n"), 0o644))
}
