package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane"
)

type resourceRow struct {
	group, version string
	resource       metav1.APIResource
	off            bool
}

// lifecycle is what generated code says about a kind that is on its way out.
type lifecycle interface {
	APILifecycleDeprecated() (major, minor int)
}

// readDiscovery reads the discovery documents of a server with everything switched on.
func readDiscovery(kubernetes string) []resourceRow {
	rows := []resourceRow{}
	enabled := controlplane.DefaultAPIResourceConfigSource()
	add := func(group, version, file string) {
		list := metav1.APIResourceList{}
		text, err := os.ReadFile(filepath.Join(kubernetes, "api", "discovery", file))
		must(err)
		must(json.Unmarshal(text, &list))
		always := group == "apiextensions.k8s.io" || group == "apiregistration.k8s.io"
		for _, resource := range list.APIResources {
			name, _, _ := strings.Cut(resource.Name, "/")
			on := always || enabled.ResourceEnabled(schema.GroupVersionResource{Group: group, Version: version, Resource: name})
			rows = append(rows, resourceRow{group, version, resource, !on})
		}
	}
	add("", "v1", "api__v1.json")
	groups := metav1.APIGroupList{}
	text, err := os.ReadFile(filepath.Join(kubernetes, "api", "discovery", "apis.json"))
	must(err)
	must(json.Unmarshal(text, &groups))
	for _, group := range groups.Groups {
		for _, version := range group.Versions {
			add(group.Name, version.Version, "apis__"+group.Name+"__"+version.Version+".json")
		}
	}
	return rows
}

func writeResources(out string, rows []resourceRow) {
	lines, groups := []string{}, []string{}
	priorities := readPriorities(moduleDir("k8s.io/kubernetes"))
	versionOff := map[schema.GroupVersion]bool{}
	order := []schema.GroupVersion{}
	for _, row := range rows {
		gv := schema.GroupVersion{Group: row.group, Version: row.version}
		if _, ok := versionOff[gv]; !ok {
			versionOff[gv] = true
			order = append(order, gv)
		}
		versionOff[gv] = versionOff[gv] && row.off
		lines = append(lines, resourceLine(row))
	}
	for _, gv := range order {
		group := gv.Group
		if group == "" {
			group = "core"
		}
		line := group + " " + gv.Version + priorities[gv]
		if versionOff[gv] {
			line += " off"
		}
		groups = append(groups, line)
	}
	write(out, "resources.txt", "Resources: file of types, resource, singular, kind, scope, then short=, cat=, verbs=, hash= (storageVersionHash),\ntype=, group=, version=, kindgroup=/kindversion= where the kind is of another group, deprecated=/removed=/instead=, off = not served by default.", lines)
	write(out, "groups.txt", "Group versions in discovery order, preferred first; priority=group,version as in APIService; off = not served by default.", groups)
}

func resourceLine(row resourceRow) string {
	r := row.resource
	gv := schema.GroupVersion{Group: row.group, Version: row.version}
	singular, scope := r.SingularName, "cluster"
	if singular == "" {
		singular = "-"
	}
	if r.Namespaced {
		scope = "namespaced"
	}
	line := fmt.Sprintf("%s %s %s %s %s", fileOf(gv), r.Name, singular, r.Kind, scope)
	if len(r.ShortNames) > 0 {
		line += " short=" + strings.Join(r.ShortNames, ",")
	}
	if len(r.Categories) > 0 {
		line += " cat=" + strings.Join(r.Categories, ",")
	}
	line += " verbs=" + strings.Join(r.Verbs, ",")
	if r.StorageVersionHash != "" {
		line += " hash=" + r.StorageVersionHash
	}
	kind := gv
	if r.Version != "" {
		kind = schema.GroupVersion{Group: r.Group, Version: r.Version}
	}
	line += fmt.Sprintf(" type=%s.%s group=%s version=%s", fileOf(kind), r.Kind, row.group, row.version)
	if r.Version != "" {
		line += fmt.Sprintf(" kindgroup=%s kindversion=%s", r.Group, r.Version)
	}
	line += lifecycleOf(kind.WithKind(r.Kind))
	if row.off {
		line += " off"
	}
	return line
}

func lifecycleOf(gvk schema.GroupVersionKind) string {
	object, err := legacyscheme.Scheme.New(gvk)
	if err != nil {
		return ""
	}
	text := ""
	if l, ok := object.(lifecycle); ok {
		major, minor := l.APILifecycleDeprecated()
		text += fmt.Sprintf(" deprecated=%d.%d", major, minor)
	}
	if l, ok := object.(interface{ APILifecycleRemoved() (int, int) }); ok {
		major, minor := l.APILifecycleRemoved()
		text += fmt.Sprintf(" removed=%d.%d", major, minor)
	}
	if l, ok := object.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		r := l.APILifecycleReplacement()
		text += fmt.Sprintf(" instead=%s/%s/%s", r.Group, r.Version, r.Kind)
	}
	return text
}

var priorityLine = regexp.MustCompile(`\{Group: "([^"]*)", Version: "([^"]*)"\}:\s*\{Group: (\d+), Version: (\d+)\}`)

// readPriorities reads the two tables upstream keeps in variables that are not exported.
func readPriorities(kubernetes string) map[schema.GroupVersion]string {
	priorities := map[schema.GroupVersion]string{}
	for _, file := range []string{"pkg/controlplane/apiserver/aggregator.go", "cmd/kube-apiserver/app/aggregator.go"} {
		text, err := os.ReadFile(filepath.Join(kubernetes, file))
		must(err)
		for _, m := range priorityLine.FindAllStringSubmatch(string(text), -1) {
			priorities[schema.GroupVersion{Group: m[1], Version: m[2]}] = " priority=" + m[3] + "," + m[4]
		}
	}
	return priorities
}
