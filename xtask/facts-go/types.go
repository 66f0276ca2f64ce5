package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	gogo "github.com/gogo/protobuf/proto"
	admissionv1 "k8s.io/api/admission/v1"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	generated "k8s.io/kubernetes/pkg/generated/openapi"

	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// wellKnown are the Go types whose JSON form is not their fields.
var wellKnown = map[reflect.Type]string{
	reflect.TypeOf(metav1.Time{}):          "time",
	reflect.TypeOf(metav1.MicroTime{}):     "microtime",
	reflect.TypeOf(metav1.Duration{}):      "duration",
	reflect.TypeOf(metav1.FieldsV1{}):      "fieldsv1",
	reflect.TypeOf(resource.Quantity{}):    "quantity",
	reflect.TypeOf(intstr.IntOrString{}):   "intorstring",
	reflect.TypeOf(runtime.RawExtension{}): "rawextension",
	reflect.TypeOf(apiextensionsv1.JSON{}): "json",
}

// kinds collects, per Go type, the file it belongs to.
type typeWriter struct {
	files       map[string]string // Go package -> file name
	definitions map[string]common.OpenAPIDefinition
	seen        map[reflect.Type]bool
	text        map[string][]string // "file\x00Name" -> lines
}

func writeTypes(out string, resources []resourceRow) {
	w := &typeWriter{
		files: map[string]string{},
		definitions: generated.GetOpenAPIDefinitions(func(path string) spec.Ref {
			return spec.MustCreateRef("#/" + path)
		}),
		seen: map[reflect.Type]bool{},
		text: map[string][]string{},
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme,
		admissionv1.AddToScheme, auditv1.AddToScheme, apidiscoveryv2.AddToScheme, apidiscoveryv2beta1.AddToScheme,
	} {
		must(add(scheme))
	}
	versions := map[schema.GroupVersion]bool{
		admissionv1.SchemeGroupVersion: true, auditv1.SchemeGroupVersion: true,
		apidiscoveryv2.SchemeGroupVersion: true, apidiscoveryv2beta1.SchemeGroupVersion: true,
	}
	for _, row := range resources {
		versions[schema.GroupVersion{Group: row.group, Version: row.version}] = true
	}
	for gvk, goType := range scheme.AllKnownTypes() {
		if versions[gvk.GroupVersion()] && goType.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
			if have := w.files[goType.PkgPath()]; have == "" {
				w.files[goType.PkgPath()] = fileOf(gvk.GroupVersion())
			}
		}
	}
	w.files["k8s.io/apimachinery/pkg/apis/meta/v1"] = "meta/v1"
	w.files["k8s.io/apimachinery/pkg/runtime"] = "runtime"
	for gvk, goType := range scheme.AllKnownTypes() {
		if versions[gvk.GroupVersion()] && gvk.Version != "__internal" {
			w.visit(goType)
		}
	}
	for _, object := range []any{
		metav1.Status{}, metav1.List{}, metav1.ListOptions{}, metav1.GetOptions{}, metav1.CreateOptions{}, metav1.UpdateOptions{},
		metav1.PatchOptions{}, metav1.DeleteOptions{}, metav1.ApplyOptions{}, metav1.Table{}, metav1.TableOptions{},
		metav1.PartialObjectMetadata{}, metav1.PartialObjectMetadataList{}, metav1.APIGroup{}, metav1.APIGroupList{},
		metav1.APIResourceList{}, metav1.APIVersions{}, metav1.WatchEvent{}, metav1.RootPaths{}, metav1.LabelSelector{},
		runtime.Unknown{}, runtime.TypeMeta{},
	} {
		w.visit(reflect.TypeOf(object))
	}
	w.flush(out)
}

// fileOf is the short name of a group and version: the group's first label, "core" for none.
func fileOf(gv schema.GroupVersion) string {
	group, _, _ := strings.Cut(gv.Group, ".")
	if group == "" {
		group = "core"
	}
	return group + "/" + gv.Version
}

func (w *typeWriter) flush(out string) {
	keys := []string{}
	for key := range w.text {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	files := map[string][]string{}
	for _, key := range keys {
		file, _, _ := strings.Cut(key, "\x00")
		files[file] = append(files[file], w.text[key]...)
	}
	for file, lines := range files {
		name := strings.ReplaceAll(file, "/", "-") + ".txt"
		write(filepath.Join(out, "types"), name, "Types of "+file+": name, protobuf message; then fields: JSON name, protobuf number (0: not on the wire), shape, flags.", lines)
	}
}

// visit writes one struct type and everything reachable from it.
func (w *typeWriter) visit(t reflect.Type) {
	if w.seen[t] || wellKnown[t] != "" {
		return
	}
	w.seen[t] = true
	file := w.files[t.PkgPath()]
	if file == "" {
		must(fmt.Errorf("no file for %v of %s", t, t.PkgPath()))
	}
	proto := "-"
	if message, ok := reflect.New(t).Interface().(gogo.Message); ok {
		if name := gogo.MessageName(message); name != "" {
			proto = name
		}
	}
	lines := []string{"type " + t.Name() + " " + proto}
	if t.Kind() == reflect.Struct {
		lines = append(lines, w.fields(t, file, t.PkgPath()+"."+t.Name())...)
	} else {
		// A named list that is a message of its own on the wire, with the one field "items".
		lines = append(lines, "  - 1 "+w.shape(t, file, "", true)+" inline")
	}
	w.text[file+"\x00"+t.Name()] = lines
}

func (w *typeWriter) fields(t reflect.Type, file, openapi string) []string {
	lines := []string{}
	schema := w.definitions[openapi].Schema
	required := map[string]bool{}
	for _, name := range schema.Required {
		required[name] = true
	}
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		number := protoNumber(field.Tag.Get("protobuf"))
		if (name == "-" && number == "0") || (!field.IsExported() && !field.Anonymous) {
			continue
		}
		if t == reflect.TypeOf(runtime.Unknown{}) { // never JSON itself: the names are those on the wire
			name = strings.TrimPrefix(strings.Split(field.Tag.Get("protobuf")+",,,", ",")[3], "name=")
		}
		omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		if strings.Contains(options, "inline") || (field.Anonymous && name == "") {
			lines = append(lines, w.inlined(field, number, file)...)
			continue
		}
		if name == "" { // custom JSON: alternatives of one value, known by number
			if number == "0" {
				must(fmt.Errorf("%v.%s has no name", t, field.Name))
			}
			lines = append(lines, "  - "+number+" "+w.shape(field.Type, file, "", false)+" inline")
			continue
		}
		line := "  " + name + " " + number + " " + w.shape(field.Type, file, field.Tag.Get("protobuf"), false)
		if omit {
			line += " o"
		}
		if required[name] {
			line += " !"
		}
		lines = append(lines, line+w.flags(field, schema.Properties[name]))
	}
	return lines
}

// inlined writes an embedded struct: with an own number on the wire as one line, otherwise its fields in place.
func (w *typeWriter) inlined(field reflect.StructField, number, file string) []string {
	t := field.Type
	pointer := ""
	if t.Kind() == reflect.Pointer {
		t, pointer = t.Elem(), "*"
	}
	if number != "0" {
		shape := w.shape(t, file, "", false)
		if !strings.Contains(shape, "/") && !strings.Contains(shape, ".") {
			shape = "." + shape
		}
		return []string{"  - " + number + " " + pointer + shape + " inline"}
	}
	if t.Name() == "TypeMeta" {
		return []string{"  kind 0 string o", "  apiVersion 0 string o"}
	}
	return w.fields(t, file, t.PkgPath()+"."+t.Name())
}

func protoNumber(tag string) string {
	parts := strings.Split(tag, ",")
	if len(parts) < 2 {
		return "0"
	}
	return parts[1]
}

// shape spells a Go type. underlying asks for what a named list consists of.
func (w *typeWriter) shape(t reflect.Type, file, tag string, underlying bool) string {
	if name := wellKnown[t]; name != "" {
		return name
	}
	if strings.Contains(tag, "fixed") {
		if t.Kind() != reflect.Float64 && !(t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Float64) {
			must(fmt.Errorf("fixed encoding of %v", t))
		}
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int32:
		return "int32"
	case reflect.Int64:
		return "int64"
	case reflect.Float64:
		return "float64"
	case reflect.Interface:
		return "any"
	case reflect.Pointer:
		return "*" + w.shape(t.Elem(), file, "", false)
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			must(fmt.Errorf("map key %v", t))
		}
		return "map[string]" + w.shape(t.Elem(), file, "", false)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		if !underlying && t.Name() != "" && reflect.PointerTo(t).Implements(reflect.TypeOf((*gogo.Message)(nil)).Elem()) {
			break
		}
		return "[]" + w.shape(t.Elem(), file, "", false)
	case reflect.Struct:
	default:
		must(fmt.Errorf("no shape for %v", t))
	}
	w.visit(t)
	if own := w.files[t.PkgPath()]; own != file {
		return own + "." + t.Name()
	}
	return t.Name()
}

// flags joins the patch tags of Go with the list and map types, defaults and enums of the generated schemas.
func (w *typeWriter) flags(field reflect.StructField, property spec.Schema) string {
	flags := ""
	text := func(key string) string { s, _ := property.Extensions.GetString("x-kubernetes-" + key); return s }
	if list := text("list-type"); list != "" {
		flags += " list=" + list
		if keys, ok := property.Extensions["x-kubernetes-list-map-keys"].([]any); ok {
			names := []string{}
			for _, key := range keys {
				names = append(names, fmt.Sprint(key))
			}
			flags += " keys=" + strings.Join(names, ",")
		}
	}
	if kind := w.mapType(field.Type, text("map-type")); kind != "" {
		flags += " map=" + kind
	}
	if strategy := field.Tag.Get("patchStrategy"); strategy != "" {
		flags += " patch=" + strategy
	}
	if key := field.Tag.Get("patchMergeKey"); key != "" {
		flags += " key=" + key
	}
	if property.Default != nil {
		value, err := json.Marshal(property.Default)
		must(err)
		flags += " default=" + string(value)
	}
	if len(property.Enum) > 0 {
		names := []string{}
		for _, value := range property.Enum {
			names = append(names, fmt.Sprint(value))
		}
		flags += " enum=" + strings.Join(names, ",")
	}
	return flags
}

// mapType is the field's own map type, or that of the struct it holds (behind pointers and lists).
func (w *typeWriter) mapType(t reflect.Type, own string) string {
	for own == "" && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	if own == "" && t.Kind() == reflect.Struct {
		own, _ = w.definitions[t.PkgPath()+"."+t.Name()].Schema.Extensions.GetString("x-kubernetes-map-type")
	}
	return own
}
