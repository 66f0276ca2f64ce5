//go:build tools

// Package clients pins the real clients that the end-to-end tests run.
package clients

import _ "go.etcd.io/etcd/etcdctl/v3"
