"""HyperQueue through its wheel: one server, one worker with two cores, its Python API."""

from importlib import metadata

import driver
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


class HyperQueue(driver.Peer):
    def __init__(self, variant, directory, program, pipe):
        self.name = f"HyperQueue {metadata.version('hyperqueue')}, wheel"
        self.stamped = [program, pipe]
        self.cluster = LocalCluster(server_dir=directory, worker_config=WorkerConfig(cores=2))
        self.client = self.cluster.client()

    def submit(self, argvs):
        job = Job()
        for argv in argvs:
            # Without files for the output: ours has them, here they would only cost.
            job.program(argv, stdout=None, stderr=None)
        return self.client.submit(job)

    def run(self, count):
        self.client.wait_for_jobs([self.submit([["/bin/true"]] * count)])

    def stamp(self, number):
        self.submit([self.stamped + [str(number)]])

    def stop(self):
        self.cluster.stop()


driver.serve(HyperQueue)
