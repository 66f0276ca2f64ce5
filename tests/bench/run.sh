#!/usr/bin/env bash
# Times start, idle and load of our binary and, when PEERS_DIR names their binaries (PEERS_DIR/bin/{etcd,kube-apiserver}),
# of etcd + kube-apiserver, in turn, and prints a table. RUNS (3), SECONDS_EACH (5), IDLE_SECONDS (60).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked --quiet --bin pilothouse -p bench -p pilothouse
bench=$target/release/bench pilothouse=$target/release/pilothouse
kubectl=$(command -v kubectl || echo "$target/clients/bin/kubectl")
runs=${RUNS:-3} each=${SECONDS_EACH:-5} idle=${IDLE_SECONDS:-60}
work=$(mktemp -d)
lines=$work/lines
trap 'stop_peer; "$pilothouse" down --data-dir "$work/ours" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
peer_pids=()

now_ms() { date +%s%3N; }
until_ns() { until "$kubectl" --kubeconfig "$1" get ns >/dev/null 2>&1; do sleep 0.02; done; }
say() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$lines"; }

stop_peer() {
  [ ${#peer_pids[@]} -gt 0 ] || return 0
  kill "${peer_pids[@]}" 2>/dev/null || true
  wait "${peer_pids[@]}" 2>/dev/null || true
  peer_pids=()
}

measure() { # name kubeconfig pids
  sleep 5
  "$bench" idle --server "$1" --pids "$3" --seconds "$idle" >>"$lines"
  "$bench" load --server "$1" --kubeconfig "$2" --pids "$3" --seconds "$each" >>"$lines"
}

ours() {
  local dir=$work/ours from
  rm -rf "$dir"
  from=$(now_ms)
  "$pilothouse" up --detach --data-dir "$dir" --cloud-port 0 >/dev/null 2>&1
  until_ns "$dir/user/kubeconfig"
  say pilothouse 'start to first kubectl get ns' $(($(now_ms) - from)) ms
  local pids
  pids=$("$pilothouse" status --data-dir "$dir" -o json | grep -oE '"pid": [0-9]+' | grep -oE '[0-9]+' | paste -sd,)
  measure pilothouse "$dir/user/kubeconfig" "$pids"
  "$pilothouse" down --data-dir "$dir" >/dev/null
}

keys() { # the fewest certificates a kube-apiserver starts with
  local d=$1
  mkdir -p "$d" && cd "$d"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench -keyout ca.key -out ca.crt 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=apiserver -keyout api.key -out api.csr 2>/dev/null
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out api.crt -extfile <(echo subjectAltName=IP:127.0.0.1) 2>/dev/null
  openssl genrsa -out sa.key 2048 2>/dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  echo 'bench-token,admin,1,"system:masters"' >tokens.csv
  cat >kubeconfig <<K
{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:26543","certificate-authority":"$d/ca.crt"}}],
"users":[{"name":"u","user":{"token":"bench-token"}}]}
K
  cd - >/dev/null
}

peer() {
  local dir=$work/peer from
  rm -rf "$dir"
  keys "$dir/pki"
  from=$(now_ms)
  "$PEERS_DIR/bin/etcd" --data-dir "$dir/etcd" --log-level error --listen-client-urls http://127.0.0.1:23890 \
    --advertise-client-urls http://127.0.0.1:23890 --listen-peer-urls http://127.0.0.1:23891 \
    --initial-advertise-peer-urls http://127.0.0.1:23891 --initial-cluster default=http://127.0.0.1:23891 >"$dir/etcd.log" 2>&1 &
  peer_pids=($!)
  "$PEERS_DIR/bin/kube-apiserver" --etcd-servers http://127.0.0.1:23890 --bind-address 127.0.0.1 --secure-port 26543 \
    --advertise-address 127.0.0.1 --endpoint-reconciler-type none --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$dir/pki/api.crt" --tls-private-key-file "$dir/pki/api.key" --token-auth-file "$dir/pki/tokens.csv" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$dir/pki/sa.pub" \
    --service-account-signing-key-file "$dir/pki/sa.key" --authorization-mode Node,RBAC --v 0 >"$dir/api.log" 2>&1 &
  peer_pids+=($!)
  until_ns "$dir/pki/kubeconfig"
  say 'etcd + kube-apiserver' 'start to first kubectl get ns' $(($(now_ms) - from)) ms
  measure 'etcd + kube-apiserver' "$dir/pki/kubeconfig" "$(IFS=,; echo "${peer_pids[*]}")"
  stop_peer
}

for _ in $(seq "$runs"); do
  ours
  if [ -n "${PEERS_DIR:-}" ]; then peer; fi
done
"$bench" table "$lines"
