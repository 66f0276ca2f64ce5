#!/usr/bin/env bash
# Everything `make test` runs. PILOTHOUSE_TEST_TIER=full adds what takes long.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1
if [ "${PILOTHOUSE_TEST_TIER:-}" = full ]; then
  export SIM_SEEDS=${SIM_SEEDS:-5000} PROPTEST_CASES=${PROPTEST_CASES:-5000}
  export FUZZ_CASES=${FUZZ_CASES:-1000000}
fi

step() {
  printf '\n== %s (%s s)\n' "$1" "$SECONDS"
  shift
  "$@"
}

# Mostly downloads: the compiler need not wait for them.
clients_log=$(mktemp)
log=$(mktemp)
tests/clients.sh >"$clients_log" 2>&1 &
clients=$!
trap 'rm -f "$log" "$clients_log"; kill "$clients" 2>/dev/null || true' EXIT

the_clients() {
  local status=0
  wait "$clients" || status=$?
  cat "$clients_log"
  return "$status"
}

step 'format' cargo fmt --all --check
step 'format of a client' cargo fmt --all --check --manifest-path tests/e2e/clients/etcd-client/Cargo.toml
step 'lints' cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

# The binary that the end-to-end tests run is one of them: built apart from the tests, with features that only it needs, nearly
# every dependency would be compiled a second time.
step 'the programs' cargo test --workspace --locked --quiet --no-run
step 'the real clients' the_clients

printf '\n== tests (%s s)\n' "$SECONDS"
status=0
cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=$?

sum() { # how many tests the runner's closing lines count as $1
  grep -E '^test result:' "$log" | grep -oE "[0-9]+ $1" | awk '{n += $1} END {print n + 0}'
}
if [ "${PILOTHOUSE_TEST_TIER:-}" = full ]; then
  printf '\n== etcd'"'"'s own tests (%s s)\n' "$SECONDS"
  tests/e2e/upstream/etcd-suites/run.sh 2>&1 | tee -a "$log" || status=$?
  printf '\n== Kubernetes'"'"' own conformance specs (%s s)\n' "$SECONDS"
  tests/e2e/upstream/kubernetes-suites/run.sh 2>&1 | tee -a "$log" || status=$?
fi
skipped=$(grep -cE '^SKIPPED ' "$log" || true)
printf '\n== done (%s s)\n' "$SECONDS"
grep -E '^SKIPPED ' "$log" || true
printf '%s passed, %s failed, %s skipped\n' "$(sum passed)" "$(sum failed)" "$skipped"
exit "$status"
