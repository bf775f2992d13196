"""The lines that a driver speaks with the benchmark; tests/src/bin/bench/peer.rs describes them."""

import os
import signal
import socket
import subprocess
import sys
import time


class Peer:
    """What a driver has to offer. `name` is what the tables say."""

    name = ""

    def run(self, count):
        """Runs /bin/true so often, to the last end."""
        raise NotImplementedError

    def stamp(self, number):
        """Asks, by one call, for one process that leaves the stamp of this number."""
        raise NotImplementedError

    def stop(self):
        """Ends what was started."""


class Skip(Exception):
    """This peer cannot be had here, and why."""


class Children:
    """Processes of a driver; ended in the reverse order of their start."""

    def __init__(self):
        self.started = []

    def start(self, argv, log, **options):
        file = open(log, "ab")
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **options)
        self.started.append(child)
        return child

    def stop(self):
        for child in reversed(self.started):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def free_port():
    """A port of the loopback interface that nobody has now; the namespace is ours, so nobody takes it meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_port(port, child):
    """Waits until a server listens."""
    for _ in range(600):
        if child.poll() is not None:
            raise Skip(f"{child.args[0]} ended with {child.returncode}")
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    raise Skip(f"{child.args[0]} does not listen")


def serve(make):
    """Makes the peer of the arguments (variant, directory, stamp program, pipe) and does as it is told until stdin ends."""
    # What libraries print must not come between our lines.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        peer = make(*sys.argv[1:5])
    except (Skip, ImportError, OSError) as error:
        print(f"skip {error}", file=out)
        return
    try:
        print(f"ready {peer.name}", file=out)
        for line in sys.stdin:
            verb, *numbers = line.split()
            if verb == "run":
                begin = time.monotonic()
                peer.run(int(numbers[0]))
                print(f"done {time.monotonic() - begin}", file=out)
            elif verb == "stamp":
                first, count = map(int, numbers)
                calls = []
                for number in range(first, first + count):
                    calls.append(time.time_ns())
                    peer.stamp(number)
                print("called", *calls, file=out)
            else:
                raise ValueError(line)
    finally:
        peer.stop()
