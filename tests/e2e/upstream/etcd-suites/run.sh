#!/usr/bin/env bash
# Runs what etcd's authors wrote to test etcd against our etcd, and prints how it went.
#
#   run.sh [REGEX]     the tests whose name matches, all without one
#
# `tests/common`, `tests/e2e` and `tests/robustness` of etcd's Go module drive binaries named etcd, etcdctl and etcdutl: the first is ours, the
# others are etcd's own, which `tests/clients.sh` builds in the full tier. common and e2e run a second time with etcd's build
# tag cluster_proxy, by which clients reach each member through an `etcd grpc-proxy` of its own, ours as well. The module comes from the Go module cache or
# proxy, as go.sum says. The robustness tests have a runner of our own (robustness/), as etcd's reads etcd's log; traffic,
# faults and judgement are etcd's. Each test is a process of its own, as etcd's harness gives up once a test has left something
# running. What is not run stands in not-run.txt with its reason; a test that fails is tried once more, as many of them
# have time limits that a busy machine passes.
# The environment: SUITES_ETCD (the binary, target/debug/pilothouse without it), SUITES_PEERS (where etcdctl and etcdutl
# are), SUITES_OUT (where logs go).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
etcd=${SUITES_ETCD:-$target/debug/pilothouse}
peers=${SUITES_PEERS:-$target/clients/bin}
out=${SUITES_OUT:-$target/etcd-suites}
wanted=${1:-.}

skip() {
  echo "SKIPPED etcd's own tests: $1"
  exit 0
}
command -v go >/dev/null || skip 'go is not installed'
for name in etcdctl etcdutl; do
  [ -x "$peers/$name" ] || skip "there is no $peers/$name"
done
# Some tests start etcd where it listens by default.
for port in 2379 2380; do
  if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "FAILED port $port is in use; stop what listens there"
    exit 1
  fi
done
rm -rf "$out"
mkdir -p "$out/bin" "$out/logs" "$out/tmp"
ln -s "$etcd" "$out/bin/etcd"
ln -s "$peers/etcdctl" "$peers/etcdutl" "$out/bin/"

cd "$here"
# The tests find their certificates beside themselves, and write where they are.
module=$(go mod download -json go.etcd.io/etcd/tests/v3 | sed -n 's/.*"Dir": "\(.*\)",\{0,1\}/\1/p')
for part in common e2e fixtures; do
  cp -r "$module/$part" "$out/$part"
done
cp -r "$module/common" "$out/common-proxy"
cp -r "$module/e2e" "$out/e2e-proxy"
chmod -R u+w "$out"
go test -c -tags e2e -o "$out/common.test" go.etcd.io/etcd/tests/v3/common
go test -c -o "$out/e2e.test" go.etcd.io/etcd/tests/v3/e2e
go test -c -tags e2e,cluster_proxy -o "$out/common-proxy.test" go.etcd.io/etcd/tests/v3/common
go test -c -tags cluster_proxy -o "$out/e2e-proxy.test" go.etcd.io/etcd/tests/v3/e2e
go test -c -o "$out/robustness.test" ./robustness
mkdir "$out/robustness"

# Runs one test; prints PASS, SKIP or FAIL.
one() { # package, test
  local log=$out/logs/$1.$2.log case
  local skip='^$'
  for case in $(sed -n "s|^$2/\([^ ]*\) .*|\1|p" "$here/not-run.txt"); do
    skip="^$2\$/^$case\$"
  done
  rm -rf "$out/tmp" "$out/$1"/*.etcd
  mkdir "$out/tmp"
  (cd "$out/$1" && TMPDIR=$out/tmp timeout -k 10 300 \
    "$out/$1.test" -test.v -test.run "^$2\$" -test.skip "$skip" -bin-dir "$out/bin") >"$log" 2>&1 || true
  # The process itself may still complain of goroutines that a test left behind; etcd's own do.
  if grep -aq "^--- SKIP: $2 " "$log"; then
    echo SKIP
  elif grep -aq "^--- PASS: $2 " "$log"; then
    echo PASS
  else
    echo FAIL
  fi
}

failed=0
for package in common e2e common-proxy e2e-proxy; do
  passed=0 again=0 skipped=0 left=0
  failures=()
  for test in $(cd "$out/$package" && "$out/$package.test" -test.list "$wanted" | grep '^Test' | grep -v '^TestMain$'); do
    if grep -q "^$test " "$here/not-run.txt"; then
      left=$((left + 1))
      continue
    fi
    result=$(one "$package" "$test")
    if [ "$result" = FAIL ]; then
      result=$(one "$package" "$test")
      [ "$result" = PASS ] && again=$((again + 1))
    fi
    case $result in
      PASS) passed=$((passed + 1)) ;;
      SKIP) skipped=$((skipped + 1)) ;;
      *) failures+=("$test") ;;
    esac
  done
  echo "etcd's tests/$package: $passed passed ($again at the second attempt), ${#failures[@]} failed," \
    "$skipped skipped themselves, $left not run (not-run.txt)"
  for test in "${failures[@]}"; do
    failed=1
    echo "FAILED $package $test: $out/logs/$package.$test.log"
    grep -aE 'Error:|Messages:|_test.go:[0-9]+:' "$out/logs/$package.$test.log" | head -5 || true
  done
done

# Runs those of the robustness tests that match; one case a line, with PASS, SKIP or FAIL before it.
robustness() { # regex, log
  rm -rf "$out/tmp"
  mkdir "$out/tmp"
  (cd "$out/robustness" && RESULTS_DIR=$out/results TMPDIR=$out/tmp timeout -k 10 1200 \
    "$out/robustness.test" -test.v -test.run "$1" -bin-dir "$out/bin") >"$2" 2>&1 || true
  sed -n 's/^    --- \(PASS\|FAIL\|SKIP\): \([^ ]*\) .*/\1 \2/p' "$2"
}

passed=0 again=0 skipped=0
failures=()
while read -r result name; do
  if [ "$result" = FAIL ]; then
    result=$(robustness "^${name//\//\$/^}\$" "$out/logs/robustness.again.log" | cut -d ' ' -f 1)
    [ "$result" = PASS ] && again=$((again + 1))
  fi
  case $result in
    PASS) passed=$((passed + 1)) ;;
    SKIP) skipped=$((skipped + 1)) ;;
    *) failures+=("$name") ;;
  esac
done < <(robustness "$wanted" "$out/logs/robustness.log")
# A runner that broke down on the way prints no verdict of what it was at.
if ! grep -aqE '^(PASS|FAIL|testing: warning: no tests to run)$' "$out/logs/robustness.log"; then
  failures+=('the runner itself')
fi
echo "etcd's tests/robustness: $passed passed ($again at the second attempt), ${#failures[@]} failed, $skipped not possible here"
for name in "${failures[@]}"; do
  failed=1
  echo "FAILED robustness $name: $out/logs/robustness.log"
done
exit "$failed"
