package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"sort"
	"strings"

	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	aggregatorinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"
)

// writeSamples writes objects with Go's own protobuf bytes, one line each: {"type", "json", "protobuf" (base64)}.
// The bytes are the whole answer of a server, with the k8s\0 envelope; watch events are the bare message.
func writeSamples(dir string, resources []resourceRow) {
	scheme := legacyscheme.Scheme
	apiextensionsinstall.Install(scheme)
	aggregatorinstall.Install(scheme)
	codec := protobuf.NewSerializer(scheme, scheme)
	found := []tree{}
	add := func(object runtime.Object, gvk schema.GroupVersionKind) {
		object.GetObjectKind().SetGroupVersionKind(gvk)
		bytes := bytes.Buffer{}
		must(codec.Encode(object, &bytes))
		back, _, err := codec.Decode(bytes.Bytes(), &gvk, nil)
		must(err)
		back.GetObjectKind().SetGroupVersionKind(gvk)
		found = append(found, sample(fileOf(gvk.GroupVersion())+"."+gvk.Kind, back, bytes.Bytes()))
	}
	text, err := os.ReadFile("requests/sparse.yaml")
	must(err)
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		object := metav1.PartialObjectMetadata{}
		must(yaml.Unmarshal([]byte(line), &object))
		gvk := object.GroupVersionKind()
		typed, err := scheme.New(gvk)
		must(err)
		must(yaml.Unmarshal([]byte(line), typed))
		add(typed, gvk)
	}
	for _, gvk := range kindsOf(resources) {
		object, err := scheme.New(gvk)
		must(err)
		add(object, gvk)
	}
	meta := schema.GroupVersion{Version: "v1"}
	yes, grace := true, int64(0)
	for kind, object := range map[string]runtime.Object{
		"Status":        &metav1.Status{Status: "Failure", Code: 404, Reason: "NotFound", Details: &metav1.StatusDetails{Name: "a", Causes: []metav1.StatusCause{{Field: "f"}}}},
		"DeleteOptions": &metav1.DeleteOptions{GracePeriodSeconds: &grace, OrphanDependents: &yes},
	} {
		scheme.AddKnownTypeWithName(meta.WithKind(kind), object)
		bytes := bytes.Buffer{}
		object.GetObjectKind().SetGroupVersionKind(meta.WithKind(kind))
		must(codec.Encode(object, &bytes))
		found = append(found, sample("meta/v1."+kind, object, bytes.Bytes()))
	}
	inner := bytes.Buffer{}
	bookmark := &metav1.PartialObjectMetadata{}
	bookmark.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "PartialObjectMetadata"})
	inner.WriteString(`{}`)
	event := &metav1.WatchEvent{Type: string(watch.Bookmark), Object: runtime.RawExtension{Raw: inner.Bytes()}}
	raw, err := event.Marshal()
	must(err)
	found = append(found, sample("meta/v1.WatchEvent", event, raw))
	sort.SliceStable(found, func(i, j int) bool { return found[i]["type"].(string) < found[j]["type"].(string) })
	lines(dir, "objects.jsonl", found)
}

func sample(name string, object any, bytes []byte) tree {
	text, err := json.Marshal(object)
	must(err)
	return tree{"type": name, "json": json.RawMessage(text), "protobuf": base64.StdEncoding.EncodeToString(bytes)}
}

// kindsOf lists each kind that is served and can be sent as protobuf, in order.
func kindsOf(resources []resourceRow) []schema.GroupVersionKind {
	known := map[schema.GroupVersionKind]bool{}
	kinds := []schema.GroupVersionKind{}
	for _, row := range resources {
		gv := schema.GroupVersion{Group: row.group, Version: row.version}
		if row.resource.Version != "" {
			gv = schema.GroupVersion{Group: row.resource.Group, Version: row.resource.Version}
		}
		if gvk := gv.WithKind(row.resource.Kind); !known[gvk] {
			known[gvk] = true
			kinds = append(kinds, gvk)
		}
	}
	return kinds
}
