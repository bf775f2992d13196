#!/usr/bin/env bash
# Installs what the tests need and runs them all. Nothing is hidden here: CI calls this script and nothing else.
#
#   tests/run.sh             everything
#   tests/run.sh NAME…       only tests whose name contains NAME
#
# Debian packages are installed through apt only where they are absent and only as root; without them (or without root) the tests
# that need them print `SKIP <test>: <reason>`, and the closing line counts those. Where they are installed and root runs it, a reason
# that tests/skips.txt does not know fails the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

# command → package that has it
needed() {
    cat <<'LIST'
cc build-essential
ffmpeg ffmpeg
ffprobe ffmpeg
ip iproute2
nft nftables
mkfs.ext4 e2fsprogs
python3 python3-venv
unshare util-linux
crun crun
busybox busybox-static
faketime faketime
losetup mount
LIST
}

# Packages of which something is absent.
missing() {
    local command package
    while read -r command package; do
        command -v "$command" >/dev/null || echo "$package"
    done < <(needed) | sort -u
}

install_missing() {
    local missing
    mapfile -t missing < <(missing)
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "not installed: ${missing[*]} (needs root and apt-get); tests that want them are skipped"
        return 0
    fi
    say "installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# The client in Python wants grpcio. It goes into an environment below the target directory, which is reused while it fits.
python_client() {
    local wanted=examples/python/requirements.txt dir=${CARGO_TARGET_DIR:-target}/python
    if cmp -s "$wanted" "$dir/installed.txt" && "$dir/bin/python" -c 'import grpc, grpc_tools' 2>/dev/null; then
        conductors_client "$dir"
        return 0
    fi
    say "installing grpcio for the client in Python"
    if ! python3 -m venv --clear "$dir"; then
        echo "SKIP python: python3 has no venv (Debian: python3-venv)"
    elif ! "$dir/bin/pip" install -q --disable-pip-version-check --retries 1 --timeout 20 -r "$wanted"; then
        echo "SKIP python: pip cannot install $(tr '\n' ' ' <"$wanted")"
    else
        cp "$wanted" "$dir/installed.txt"
    fi
    conductors_client "$dir"
}

# Conductor's own client, the independent side of the REST interface, goes into the same environment.
conductors_client() {
    local wanted=examples/conductor/requirements.txt dir=$1
    [ -x "$dir/bin/pip" ] || return 0
    if cmp -s "$wanted" "$dir/installed-conductor.txt" && "$dir/bin/python" -c 'import conductor.client' 2>/dev/null; then
        return 0
    fi
    say "installing conductor-python"
    if ! "$dir/bin/pip" install -q --disable-pip-version-check --retries 1 --timeout 20 -r "$wanted"; then
        echo "SKIP conductor: pip cannot install $(tr '\n' ' ' <"$wanted")"
    else
        cp "$wanted" "$dir/installed-conductor.txt"
    fi
}

check_style() {
    if cargo fmt --version >/dev/null 2>&1; then
        say "format"
        cargo fmt --all --check
    else
        echo "SKIP format: rustfmt is not installed"
    fi
    if cargo clippy --version >/dev/null 2>&1; then
        say "lints"
        cargo clippy --workspace --all-targets --features tests/faults -- -D warnings
    else
        echo "SKIP lints: clippy is not installed"
    fi
}

# Programs of the last stage, for the tests of mixed versions. Built before this tree, which takes their place in the target directory.
build_earlier() {
    say "the earlier build"
    tests/skew.sh --build
}

# The daemons as the tests want them: with crash points and seeded bugs, which a plain build never has.
build() {
    say "build"
    cargo build --workspace --all-targets --features tests/faults
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --features tests/faults --success-output immediate --failure-output immediate "$@"
    else
        cargo test --workspace --features tests/faults --no-fail-fast -- --show-output "$@"
    fi
}

# One line a test while they run; what the failed ones said, and every skip with its reason, at the end.
report() {
    grep --line-buffered -E '^ +(PASS|FAIL|SLOW|TIMEOUT|TERMINATING|LEAK|SIG[A-Z]+|ABORT) |^test |^ +(Starting|Summary) |^error|^test result' || true
}
failures() {
    awk '/^ +PASS / { shown = 0 } /^ +(FAIL|TIMEOUT|SIG[A-Z]+|ABORT|LEAK) / { shown = 1 } shown' "$1"
}

# Skips whose reason is on no list. Whoever lacks root or a tool is not asked.
unknown_skips() {
    [ "$(id -u)" -eq 0 ] && [ -z "$(missing)" ] || return 0
    local line known
    known=$(grep -vE '^(#|$)' tests/skips.txt)
    while IFS= read -r line; do
        [ -z "$line" ] || grep -qxE -- "$known" <<<"${line#SKIP *: }" || echo "$line"
    done
}

PATH=$PATH:/usr/sbin:/sbin
install_missing
python_client
[ $# -gt 0 ] || check_style
[ $# -gt 0 ] || build_earlier
build
say "tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
run_tests "$@" 2>&1 | tee "$log" | report || status=$?
[ "$status" -eq 0 ] || failures "$log"
skips=$(grep -hoE 'SKIP [a-z_:]+: .*' "$log" | sort -u || true)
[ -z "$skips" ] || printf '\n%s\n' "$skips"
grep -E '^ +Summary |^test result' "$log" || true
echo "skipped inside tests for want of root, tools or data: $(grep -c . <<<"$skips" || true)"
unknown=$(unknown_skips <<<"$skips")
if [ -n "$unknown" ]; then
    printf 'skipped without a reason that tests/skips.txt knows:\n%s\n' "$unknown"
    [ "$status" -ne 0 ] || status=1
fi
exit "$status"
