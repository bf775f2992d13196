#!/usr/bin/env bash
# Plays simulated histories: SIM_HISTORIES=100000 tests/sim.sh plays many, SIM_SEED=42 tests/sim.sh plays one and tells it step by step.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --release -p tests --features faults --test simulation no_history -- --nocapture
