#!/usr/bin/env bash
# Times start, idle and load of our binary and, when PEERS_DIR names their binaries (PEERS_DIR/bin/{etcd,kube-apiserver}),
# of etcd + kube-apiserver, in turn, and prints a table. RUNS (3), SECONDS_EACH (5), IDLE_SECONDS (60),
# KEYS (1000000).
# What is not measured yet because it is not there yet: server-side apply, 100,000 pods.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked --quiet -p pilothouse -p bench
bench=$target/release/bench pilothouse=$target/release/pilothouse
kubectl=$(command -v kubectl || echo "$target/clients/bin/kubectl")
runs=${RUNS:-3} each=${SECONDS_EACH:-5} idle=${IDLE_SECONDS:-60} keys=${KEYS:-1000000}
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

up() { # data directory, more flags
  "$pilothouse" up --detach --cloud-port 0 --data-dir "$@" >/dev/null 2>&1
}

pids_of() { "$pilothouse" status --data-dir "$1" -o json | grep -oE '"pid": [0-9]+' | grep -oE '[0-9]+' | sort -u | paste -sd,; }

connect() { # data directory: a connection through the edge, and one to a kubelet of the same process
  local pids api kubelet
  pids=$(pids_of "$1")
  api=$(grep -oE 'https://[0-9.:]+' "$1/user/kubeconfig" | head -1 | cut -d/ -f3)
  kubelet=$(cat "$1"/clusters/*/machines.json | grep -oE '"kubelet": *"[^"]+"' | head -1 | cut -d'"' -f4)
  case $api in *:*) ;; *) api=$api:443 ;; esac
  "$bench" connect --server pilothouse --address "$api" --label 'through the edge' --pids "$pids" --seconds "$each" >>"$lines"
  "$bench" connect --server pilothouse --address "$kubelet" --label 'without it' --pids "$pids" --seconds "$each" >>"$lines"
}

join() ( # data directory: nodes that the cloud adds one by one, each once it is done with the last
  eval "$("$pilothouse" env --shell posix --data-dir "$1")"
  export pool=$PILOTHOUSE_ENDPOINT/v1/projects/$GOOGLE_CLOUD_PROJECT/locations/us-central1-a/clusters/demo/nodePools/default-pool:setSize
  "$bench" join --server pilothouse --kubeconfig "$1/user/kubeconfig" --pids "$(pids_of "$1")" --command \
    'until curl -sf -X POST "$pool" -H "Authorization: Bearer $CLOUDSDK_AUTH_ACCESS_TOKEN" -d "{\"nodeCount\": $NODES}"; do sleep 0.1; done >/dev/null' >>"$lines"
)

ours() {
  local dir=$work/ours from
  from=$(now_ms)
  up "$dir"
  until_ns "$dir/user/kubeconfig"
  say pilothouse 'start to first kubectl get ns' $(($(now_ms) - from)) ms
  measure pilothouse "$dir/user/kubeconfig" "$(pids_of "$dir")"
  connect "$dir"
  join "$dir"
  "$bench" access --server pilothouse --seconds "$each" >>"$lines"
  end "$dir"

  from=$(now_ms)
  up "$dir" --in-process
  say pilothouse 'start of all in one process to its first answer' $(($(now_ms) - from)) ms
  end "$dir"

  # GKE puts 110 pods on a node at most.
  up "$dir" --nodes 6
  until_ns "$dir/user/kubeconfig"
  "$bench" rollout --server pilothouse --kubeconfig "$dir/user/kubeconfig" --pids "$(pids_of "$dir")" >>"$lines"
  end "$dir"

  store pilothouse "$pilothouse" etcd
  store3 pilothouse "$pilothouse" etcd
}

end() {
  "$pilothouse" down --data-dir "$1" >/dev/null
  rm -rf "$1"
}

etcd_flags() { # data directory, client port
  printf '%s\n' --data-dir "$1" --log-level error --listen-client-urls "http://127.0.0.1:$2" \
    --advertise-client-urls "http://127.0.0.1:$2" --listen-peer-urls "http://127.0.0.1:$(($2 + 1))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$(($2 + 1))" --initial-cluster "default=http://127.0.0.1:$(($2 + 1))"
}

store() { # name, command
  local name=$1 dir=$work/store flags command
  shift
  mapfile -t flags < <(etcd_flags "$dir" 23990)
  command="$(printf '%q ' "$@" "${flags[@]}" --quota-backend-bytes 8589934592) >>$work/store.log 2>&1"
  "$bench" ready --server "$name" --endpoint http://127.0.0.1:23990 --label 'empty etcd' --command "$command" >>"$lines"
  rm -rf "$dir"
  "$@" "${flags[@]}" >"$work/store.log" 2>&1 &
  peer_pids=($!)
  until curl -sf http://127.0.0.1:23990/health >/dev/null; do sleep 0.02; done
  "$bench" disk --server "$name" --directory "$work" --seconds "$each" >>"$lines"
  "$bench" loopback --server "$name" --seconds "$each" >>"$lines"
  "$bench" store --server "$name" --endpoint http://127.0.0.1:23990 --pids "${peer_pids[0]}" --seconds "$each" >>"$lines"
  stop_peer
  rm -rf "$dir"
  keys_of "$name" "$dir" "$command"
}

keys_of() { # name, data directory, command
  sh -c "exec $3" &
  peer_pids=($!)
  until curl -sf http://127.0.0.1:23990/health >/dev/null; do sleep 0.02; done
  "$bench" keys --server "$1" --endpoint http://127.0.0.1:23990 --pids "${peer_pids[0]}" --count "$keys" >>"$lines"
  stop_peer
  "$bench" ready --server "$1" --endpoint http://127.0.0.1:23990 --label "etcd, $keys keys, started again" --command "$3" >>"$lines"
  rm -rf "$2"
  sync # or what is measured next waits for a gigabyte to be deleted
}

store3() { # name, command: three members over mutual TLS, clients at all of them
  local name=$1 dir=$work/store3 cluster='' i peers=()
  shift
  mkdir -p "$dir/pki"
  (cd "$dir/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=peers -keyout ca.key -out ca.crt
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=peer -keyout peer.key -out peer.csr
    openssl x509 -req -in peer.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out peer.crt \
      -extfile <(echo subjectAltName=IP:127.0.0.1)) 2>/dev/null
  for i in 0 1 2; do cluster+=${cluster:+,}m$i=https://127.0.0.1:$((24101 + 10 * i)); done
  for i in 0 1 2; do
    local client=http://127.0.0.1:$((24100 + 10 * i)) peer=https://127.0.0.1:$((24101 + 10 * i))
    local command=("$@" --name "m$i" --data-dir "$dir/m$i" --log-level error --listen-client-urls "$client" --advertise-client-urls "$client" \
      --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$cluster" --peer-client-cert-auth \
      --peer-trusted-ca-file "$dir/pki/ca.crt" --peer-cert-file "$dir/pki/peer.crt" --peer-key-file "$dir/pki/peer.key")
    echo "$(printf '%q ' "${command[@]}") >>$work/store3-$i.log 2>&1" >>"$dir/commands"
    "${command[@]}" >"$work/store3-$i.log" 2>&1 &
    peer_pids+=($!)
  done
  for i in 0 1 2; do until curl -sf "http://127.0.0.1:$((24100 + 10 * i))/health" >/dev/null; do sleep 0.05; done; done
  local endpoints=http://127.0.0.1:24100,http://127.0.0.1:24110,http://127.0.0.1:24120
  "$bench" store --server "$name" --seconds "$each" --endpoint "$endpoints" --pids "$(IFS=,; echo "${peer_pids[*]}")" >>"$lines"
  stop_peer
  "$bench" failover --server "$name" --endpoint "$endpoints" --commands "$dir/commands" >>"$lines"
  rm -rf "$dir"
}

pki() { # the fewest certificates a kube-apiserver starts with
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
  local dir=$work/peer from flags
  rm -rf "$dir"
  pki "$dir/pki"
  from=$(now_ms)
  mapfile -t flags < <(etcd_flags "$dir/etcd" 23890)
  "$PEERS_DIR/bin/etcd" "${flags[@]}" >"$dir/etcd.log" 2>&1 &
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
  store 'etcd + kube-apiserver' "$PEERS_DIR/bin/etcd"
  store3 'etcd + kube-apiserver' "$PEERS_DIR/bin/etcd"
}

for _ in $(seq "$runs"); do
  ours
  if [ -n "${PEERS_DIR:-}" ]; then peer; fi
done
"$bench" table "$lines"
