#!/usr/bin/env bash
# From a fresh Debian machine with Rust to three tasks that ran before your eyes: a script, a long-running service that is killed
# and comes back, and a video transcode.
#
#   examples/quickstart.sh          stops everything it started when it is done
#   examples/quickstart.sh --keep   leaves informer, sidecars and the service running, to look around
#
# It installs ffmpeg (and a C compiler for SQLite) through apt, only if absent. All else stays below target/.
set -euo pipefail

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

KEEP=false
for argument in "$@"; do
    case $argument in
        --keep) KEEP=true ;;
        -h | --help) usage; exit 0 ;;
        *) echo "error: unknown argument $argument; there is only --keep" >&2; exit 2 ;;
    esac
done

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=$ROOT/target/quickstart
DEV=

say() { printf '\n== %s\n' "$*"; }
fail() { echo "error: $*" >&2; exit 1; }

# Ends what this script started, and nothing else: `informer dev` ends its sidecars and their tasks.
cleanup() {
    local status=$?
    trap - EXIT
    if [ -n "$DEV" ] && { [ "$KEEP" = false ] || [ "$status" -ne 0 ]; }; then
        kill -TERM "$DEV" 2>/dev/null || true
        wait "$DEV" || true
        rm -f "$RUN/informer.pid"
        [ "$status" -eq 0 ] || [ "$status" -gt 128 ] || echo "the quickstart failed; what the informer and its sidecars said is in $RUN/informer.log" >&2
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Repeats a check, five times a second, until it holds or the seconds are over.
within() {
    local seconds=$1 tries
    shift
    for ((tries = seconds * 5; tries > 0; tries--)); do
        if "$@"; then return 0; fi
        sleep 0.2
    done
    return 1
}

install_missing() {
    local missing=() sudo=()
    { command -v ffmpeg && command -v ffprobe; } >/dev/null || missing+=(ffmpeg)
    command -v cc >/dev/null || missing+=(build-essential)
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "${missing[*]} is missing and there is no apt-get here; install it and run this again"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "${missing[*]} is missing; as root: apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

refuse_second() {
    local pid
    pid=$(cat "$RUN/informer.pid" 2>/dev/null || true)
    if [ -n "$pid" ] && tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$RUN"; then
        fail "an earlier quickstart is still running; stop it by: kill $pid"
    fi
}

build() {
    say "building (the first time takes some minutes)"
    command -v cargo >/dev/null || fail "cargo is missing; install Rust from https://rustup.rs and run this again"
    (cd "$ROOT" && cargo build --release --workspace)
    BIN=$(cd "$ROOT" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/release
}

is_ready() { grep -q '^listening on ' "$RUN/informer.out" || ! kill -0 "$DEV" 2>/dev/null; }
two_sidecars() { [ "$("$BIN/informer" sidecars --json | grep -c '"state": "live"')" -eq 2 ]; }

start() {
    say "starting an informer and two sidecars"
    rm -rf "$RUN"
    mkdir -p "$RUN"
    : >"$RUN/informer.out"
    nohup "$BIN/informer" dev --sidecars 2 --listen 127.0.0.1:0 --data "$RUN" --beat 1s \
        </dev/null >"$RUN/informer.out" 2>"$RUN/informer.log" &
    DEV=$!
    echo "$DEV" >"$RUN/informer.pid"
    within 30 is_ready || fail "the informer was not ready in 30 s"
    INFORMER_URL=$(sed -n 's/^listening on //p' "$RUN/informer.out")
    [ -n "$INFORMER_URL" ] || fail "the informer did not start: $(tail -n 1 "$RUN/informer.log")"
    export INFORMER_URL
    within 30 two_sidecars || fail "two sidecars were not there in 30 s"
    "$BIN/informer" sidecars
}

run_script() {
    say "1. a script: informer run -f examples/tasks/script.toml"
    "$BIN/informer" run -f "$ROOT/examples/tasks/script.toml"
}

# One HTTP request with what every machine has; prints the body.
http_get() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$PORT"
        printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
        sed '1,/^\r$/d' <&3
    ) 2>/dev/null
}

free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    fail "found no free port"
}

is_healthy() { "$BIN/informer" show --json "$SERVICE" | grep -q '"health": "healthy"'; }
answers_as_another() {
    NEW=$(http_get /pid) && [ -n "$NEW" ] && [ "$NEW" != "$OLD" ]
}

run_service() {
    say "2. a service, checked over HTTP: informer submit -f $RUN/service.toml"
    PORT=$(free_port)
    sed -e "s|^cwd = .*|cwd = \"${BIN%/*}\"|" -e "s|target/release/|release/|" -e "s|8089|$PORT|g" \
        "$ROOT/examples/tasks/service.toml" >"$RUN/service.toml"
    SERVICE=$("$BIN/informer" submit -f "$RUN/service.toml")
    within 30 is_healthy || fail "the service was not healthy in 30 s: $("$BIN/informer" why "$SERVICE")"
    OLD=$(http_get /pid)
    [[ $OLD =~ ^[0-9]+$ ]] || fail "the service did not tell its process id"
    echo "healthy on http://127.0.0.1:$PORT: $(http_get /)"

    echo "now its process $OLD is killed: kill -9 $OLD"
    kill -KILL "$OLD"
    within 30 answers_as_another || fail "the service did not come back in 30 s"
    within 30 is_healthy || fail "the service was not healthy again in 30 s"
    echo "restarted as process $NEW, healthy again: $(http_get /)"
    "$BIN/informer" show "$SERVICE"
}

run_transcode() {
    say "3. a transcode of Big Buck Bunny: informer submit -f $RUN/transcode.toml, and informer wait for its progress"
    OUTPUT=$RUN/bigbuckbunny-small.mp4
    sed -e "s|^input = .*|input = \"$ROOT/examples/media/bigbuckbunny.mp4\"|" -e "s|^output = .*|output = \"$OUTPUT\"|" \
        "$ROOT/examples/tasks/transcode.toml" >"$RUN/transcode.toml"
    local transcode duration frames
    transcode=$("$BIN/informer" submit -f "$RUN/transcode.toml")
    "$BIN/informer" wait "$transcode"
    duration=$(ffprobe -v error -show_entries format=duration -of default=noprint_wrappers=1:nokey=1 "$OUTPUT")
    frames=$(ffprobe -v error -select_streams v:0 -count_frames -show_entries stream=nb_read_frames \
        -of default=noprint_wrappers=1:nokey=1 "$OUTPUT")
    echo "output: $OUTPUT"
    echo "probed: $duration s, $frames frames"
}

tell_more() {
    say "all three tasks did what they should"
    "$BIN/informer" list
    if [ "$KEEP" = true ]; then
        cat <<END

Look further:
  export INFORMER_URL=$INFORMER_URL PATH=$BIN:\$PATH
  informer list                     all tasks
  informer show --history $SERVICE
  informer logs -f $SERVICE
  informer run -- echo hello        anything
Stop everything: kill $DEV
END
    else
        cat <<END

Everything is being stopped now; the output, the logs and the data stay in $RUN.
Look further: $0 --keep leaves all of this running and says how to go on; an empty one of your own: $BIN/informer dev
END
    fi
}

refuse_second
install_missing
build
start
run_script
run_service
run_transcode
tell_more
