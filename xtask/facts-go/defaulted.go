package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	aggregatorinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	generated "k8s.io/kubernetes/pkg/generated/openapi"
)

// variants of one kind: empty, everything optional present but unset, four rotations of the enums, all scalars set.
const (
	variantEmpty  = 0
	variantUnset  = 1
	variantFull   = 6
	variantsCount = 7
)

// filler makes objects with every branch present.
type filler struct {
	definitions map[string]common.OpenAPIDefinition
	variant     int
	wholePods   bool
}

// writeDefaulted writes, for every kind the API server knows, objects before and after upstream's defaulting.
func writeDefaulted(dir string, resources []resourceRow) {
	scheme := legacyscheme.Scheme
	apiextensionsinstall.Install(scheme)
	aggregatorinstall.Install(scheme)
	definitions := generated.GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef("#/" + path) })
	lines := []string{}
	for _, gvk := range kindsOf(resources) {
		if strings.HasSuffix(gvk.Kind, "Options") {
			continue
		}
		for variant := 0; variant < variantsCount; variant++ {
			object, err := scheme.New(gvk)
			must(err)
			if variant != variantEmpty {
				f := filler{definitions, variant, gvk.Kind == "Pod"}
				f.fill(reflect.ValueOf(object).Elem(), map[reflect.Type]int{})
			}
			object.GetObjectKind().SetGroupVersionKind(gvk)
			before := encode(object)
			scheme.Default(object)
			after := encode(object)
			if before != after || variant == variantFull {
				lines = append(lines, gvk.Kind+" {\"in\":"+before+",\"out\":"+after+"}")
			}
		}
	}
	sort.Strings(lines)
	must(os.MkdirAll(dir, 0o755))
	for i, line := range lines {
		_, lines[i], _ = strings.Cut(line, " ")
	}
	must(os.WriteFile(filepath.Join(dir, "upstream.jsonl"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

func encode(object runtime.Object) string {
	text, err := json.Marshal(object)
	must(err)
	compact := bytes.Buffer{}
	must(json.Compact(&compact, text))
	return timeAdded.ReplaceAllString(compact.String(), "")
}

// timeAdded is the one default that depends on the clock.
var timeAdded = regexp.MustCompile(`,"timeAdded":"[^"]*"`)

func (f *filler) fill(value reflect.Value, stack map[reflect.Type]int) {
	t := value.Type()
	if t == reflect.TypeOf(metav1.ObjectMeta{}) {
		if f.variant == variantFull {
			value.FieldByName("Name").SetString("x")
		}
		return
	}
	if wellKnown[t] != "" || t == reflect.TypeOf(metav1.TypeMeta{}) || t == reflect.TypeOf(apiextensionsv1.JSONSchemaProps{}) {
		return
	}
	stack[t]++
	defer func() { stack[t]-- }()
	if stack[t] > 1 {
		return
	}
	definition := f.definitions[t.PkgPath()+"."+t.Name()].Schema
	for i := 0; i < t.NumField(); i++ {
		field := t.Field(i)
		if !field.IsExported() {
			continue
		}
		if t == reflect.TypeOf(corev1.PodSpec{}) && !f.wholePods && field.Name != "Containers" && field.Name != "Volumes" {
			continue
		}
		if t == reflect.TypeOf(corev1.Volume{}) && f.variant < variantFull && field.Name == "VolumeSource" && !f.wholePods {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		f.field(value.Field(i), definition.Properties[name].Enum, stack)
	}
}

func (f *filler) field(value reflect.Value, enum []any, stack map[reflect.Type]int) {
	t := value.Type()
	switch t.Kind() {
	case reflect.Struct:
		f.fill(value, stack)
	case reflect.Pointer:
		e := t.Elem()
		if e.Kind() == reflect.Struct && wellKnown[e] == "" && stack[e] == 0 {
			value.Set(reflect.New(e))
			f.fill(value.Elem(), stack)
		} else if e.Kind() != reflect.Struct {
			fresh := reflect.New(e)
			f.field(fresh.Elem(), enum, stack)
			if !fresh.Elem().IsZero() {
				value.Set(fresh)
			}
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct && wellKnown[t.Elem()] == "" && stack[t.Elem()] == 0 {
			value.Set(reflect.MakeSlice(t, 1, 1))
			f.fill(value.Index(0), stack)
		} else if t.Elem().Kind() == reflect.String && f.variant == variantFull {
			value.Set(reflect.MakeSlice(t, 1, 1))
			value.Index(0).SetString("x")
		}
	case reflect.Map:
		if t.Elem() == reflect.TypeOf(resource.Quantity{}) && f.variant >= 3 {
			value.Set(reflect.MakeMap(t))
			value.SetMapIndex(reflect.ValueOf("cpu").Convert(t.Key()), reflect.ValueOf(resource.MustParse("100m")))
		}
	case reflect.String:
		if len(enum) > 0 && f.variant >= 2 && f.variant < variantFull {
			value.SetString(enum[(f.variant-2)%len(enum)].(string))
		} else if f.variant == variantFull {
			value.SetString("x")
		}
	case reflect.Bool:
		value.SetBool(f.variant == variantFull || f.variant == 5)
	case reflect.Int32, reflect.Int64:
		if f.variant == variantFull {
			value.SetInt(7)
		}
	}
}
