#!/usr/bin/env bash
# Plays simulated histories of the real machines and prints what they reached.
#
#   tests/sim.sh                              100,000 histories
#   SIM_HISTORIES=5000 tests/sim.sh           so many
#   SIM_FIRST=5000 tests/sim.sh               from another seed on
#   SIM_SEED=42 tests/sim.sh                  one, told step by step
#   SIM_SEED=42 SIM_KEEP="…" tests/sim.sh     a shortened one, as a failing run prints it
set -euo pipefail
cd "$(dirname "$0")/.."
export SIM_HISTORIES=${SIM_HISTORIES:-100000}
exec cargo test --release -p tests --features faults --test simulation no_history -- --nocapture
