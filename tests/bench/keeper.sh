#!/bin/bash
# How fast the keeper starts processes, against a bare posix_spawn loop interleaved in the same run.
# On a journalled ext4 image of its own, because that is what workers have: tests/bench/keeper.sh [STARTS] [ROUNDS] [IN_FLIGHT]
set -eu
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "keeper.sh: mounting the journalled image needs root; run it as root" >&2
    exit 1
fi

cargo build --release -p keeper --bins --examples
target=${CARGO_TARGET_DIR:-target}/release
image=$(mktemp --suffix=.ext4)
mount=$(mktemp -d)
cleanup() {
    # The keeper leaves by itself when the bench ends; unmounting waits for it.
    for _ in $(seq 100); do umount "$mount" 2>/dev/null && break; sleep 0.1; done
    rm -f "$image"
    rmdir "$mount"
}
trap cleanup EXIT

truncate -s 2G "$image"
mkfs.ext4 -q -F -O has_journal "$image"
mount -o loop "$image" "$mount"
mkdir "$mount/data"
"$target/examples/spawn_rate" "$mount/data" "$target/keeper" "$@"
