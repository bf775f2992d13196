#!/usr/bin/env bash
# How fast whole durable tasks run, against a bare spawn loop interleaved in the same run.
# On a journalled ext4 image of its own, because that is what workers have: tests/bench/tasks.sh [TASKS] [ROUNDS] [SLOTS]
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    echo "tasks.sh: mounting the journalled image needs root; run it as root" >&2
    exit 1
fi

cargo build --release --workspace
target=${CARGO_TARGET_DIR:-target}/release
image=$(mktemp --suffix=.ext4)
mount=$(mktemp -d)
cleanup() {
    # The keeper leaves by itself when its directory is gone; unmounting waits for it.
    for _ in $(seq 100); do umount "$mount" 2>/dev/null && break; sleep 0.1; done
    rm -f "$image"
    rmdir "$mount"
}
trap cleanup EXIT

truncate -s 4G "$image"
mkfs.ext4 -q -F -O has_journal "$image"
mount -o loop "$image" "$mount"
TMPDIR=$mount "$target/bench_tasks" "$@"
