#!/usr/bin/env bash
# Builds an earlier commit and runs the tests in which its programs and this tree's work together (tests/tests/skew.rs).
#
#   tests/skew.sh [COMMIT]     COMMIT: the first one in tests/earlier.txt unless given
#   tests/skew.sh --build      only builds; tests/run.sh does that before it builds this tree
#
# The earlier programs go to <target>/earlier/COMMIT, where a second run finds them. They are built in the same target directory as
# this tree, so that what both depend on is built once; therefore this tree is built after them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

only_build=
commit=
for argument; do
    case $argument in
        --build) only_build=1 ;;
        -*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
        *) commit=$argument ;;
    esac
done
[ -n "$commit" ] || commit=$(sed 's/#.*//' tests/earlier.txt | awk 'NF { print $1; exit }')

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
earlier=$target/earlier/$commit

have() { [ -x "$earlier/informer" ] && [ -x "$earlier/sidecar" ] && [ -x "$earlier/keeper" ]; }

build_earlier() {
    local source=$target/earlier/source status=0 name
    git worktree remove --force "$source" 2>/dev/null || true
    git worktree add --quiet --force --detach "$source" "$commit"
    (cd "$source" && CARGO_TARGET_DIR=$target cargo build -p informer -p sidecar -p keeper --bins) || status=$?
    # Links: the next build of this tree puts new files in the place of these and leaves them alone.
    mkdir -p "$earlier"
    [ "$status" -ne 0 ] || for name in informer sidecar keeper; do ln -f "$target/debug/$name" "$earlier/$name"; done
    git worktree remove --force "$source"
    return "$status"
}

if ! have; then
    if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
        echo "SKIP skew: commit $commit is not in this clone (a shallow one?)"
        exit 0
    fi
    build_earlier
fi
[ -z "$only_build" ] || exit 0
cargo build --workspace --features tests/faults
export EARLIER_BIN=$earlier
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run -p tests --features faults -E 'binary(skew)'
else
    cargo test -p tests --features faults --test skew
fi
