//go:build tools

// Package suites names etcd's own tests, which the full tier runs against our binary.
package suites

import (
	_ "go.etcd.io/etcd/tests/v3/framework/e2e"
)
