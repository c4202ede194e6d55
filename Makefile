# The public entry. Each target works as the first command on a fresh Debian with Rust, git, make
# and Python: it installs what it needs and the machine lacks (scripts/setup.sh).

.PHONY: help demo test test-long bench bench-check bench-curves bench-memory pgo lint fmt clean
.DEFAULT_GOAL := help

# Where Debian puts daemons; not on every user's path.
export PATH := $(PATH):/usr/sbin:/sbin

# More arguments for the tool behind a target: make demo ARGS="--shards 5". They reach the shell as
# they are: make demo ARGS='-- sh -c "redis-cli -u \$REDIS_URL ping"'.
ARGS ?=

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' Makefile

demo: ## Three real Redis servers and Ringway before them, removed on exit.
	@scripts/setup.sh cc redis
	cargo build --release
	target/release/ringway demo $(value ARGS)

test: lint ## Formatting, lints, documentation and tests, without the long ones.
	@scripts/setup.sh redis prometheus nutcracker node venv
	python3 -m unittest discover -q -s benches
	python3 -m unittest discover -q -s tests/conformance
	python3 scripts/test.py $(value ARGS)

test-long: ## The long tests (tests/long_*.rs): conformance, frameworks, faults.
	@scripts/setup.sh cc python redis prometheus nutcracker node venv tcl sources
	python3 scripts/test.py --long $(value ARGS)

bench: ## Side by side with direct, haproxy and nutcracker: benches/RESULTS.md.
	@scripts/setup.sh cc python redis nutcracker haproxy strace
	cargo build --release
	python3 benches/compare.py $(value ARGS)

bench-check: ## The same in short, and instructions and system calls beside benches/COUNTS.json: counts fail, clocks do not.
	@scripts/setup.sh cc python redis nutcracker haproxy strace valgrind
	cargo build --release
	python3 benches/compare.py --quick --out benches/raw/quick.md $(value ARGS)
	python3 benches/counts.py

bench-curves: ## How the cost grows with threads, servers, clients, keys and rules; latency: benches/CURVES.md.
	@scripts/setup.sh cc python redis nutcracker haproxy strace venv node
	cargo build --release
	python3 benches/curves.py $(value ARGS)

bench-memory: ## Memory of idle clients, after a burst, and around a 512 MB value: benches/MEMORY.md.
	@scripts/setup.sh cc python redis nutcracker
	cargo build --release
	python3 benches/memory.py $(value ARGS)

pgo: ## A release build along a profile of the benchmark's loads: target/pgo/release/ringway.
	@scripts/setup.sh cc python redis profdata
	scripts/pgo.sh

lint: ## Formatting, clippy and rustdoc, all warnings refused.
	@scripts/setup.sh cc lints python
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

fmt: ## Formats the sources.
	@scripts/setup.sh lints
	cargo fmt

clean: ## Removes what was built and measured.
	cargo clean
	rm -rf benches/raw
