#!/usr/bin/env python3
"""A client of the informer: submits a command or an array of it, waits, and prints what it wrote.

    client.py [--array FIRST-LAST] COMMAND ARGUMENT...
"""

import argparse
import os
import pathlib
import sys
import uuid

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parents[1] / "proto"
STUBS = pathlib.Path(os.environ.get("INFORMER_STUBS", HERE / "stubs"))


def make_stubs():
    """Translates the schema into Python; a second is spent once."""
    files = ["informer/v1/task.proto", "informer/v1/informer.proto"]
    if not (STUBS / "informer/v1/informer_pb2_grpc.py").exists():
        STUBS.mkdir(parents=True, exist_ok=True)
        outputs = [f"--python_out={STUBS}", f"--grpc_python_out={STUBS}"]
        if protoc.main(["protoc", f"-I{PROTO}", *outputs, *files]) != 0:
            sys.exit("the schema cannot be translated; is this file still in its repository?")
    sys.path.insert(0, str(STUBS))


make_stubs()
from informer.v1 import informer_pb2 as api  # noqa: E402
from informer.v1 import informer_pb2_grpc as calls  # noqa: E402
from informer.v1 import task_pb2 as tasks  # noqa: E402


def connect():
    url = os.environ.get("INFORMER_URL", "http://127.0.0.1:7070")
    channel = grpc.insecure_channel(url.removeprefix("http://"))
    return calls.InformerStub(channel)


def submit(informer, argv):
    """Answers with the task's id. The key makes a repeat harmless."""
    spec = tasks.TaskSpec(command=tasks.Command(argv=argv))
    return informer.Submit(api.SubmitRequest(spec=spec, key=str(uuid.uuid4()))).id


def submit_array(informer, argv, first, last):
    """One call, whose first message is the head; members without items need no other."""
    spec = tasks.TaskSpec(command=tasks.Command(argv=argv))
    head = api.ArrayHead(spec=spec, key=str(uuid.uuid4()), first=first, count=last - first + 1)
    return informer.SubmitArray(iter([api.SubmitArrayRequest(head=head)])).id


def wait(informer, task):
    """The task at its end: a watch tells each change and ends with the task."""
    last = None
    for last in informer.Watch(api.WatchRequest(ids=[task])):
        pass
    return last


def write_log(informer, task):
    """Both streams, bytes unchanged."""
    for chunk in informer.Logs(api.LogsRequest(id=task, follow=True)):
        stream = sys.stderr if chunk.stream == api.LOG_STREAM_ERR else sys.stdout
        stream.buffer.write(chunk.data)
        stream.flush()
        if chunk.end:
            break


def exit_code(task):
    if task.state == tasks.TASK_STATE_SUCCEEDED:
        return 0
    ending = task.attempts[-1].ending if task.attempts else None
    return ending.exit_code if ending and ending.HasField("exit_code") else 1


def main():
    parser = argparse.ArgumentParser(description="Submits a command to the informer and waits for it.")
    parser.add_argument("--array", metavar="FIRST-LAST", help="so many members of it, each with its INFORMER_ARRAY_INDEX")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("name a command")
    informer = connect()
    try:
        if not arguments.array:
            task = submit(informer, arguments.command)
            write_log(informer, task)
            return exit_code(wait(informer, task))
        first, last = (int(number) for number in arguments.array.split("-"))
        array = submit_array(informer, arguments.command, first, last)
        ended = wait(informer, array)
        for index in range(first, last + 1):
            write_log(informer, f"{array}.{index}")
        return exit_code(ended)
    except grpc.RpcError as error:
        print(f"client: {error.details()}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
