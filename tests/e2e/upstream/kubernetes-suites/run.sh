#!/usr/bin/env bash
# Runs what Kubernetes' authors wrote to tell a Kubernetes cluster, the conformance specs of test/e2e, against a sandbox.
#
#   run.sh [REGEX]     the specs of runs.txt whose name matches, all without one
#
# Every conformance spec stands either in runs.txt, then it must pass, or in not-run.txt below the reason why it cannot
# yet; runs.txt only grows. With SUITES_TRY=1 the others (of not-run.txt) are tried, and those that pass are told.
# Nodes are simulated: what needs a container that really runs, its logs, or packets between pods cannot pass.
# Specs run in several processes at once, serial ones afterwards; one that fails is tried once more, alone, as many have
# time limits that a busy machine passes.
# The environment: SUITES_PILOTHOUSE (the binary, target/debug/pilothouse without it), SUITES_KUBECTL (else that of
# tests/clients.sh or of PATH), SUITES_OUT (where logs and the sandbox go), SUITES_E2E (an e2e.test that was built
# before), SUITES_AT_ONCE (how many processes).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
pilothouse=${SUITES_PILOTHOUSE:-$target/debug/pilothouse}
kubectl=${SUITES_KUBECTL:-$target/clients/bin/kubectl}
out=${SUITES_OUT:-$target/kubernetes-suites}
at_once=${SUITES_AT_ONCE:-3}
wanted=${1:-.}

skip() {
  echo "SKIPPED Kubernetes' own conformance specs: $1"
  exit 0
}
command -v go >/dev/null || [ -n "${SUITES_E2E:-}" ] || skip 'go is not installed'
[ -x "$kubectl" ] || kubectl=$(command -v kubectl) || skip 'there is no kubectl'
mkdir -p "$out"
rm -rf "$out/logs" "$out/reports"
mkdir -p "$out/logs" "$out/reports"
e2e=${SUITES_E2E:-$out/e2e.test}
if [ -z "${SUITES_E2E:-}" ]; then
  (cd "$here" && go test -c -vet=off -trimpath -ldflags '-s -w' -o "$e2e" k8s.io/kubernetes/test/e2e)
fi

# The lists, against what the suite has.
all=$out/all.txt
"$e2e" -list-tests 2>/dev/null | sed -n 's/^.*\.go:[0-9]*: \(.*\[Conformance\].*\)$/\1/p' | sort >"$all"
grep -v '^#' "$here/runs.txt" | sort >"$out/runs.txt"
grep -v '^#' "$here/not-run.txt" | grep . | sort >"$out/not-run.txt"
if ! sort "$out/runs.txt" "$out/not-run.txt" | diff "$all" - >"$out/lists.diff"; then
  echo "FAILED runs.txt and not-run.txt together are not the suite's conformance specs:"
  cat "$out/lists.diff"
  exit 1
fi
list=$out/runs.txt
[ -z "${SUITES_TRY:-}" ] || list=$out/not-run.txt
grep -E -- "$wanted" "$list" >"$out/wanted.txt" || skip "no spec matches $wanted"

# A sandbox of its own, with its own kubeconfig.
down() {
  "$pilothouse" down --data-dir "$out/data" >/dev/null 2>&1 || true
}
down
rm -rf "$out/data" "$out/platform"
trap down EXIT
"$pilothouse" up --detach --data-dir "$out/data" --platform-dir "$out/platform" --cloud-port 0 >"$out/logs/up.log" 2>&1 ||
  { cat "$out/logs/up.log"; exit 1; }
export KUBECONFIG=$out/data/user/kubeconfig
# No spec that has pods looks at a node before it is ready.
"$kubectl" wait --for=condition=Ready node --all --timeout=300s >"$out/logs/nodes.log"

regex() { # a spec's name as a regular expression
  sed 's/[][().*+?{}|^$\\]/\\&/g; s/$/$/' <<<"$1"
}

# Runs specs in one process; a report says which passed.
together() { # name of the report, file with specs, time limit
  local focus=() spec
  while read -r spec; do
    focus+=("-ginkgo.focus=$(regex "$spec")")
  done <"$2"
  timeout -k 10 "$3" "$e2e" -kubeconfig="$KUBECONFIG" -kubectl-path="$kubectl" -provider=skeleton \
    -dump-logs-on-failure=false -disable-log-dump -ginkgo.no-color -ginkgo.silence-skips -ginkgo.timeout=2h \
    -report-dir="$out/reports" -report-prefix="$1-" "${focus[@]}" >"$out/logs/$1.log" 2>&1 </dev/null || true
}

# The names of the specs that passed, of all reports.
passed() {
  cat "$out"/reports/*.xml 2>/dev/null |
    sed -n 's/.*<testcase name="\[It\] \(.*\[Conformance\]\)[^"]*".* status="passed".*/\1/p' |
    sed "s/&#34;/\"/g; s/&#39;/'/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g" | sort -u
}

grep -F '[Serial]' "$out/wanted.txt" >"$out/serial.txt" || true
grep -vF '[Serial]' "$out/wanted.txt" >"$out/parallel.txt" || true
if [ -s "$out/parallel.txt" ]; then
  split -n "r/$at_once" -d "$out/parallel.txt" "$out/share."
  for share in "$out"/share.*; do
    [ ! -s "$share" ] || together "${share##*/}" "$share" 7200 &
  done
  wait
  rm -f "$out"/share.*
fi
[ ! -s "$out/serial.txt" ] || together serial "$out/serial.txt" 7200

good=0 again=0 number=0
failures=()
passed >"$out/passed.txt"
while read -r spec; do
  if grep -qxF -- "$spec" "$out/passed.txt"; then
    good=$((good + 1))
    continue
  fi
  if [ -n "${SUITES_TRY:-}" ]; then
    failures+=("$spec")
    continue
  fi
  number=$((number + 1))
  printf '%s\n' "$spec" >"$out/again.txt"
  together "again-$number" "$out/again.txt" 600
  if passed | grep -qxF -- "$spec"; then
    good=$((good + 1)) again=$((again + 1))
  else
    failures+=("$spec ($out/logs/again-$number.log)")
  fi
done <"$out/wanted.txt"

if [ -n "${SUITES_TRY:-}" ]; then
  sed 's/^/NOW PASSES /' "$out/passed.txt"
  echo "$good of $(wc -l <"$out/wanted.txt") of not-run.txt pass"
  exit 0
fi
echo "Kubernetes' conformance: $good of $(wc -l <"$all") specs passed ($again at the second attempt)," \
  "${#failures[@]} failed, $(wc -l <"$out/not-run.txt") not run (not-run.txt)"
for failure in "${failures[@]}"; do
  echo "FAILED $failure"
done
[ "${#failures[@]}" = 0 ]
