package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

type tree = map[string]any

// recorder of one server; every exchange is one line {"path", "code", "request", "answer"}.
type server struct {
	client *http.Client
	host   string
	places map[schema.GroupVersionKind]string
}

// record asks the API server named by KUBECONFIG and writes what it answered.
func record(dir string) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(err)
	config.QPS = -1
	client, err := rest.HTTPClientFor(config)
	must(err)
	s := &server{client, config.Host, map[schema.GroupVersionKind]string{}}
	must(os.MkdirAll(dir, 0o755))
	lines(dir, "discovery.jsonl", s.discovery())
	created := s.create("requests/sparse.yaml", true)
	lines(dir, "created.jsonl", created)
	lines(dir, "refused.jsonl", s.create("requests/wrong.yaml", false))
	lines(dir, "tables.jsonl", s.tables(created))
	lines(dir, "updated.jsonl", s.updates("requests/updates.yaml"))
	// The last: it deletes the namespace.
	lines(dir, "changed.jsonl", s.changes("requests/changes.yaml"))
}

func lines(dir, name string, exchanges []tree) {
	text := bytes.Buffer{}
	for _, exchange := range exchanges {
		line, err := json.Marshal(exchange)
		must(err)
		text.Write(line)
		text.WriteByte('\n')
	}
	must(os.WriteFile(filepath.Join(dir, name), text.Bytes(), 0o644))
}

// ask sends one request with a JSON body and gives code, warnings and the JSON answer (other text as a string).
func (s *server) ask(method, path, accept, contentType string, body any) (int, []string, any) {
	content := io.Reader(http.NoBody)
	if body != nil {
		text, err := json.Marshal(body)
		must(err)
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, s.host+path, content)
	must(err)
	request.Header.Set("Accept", accept)
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", "recorder")
	response, err := s.client.Do(request)
	must(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(err)
	answer := tree{}
	if json.Unmarshal(text, &answer) != nil {
		return response.StatusCode, response.Header.Values("Warning"), string(text)
	}
	return response.StatusCode, response.Header.Values("Warning"), answer
}

// discovery records the legacy and the aggregated documents and learns where each kind is served.
func (s *server) discovery() []tree {
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	found := []tree{}
	get := func(path, accept string) tree {
		_, _, body := s.ask("GET", path, accept, "application/json", nil)
		answer := body.(tree)
		found = append(found, tree{"path": path, "accept": accept, "answer": answer})
		return answer
	}
	get("/api", aggregated)
	get("/apis", aggregated)
	delete(get("/api", "application/json"), "serverAddressByClientCIDRs")
	paths := []string{"/api/v1"}
	for _, group := range get("/apis", "application/json")["groups"].([]any) {
		get("/apis/"+group.(tree)["name"].(string), "application/json")
		for _, version := range group.(tree)["versions"].([]any) {
			paths = append(paths, "/apis/"+version.(tree)["groupVersion"].(string))
		}
	}
	for _, path := range paths {
		answer := get(path, "application/json")
		gv, err := schema.ParseGroupVersion(answer["groupVersion"].(string))
		must(err)
		for _, item := range answer["resources"].([]any) {
			resource := metav1.APIResource{}
			text, _ := json.Marshal(item)
			must(json.Unmarshal(text, &resource))
			if strings.Contains(resource.Name, "/") {
				continue
			}
			place := path + "/" + resource.Name
			if resource.Namespaced {
				place = path + "/namespaces/sparse/" + resource.Name
			}
			s.places[gv.WithKind(resource.Kind)] = place
		}
	}
	return found
}

// requests reads a file of one YAML tree a line.
func requests(file string) []tree {
	text, err := os.ReadFile(file)
	must(err)
	found := []tree{}
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		request := tree{}
		must(yaml.Unmarshal([]byte(line), &request))
		found = append(found, request)
	}
	return found
}

// place is the collection of an object.
func (s *server) place(object tree) string {
	gvk := schema.FromAPIVersionAndKind(object["apiVersion"].(string), object["kind"].(string))
	path := s.places[gvk]
	if path == "" {
		must(fmt.Errorf("nobody serves %v", gvk))
	}
	return path
}

// create posts each object of a file.
func (s *server) create(file string, keep bool) []tree {
	found := []tree{}
	for _, object := range requests(file) {
		path := s.place(object)
		exchange := s.exchange("POST", path, "application/json", object)
		found = append(found, exchange)
		if exchange["code"] == 201 && !keep {
			s.remove(path + "/" + object["metadata"].(tree)["name"].(string))
		}
	}
	return found
}

func (s *server) remove(path string) {
	s.ask("DELETE", path+"?gracePeriodSeconds=0", "application/json", "application/json", nil)
}

// updates creates the object of each line, tries the patch of the line on it, and deletes it again.
func (s *server) updates(file string) []tree {
	found := []tree{}
	for _, request := range requests(file) {
		object := request["o"].(tree)
		path := s.place(object)
		old := s.exchange("POST", path, "application/json", object)
		if old["code"] != 201 {
			must(fmt.Errorf("%v: %v", object, old["answer"]))
		}
		path += "/" + object["metadata"].(tree)["name"].(string)
		exchange := s.exchange("PATCH", path+"?dryRun=All", patches["merge"], request["p"])
		exchange["old"] = old["answer"]
		delete(exchange, "managed")
		found = append(found, exchange)
		s.remove(path)
	}
	return found
}

// exchange is one request and its answer as recorded.
func (s *server) exchange(method, path, contentType string, request any) tree {
	code, warnings, answer := s.ask(method, path, "application/json", contentType, request)
	exchange := tree{"path": path, "code": code, "answer": answer}
	if request != nil {
		exchange["request"] = request
	}
	if len(warnings) > 0 {
		exchange["warnings"] = warnings
	}
	text, err := json.Marshal(request)
	must(err)
	if object, ok := answer.(tree); ok {
		if managed := normalise(object, string(text)); managed != nil {
			exchange["managed"] = managed
		}
	}
	return exchange
}

var patches = map[string]string{
	"":          "application/json",
	"merge":     "application/merge-patch+json",
	"json":      "application/json-patch+json",
	"strategic": "application/strategic-merge-patch+json",
	"apply":     "application/apply-patch+yaml",
}

// changes sends the requests of a file one after the other.
func (s *server) changes(file string) []tree {
	found := []tree{}
	for _, step := range requests(file) {
		path, patch := step["p"].(string), ""
		if !strings.HasPrefix(path, "/") {
			path = "/api/v1/namespaces/sparse/" + path
		}
		if step["t"] != nil {
			patch = step["t"].(string)
		}
		exchange := s.exchange(step["m"].(string), path, patches[patch], step["b"])
		exchange["method"] = step["m"]
		if patch != "" {
			exchange["patch"] = patch
		}
		if strings.Contains(path, "/token") && exchange["code"] == 201 {
			exchange["answer"].(tree)["status"].(tree)["token"] = "TOKEN"
		}
		found = append(found, exchange)
	}
	return found
}

var (
	age      = regexp.MustCompile(`^(\d+[smhd])+$|^<invalid>$`)
	accessID = regexp.MustCompile(`^kube-api-access-\w{5}$`)
	uid      = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	moment   = regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z$`)
	serverIP = regexp.MustCompile(`^10\.96\.\d+\.\d+$`)
)

// normalise replaces what differs from run to run and takes the managed fields out.
func normalise(answer tree, request string) any {
	metadata, _ := answer["metadata"].(tree)
	managed := metadata["managedFields"]
	delete(metadata, "managedFields")
	if items, ok := answer["items"].([]any); ok {
		for _, item := range items {
			delete(item.(tree)["metadata"].(tree), "managedFields")
		}
	}
	replace(answer, request)
	replace(managed, request)
	return managed
}

// replace puts a word in place of what the server made up; what the request said stays.
func replace(value any, request string) any {
	switch v := value.(type) {
	case tree:
		for key, child := range v {
			if text, ok := child.(string); ok && key == "resourceVersion" && text != "" {
				v[key] = "RV"
			} else if key == "nodePort" || key == "healthCheckNodePort" {
				v[key] = "PORT"
			} else {
				v[key] = replace(child, request)
			}
		}
	case []any:
		for i, child := range v {
			v[i] = replace(child, request)
		}
	case string:
		if strings.Contains(request, `"`+v+`"`) {
			return value
		}
		v = uid.ReplaceAllStringFunc(v, func(found string) string {
			if strings.Contains(request, found) {
				return found
			}
			return "UID"
		})
		if moment.MatchString(v) {
			return "TIME"
		}
		if accessID.MatchString(v) {
			return "kube-api-access-RANDO"
		}
		if serverIP.MatchString(v) {
			return "IP"
		}
		return v
	}
	return value
}

// tables lists every kind that was created as a Table: column names and cells.
func (s *server) tables(created []tree) []tree {
	const accept = "application/json;as=Table;g=meta.k8s.io;v=v1"
	paths := map[string]bool{}
	for _, exchange := range created {
		path := exchange["path"].(string)
		if exchange["code"] == 201 && !strings.Contains(path, "authentication.k8s.io") && !strings.Contains(path, "authorization.k8s.io/v1/n") && !strings.HasSuffix(path, "reviews") {
			paths[path] = true
		}
	}
	order := []string{}
	for path := range paths {
		order = append(order, path)
	}
	sort.Strings(order)
	found := []tree{}
	for _, path := range order {
		_, _, body := s.ask("GET", path, accept, "application/json", nil)
		answer := body.(tree)
		columns := []string{}
		for _, column := range answer["columnDefinitions"].([]any) {
			columns = append(columns, column.(tree)["name"].(string))
		}
		rows := []any{}
		for _, row := range answer["rows"].([]any) {
			cells := row.(tree)["cells"].([]any)
			for i, cell := range cells {
				if text, ok := cell.(string); ok && (age.MatchString(text) || strings.HasPrefix(columns[i], "Created")) {
					cells[i] = "AGE"
				}
			}
			rows = append(rows, replace(cells, ""))
		}
		found = append(found, tree{"path": path, "columns": columns, "rows": rows})
	}
	return found
}
