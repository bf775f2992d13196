"""Celery with Redis: two worker processes. Durable: Redis appends and syncs each write, tasks are acknowledged after their end."""

import os
import shutil
import sys
from importlib import metadata

import driver
import redis


class Celery(driver.Peer):
    def __init__(self, variant, directory, program, pipe):
        if not shutil.which("redis-server"):
            raise driver.Skip("redis-server is not installed")
        durable = variant == "durable"
        self.stamped = [program, pipe]
        self.children = driver.Children()
        port = driver.free_port()
        log = os.path.join(directory, "log")
        settings = ["--appendonly", "yes", "--appendfsync", "always"] if durable else []
        argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", directory, *settings]
        driver.wait_port(port, self.children.start(argv, log))
        os.environ["BENCH_BROKER"] = f"redis://127.0.0.1:{port}/0"
        os.environ["BENCH_DURABLE"] = "yes" if durable else "no"
        self.told = os.path.join(directory, "told")
        os.mkfifo(self.told)
        # Open for writing, too, so that it never ends between two writers.
        self.ends = os.open(self.told, os.O_RDWR)
        worker = ["-A", "celery_tasks", "worker", "--concurrency", "2", "--loglevel", "WARNING"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.abspath(__file__)), C_FORCE_ROOT="yes")
        self.children.start([sys.executable, "-m", "celery", *worker, *quiet], log, env=environment)
        # Only now: it reads the environment.
        import celery_tasks

        self.spawn = celery_tasks.spawn
        server = redis.Redis(port=port)
        kept = server.config_get("append*")
        server.close()
        print({name: kept[name] for name in ("appendonly", "appendfsync")}, file=sys.stderr)
        self.name = f"Celery {metadata.version('celery')}, Redis" + (", durable" if durable else "")

    def run(self, count):
        for _ in range(count):
            self.spawn.delay(["/bin/true"], self.told)
        while count > 0:
            count -= len(os.read(self.ends, count))

    def stamp(self, number):
        self.spawn.delay(self.stamped + [str(number)], None)

    def stop(self):
        self.children.stop()


driver.serve(Celery)
