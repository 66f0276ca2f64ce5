# Thin: each target is one line of cargo or of a script in tests/.
.PHONY: up test full lint sim e2e bench docs

up: ## build and start a sandbox with one cluster
	cargo fetch --locked
	cargo build --release --locked --bin pilothouse
	target/release/pilothouse up --detach --accept-new-binary

test: ## everything: format, lints, unit, simulation, end to end with the real clients
	tests/run.sh

full: ## test, and what takes long: upstream programs, long kill runs, thousands of seeds
	PILOTHOUSE_TEST_TIER=full tests/run.sh

lint: ## format, clippy, the rules of the house
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask tidy
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; \
	else echo 'SKIPPED cargo-deny: `cargo install cargo-deny` brings it'; fi

sim: ## the seeded simulation alone; SIM_SEEDS=5000 for more
	cargo test --locked -p sim

e2e: ## the real clients against the built binary alone
	tests/clients.sh
	cargo build --locked --bin pilothouse
	cargo test --locked -p e2e

bench: ## side by side with etcd and kube-apiserver when PEERS_DIR names their binaries
	tests/bench/run.sh

docs: ## rustdoc of every crate
	cargo doc --workspace --no-deps --locked
