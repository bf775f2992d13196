#!/usr/bin/env bash
# Measures everything that docs/measurements/README.md lists.
#
#   tests/bench/run.sh [--quick] [SECTION…]     sections: throughput latency submit dispatch workflow memory scale peers (default: all)
#
# Root only: each section gets a journalled ext4 image of its own (databases and records of workers lie on such a disk; a tmpfs would
# make every fsync free), and namespaces of its own for mounts, processes and network. The network has loopback alone, so that no
# peer's server can be reached from outside. When a section ends, however it does, its namespace ends every process and mount in it.
#
# Raw output goes to docs/measurements/raw/SECTION.txt (--quick: nowhere but the terminal), tables for the README of that folder to
# stdout. BENCH_SCRATCH names the directory for images (default /var/tmp), BENCH_CACHE the one for the peers' Python packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin:/sbin

sections=(throughput latency submit dispatch workflow memory scale peers)
scratch=${BENCH_SCRATCH:-/var/tmp}
cache=${BENCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/informer-bench}
# A section takes minutes; one that takes longer than this hangs.
longest=45m
# Room for two databases of a million tasks; the file is sparse.
image_size=24G
# Free space that a whole run needs, in MiB: what the largest section really writes.
needed_mib=4096

die() { echo "run.sh: $*" >&2; exit 1; }

quick=()
wanted=()
for argument; do
    case $argument in
    --quick) quick=(--quick) ;;
    *)
        [[ " ${sections[*]} " == *" $argument "* ]] || die "there is no section $argument; there are: ${sections[*]}"
        wanted+=("$argument")
        ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=("${sections[@]}")

[ "$(id -u)" = 0 ] || die "mounting an image and making namespaces needs root; run it as root"
mkdir -p "$scratch"
case $(stat -f -c %T "$scratch") in
tmpfs | ramfs) die "$scratch is a $(stat -f -c %T "$scratch"): databases there are never on a disk; set BENCH_SCRATCH" ;;
esac
free_mib=$(df -m --output=avail "$scratch" | tail -1)
[ "$free_mib" -ge "$needed_mib" ] || die "$scratch has $free_mib MiB free, $needed_mib are needed; set BENCH_SCRATCH"
# Ten thousand links are as many connections at both ends.
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" -ge 11000 ] || echo "run.sh: only $(ulimit -n) open files are allowed; ten thousand links will fail" >&2

cargo build --release --workspace
target=$(realpath "${CARGO_TARGET_DIR:-target}")/release

work=$(mktemp -d "$scratch/informer-bench.XXXXXX")
inside=
cleanup() {
    # The first process of the namespace ends with its parent, and everything in the namespace with it. (A gentler signal is blocked.)
    [ -z "$inside" ] || { kill -KILL "$inside" && wait "$inside"; } 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Peers are installed only for their section; what cannot be had is skipped there, with its reason.
prepare_peers() {
    export BENCH_PEERS=$PWD/tests/bench/peers BENCH_PYTHON=$cache/venv/bin/python PYTHONDONTWRITEBYTECODE=1
    local missing=()
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v gearmand >/dev/null || missing+=(gearman-job-server)
    command -v gearman >/dev/null || missing+=(gearman-tools)
    if [ ${#missing[@]} -gt 0 ] && command -v apt-get >/dev/null; then
        install_quietly "${missing[@]}" || echo "run.sh: apt-get could not install ${missing[*]}"
    fi
    "$BENCH_PYTHON" -c 'import celery, hyperqueue, redis' 2>/dev/null && return
    mkdir -p "$cache"
    if ! { python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install -q hyperqueue 'celery[redis]'; }; then
        echo "run.sh: pip could not install hyperqueue and celery[redis] into $cache/venv"
    fi
}

# Debian starts a server that it installs; nobody asked for that.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d made= status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=yes
    fi
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } >/dev/null || status=$?
    [ -z "$made" ] || rm -f "$policy"
    return "$status"
}

describe() {
    echo "section $1, $(date -u +%FT%TZ), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet -- . ':!docs' 2>/dev/null || echo ', with changes')"
    echo "$(uname -srm), $(nproc) processors: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    echo "memory $(awk '/MemTotal/ { printf "%.0f MiB", $2 / 1024 }' /proc/meminfo), load before $(cut -d' ' -f1-3 /proc/loadavg)"
    echo "$(rustc --version), release build; image on $(stat -f -c %T "$scratch"), sparse, ext4 with a journal, by loop device"
}

run_section() {
    local section=$1 image=$work/image mount=$work/mount
    rm -f "$image"
    mkdir -p "$mount"
    truncate -s "$image_size" "$image"
    mkfs.ext4 -q -F -O has_journal "$image"
    describe "$section"
    # `$0` and so on are the arguments below. The mount is gone with the namespace, and its loop device with the mount.
    unshare --mount --pid --net --fork --kill-child --mount-proc bash -euc '
        mount -o loop "$1" "$2"
        ip link set lo up
        export TMPDIR=$2/tmp
        mkdir "$TMPDIR"
        grep -F " $2 " /proc/mounts
        shift 2
        timeout --kill-after=10s "$@"
    ' bench "$image" "$mount" "$longest" "$target/bench" "$section" "${quick[@]}" &
    inside=$!
    local status=0
    wait "$inside" || status=$?
    inside=
    rm -f "$image"
    echo "load after $(cut -d' ' -f1-3 /proc/loadavg)"
    return "$status"
}

raw=docs/measurements/raw
[ ${#quick[@]} -gt 0 ] || mkdir -p "$raw"
failed=()
for section in "${wanted[@]}"; do
    [ "$section" != peers ] || prepare_peers
    out=/dev/null
    [ ${#quick[@]} -gt 0 ] || out=$raw/$section.txt
    # Not in a pipeline: the shell that waits must be this one, which cleans up.
    run_section "$section" > >(tee "$out") 2>&1 || failed+=("$section")
    wait
done
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
