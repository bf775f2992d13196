"""Gearman from Debian: gearmand, and two workers of gearman-tools for each function. Jobs are background jobs, for only those are kept
by its persistent queue."""

import os
import shutil
import socket
import struct
import subprocess
import time

import driver

# Packet types of the protocol.
JOB_CREATED = 8
SUBMIT_JOB_BG = 18
ERROR = 19
# Jobs submitted before their answers are read: fewer than would fill both sockets' buffers.
WINDOW = 256


class Gearman(driver.Peer):
    def __init__(self, variant, directory, program, pipe):
        for command in ("gearmand", "gearman"):
            if not shutil.which(command):
                raise driver.Skip(f"{command} is not installed")
        self.children = driver.Children()
        port = driver.free_port()
        queue = {"builtin": [], "sqlite": ["-q", "libsqlite3", f"--libsqlite3-db={directory}/queue.db"]}[variant]
        log = os.path.join(directory, "gearmand.log")
        argv = ["gearmand", "-L", "127.0.0.1", "-p", str(port), "-l", log, "-P", os.path.join(directory, "pid"), *queue]
        server = self.children.start(argv, log)
        driver.wait_port(port, server)
        for function, command in (("true", ["/bin/true"]), ("stamp", [program, pipe, "-"])):
            for _ in range(2):
                self.children.start(
                    ["gearman", "-h", "127.0.0.1", "-p", str(port), "-w", "-f", function, "--", *command], log
                )
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.admin = socket.create_connection(("127.0.0.1", port)).makefile("rw", buffering=1)
        self.unique = 0
        self.wait_workers()
        version = subprocess.run(["gearmand", "-V"], capture_output=True, text=True).stdout.split()
        self.name = f"Gearman {version[1].rstrip(',') if len(version) > 1 else ''}, {variant} queue"

    def status(self):
        """Of each function: jobs not ended, and workers."""
        print("status", file=self.admin, flush=True)
        functions = {}
        for line in iter(self.admin.readline, ".\n"):
            name, total, _, workers = line.split("\t")
            functions[name] = (int(total), int(workers))
        return functions

    def wait_workers(self):
        for _ in range(600):
            if all(self.status().get(function, (0, 0))[1] >= 2 for function in ("true", "stamp")):
                return
            time.sleep(0.05)
        raise driver.Skip("its workers do not come")

    def submit(self, function, payload=b""):
        self.unique += 1
        body = b"%s\0%d\0%s" % (function, self.unique, payload)
        self.socket.sendall(b"\0REQ" + struct.pack(">II", SUBMIT_JOB_BG, len(body)) + body)

    def read(self, length):
        while len(self.buffer) < length:
            more = self.socket.recv(1 << 16)
            if not more:
                raise OSError("gearmand closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def answer(self):
        kind, length = struct.unpack(">4xII", self.read(12))
        body = self.read(length)
        if kind != JOB_CREATED:
            raise OSError(f"gearmand answered {kind}: {body}")

    def run(self, count):
        for done in range(count):
            if done >= WINDOW:
                self.answer()
            self.submit(b"true")
        for _ in range(min(count, WINDOW)):
            self.answer()
        # It tells nobody of the end of a background job but who asks; often enough not to show in seconds.
        while self.status()["true"][0] > 0:
            time.sleep(0.002)

    def stamp(self, number):
        self.submit(b"stamp", b"%d" % number)
        self.answer()

    def stop(self):
        self.children.stop()


driver.serve(Gearman)
