//go:build tools

// Package upstream names the programs of other projects that the full tier builds and runs beside ours.
package upstream

import (
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
