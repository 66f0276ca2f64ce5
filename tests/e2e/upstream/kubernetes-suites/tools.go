//go:build tools

// Package suites names Kubernetes' own end-to-end tests, of which the full tier runs the conformance specs against ours.
package suites

import (
	_ "k8s.io/kubernetes/test/e2e"
)
