package main

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/controlplane"
	_ "k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/printers/internalversion"
)

// minor is the version whose feature stages and defaults are wanted.
const minor = "1.33"

func writeFeatures(out string) {
	at := version.MustParseGeneric(minor)
	lines := []string{}
	for name, specs := range utilfeature.DefaultMutableFeatureGate.GetAllVersioned() {
		var current *featuregate.FeatureSpec
		for i := range specs {
			if specs[i].Version == nil || !specs[i].Version.GreaterThan(at) {
				current = &specs[i]
			}
		}
		if current == nil || name == "AllAlpha" || name == "AllBeta" {
			continue
		}
		stage := string(current.PreRelease)
		if stage == "" {
			stage = "GA"
		}
		lines = append(lines, fmt.Sprintf("%s default=%v stage=%s lock=%v", name, current.Default, stage, current.LockToDefault))
	}
	sort.Strings(lines)
	write(out, "features.txt", "Feature gates of the API server: default, stage and whether the default is locked.", lines)
}

// recorder is a table handler that keeps the columns and never prints.
type recorder struct{ lines []string }

func (r *recorder) TableHandler(columns []metav1.TableColumnDefinition, print any) error {
	object := reflect.New(reflect.TypeOf(print).In(0).Elem()).Interface().(runtime.Object)
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(object)
	if err != nil || strings.HasSuffix(kinds[0].Kind, "List") {
		return nil
	}
	group := kinds[0].Group
	if group == "" {
		group = "core"
	}
	for _, c := range columns {
		format := c.Format
		if format == "" {
			format = "-"
		}
		r.lines = append(r.lines, fmt.Sprintf("%s %s %s %s %d %s", group, kinds[0].Kind, c.Type, format, c.Priority, c.Name))
	}
	return nil
}

func writeColumns(out string) {
	r := &recorder{}
	internalversion.AddHandlers(r)
	write(out, "columns.txt", "Printer columns in order: group, kind, type, format, priority, name (rest of the line).\nA kind that is not listed has Name (string, name, 0) and Created At (date, -, 0).", r.lines)
}
