#!/usr/bin/env bash
# Feeds every decoder by a fuzzer that is guided by coverage; what `tests/tests/garbage.rs` does a little of in every run.
#
#   tests/fuzz.sh                        every target, a minute each
#   tests/fuzz.sh [--seconds N] TARGET…  these
#
# Needs a nightly toolchain (`rustup toolchain install nightly`) and cargo-fuzz (`cargo install cargo-fuzz`); without them it says so and
# does nothing. What it found stays in tests/fuzz/corpus, an input that broke something in tests/fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/fuzz"

seconds=60
if [ "${1:-}" = --seconds ]; then
    seconds=${2:?--seconds wants a number}
    shift 2
fi

skip() {
    echo "SKIP fuzz: $*"
    exit 0
}
cargo +nightly --version >/dev/null 2>&1 || skip "there is no nightly toolchain"
cargo +nightly fuzz --version >/dev/null 2>&1 || skip "cargo-fuzz is not installed"

# The decoders with the very dependencies that are shipped.
cp ../../Cargo.lock Cargo.lock
seeds=$(cargo +nightly run --quiet --bin seeds -- corpus)
mapfile -t all <<<"$seeds"
[ $# -gt 0 ] || set -- "${all[@]}"
failed=()
for target in "$@"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # A decoder that needs a second, or half a gigabyte, for a message's worth of bytes is broken too.
    cargo +nightly fuzz run --fuzz-dir . "$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=65536 || failed+=("$target")
done
printf '\nfuzzed: %s targets, %s s each; failed: %s\n' "$#" "$seconds" "${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
