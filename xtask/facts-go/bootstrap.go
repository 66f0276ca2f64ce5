package main

import (
	"encoding/json"
	"sort"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	flowcontrol "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	scheduling "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// line is one object as compact JSON with its kind set and without nulls.
func line(object runtime.Object) string {
	kinds, _, err := legacyscheme.Scheme.ObjectKinds(object)
	must(err)
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	meta, err := apimeta.Accessor(object)
	must(err)
	if meta.GetName() == "" {
		panic("bootstrap object without a name")
	}
	tree, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	must(err)
	delete(tree["metadata"].(map[string]any), "creationTimestamp")
	text, err := json.Marshal(withoutNulls(tree))
	must(err)
	return string(text)
}

func withoutNulls(value any) any {
	tree, ok := value.(map[string]any)
	if !ok {
		return value
	}
	for key, child := range tree {
		if child == nil {
			delete(tree, key)
		} else {
			tree[key] = withoutNulls(child)
		}
	}
	return tree
}

func writeBootstrap(out string) {
	rbac := []string{}
	for _, role := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		rbac = append(rbac, line(&role))
	}
	for _, binding := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		rbac = append(rbac, line(&binding))
	}
	roles, bindings := bootstrappolicy.NamespaceRoles(), bootstrappolicy.NamespaceRoleBindings()
	for _, namespace := range sortedKeys(roles) {
		for _, role := range roles[namespace] {
			rbac = append(rbac, line(&role))
		}
	}
	for _, namespace := range sortedKeys(bindings) {
		for _, binding := range bindings[namespace] {
			rbac = append(rbac, line(&binding))
		}
	}
	write(out, "bootstrap-rbac.txt", "Roles and bindings every cluster starts with, one JSON object a line.", rbac)

	objects := []string{}
	for _, class := range scheduling.SystemPriorityClasses() {
		objects = append(objects, line(class))
	}
	for _, level := range append(flowcontrol.MandatoryPriorityLevelConfigurations, flowcontrol.SuggestedPriorityLevelConfigurations...) {
		objects = append(objects, line(level))
	}
	for _, flow := range append(flowcontrol.MandatoryFlowSchemas, flowcontrol.SuggestedFlowSchemas...) {
		objects = append(objects, line(flow))
	}
	write(out, "bootstrap-objects.txt", "PriorityClasses, PriorityLevelConfigurations and FlowSchemas every cluster starts with, one JSON object a line.", objects)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := []string{}
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
