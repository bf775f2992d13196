"""The tasks of the Celery workers; the driver imports them to call them."""

import functools
import os

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=os.environ["BENCH_DURABLE"] == "yes",
    broker_connection_retry_on_startup=True,
)


@functools.cache
def opened(path):
    """A pipe to write to, opened once in each worker process."""
    return os.open(path, os.O_WRONLY)


@app.task
def spawn(argv, tell):
    """Runs a program; then tells so, if it is to."""
    pid = os.posix_spawn(argv[0], argv, {})
    os.waitpid(pid, 0)
    if tell:
        os.write(opened(tell), b".")
