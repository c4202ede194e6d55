#!/usr/bin/env bash
# Builds target/pgo/release/ringway along a profile of the benchmark's loads: the same program, whose
# usual paths the compiler knows.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
home=$target/pgo
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata

rm -rf "$home/raw"
RUSTFLAGS="-Cprofile-generate=$home/raw" cargo build --release --target-dir "$home/train"
RINGWAY=$home/train/release/ringway python3 benches/compare.py --proxies ringway --pinning pinned --rounds 1 \
    --requests 20000 --no-syscalls --out "$home/train.md"
"$profdata" merge -o "$home/ringway.profdata" "$home"/raw/*.profraw
RUSTFLAGS="-Cprofile-use=$home/ringway.profdata" cargo build --release --target-dir "$home"
printf 'built: %s\n' "$home/release/ringway"
