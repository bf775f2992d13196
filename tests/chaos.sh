#!/usr/bin/env bash
# Breaks everything that can be broken, on real processes, and judges what came of it: 200 rounds of kills, three of each
# other case, and each flood once, for long.
#
#   tests/chaos.sh                              everything; writes docs/faults-matrix.md and docs/measurements/raw/chaos.txt
#   tests/chaos.sh [--rounds N] [--seed S] [FAMILY…]   N rounds of kills; only these families (kills network stops disks clocks limits
#                                               processes floods), whose lines are replaced
#
# Cases that need root or a tool are skipped without it, and say so. It ends with 1 if any invariant was violated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
cargo build --workspace --features tests/faults
mkdir -p docs/measurements/raw
exec "${CARGO_TARGET_DIR:-target}/debug/chaos" --raw docs/measurements/raw/chaos.txt --table docs/faults-matrix.md "$@"
