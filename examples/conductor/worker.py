"""A worker of Conductor's, as its own package has them: what it needs of the informer is its address.

It registers two tasks and a workflow of them, works on both, starts the workflow, and prints the id of the run. When its standard input
ends it prints what Conductor's client reads of the run, as one line of JSON, and stops.

    CONDUCTOR_SERVER_URL=http://127.0.0.1:7070/api python worker.py
"""

import json
import logging
import os
import sys
import threading

from conductor.client.automator.task_runner import TaskRunner
from conductor.client.configuration.configuration import Configuration
from conductor.client.configuration.settings.authentication_settings import AuthenticationSettings
from conductor.client.http.models import StartWorkflowRequest, TaskDef, TaskResult
from conductor.client.http.models.task_exec_log import TaskExecLog
from conductor.client.http.models.task_result_status import TaskResultStatus
from conductor.client.orkes.orkes_metadata_client import OrkesMetadataClient
from conductor.client.orkes.orkes_task_client import OrkesTaskClient
from conductor.client.orkes.orkes_workflow_client import OrkesWorkflowClient
from conductor.client.worker.worker import Worker
from conductor.client.workflow.conductor_workflow import ConductorWorkflow
from conductor.client.workflow.executor.workflow_executor import WorkflowExecutor
from conductor.client.workflow.task.simple_task import SimpleTask


def greet(task):
    """Fails the first time that it is asked, so that it is seen to be tried again."""
    result = TaskResult(task_id=task.task_id, workflow_instance_id=task.workflow_instance_id)
    result.logs = [TaskExecLog(f"try {task.retry_count}", task.task_id)]
    if task.retry_count == 0:
        result.status = TaskResultStatus.FAILED
        result.reason_for_incompletion = "not in the mood"
    else:
        result.status = TaskResultStatus.COMPLETED
        result.output_data = {"greeting": f"hello {task.input_data['name']}"}
    return result


def shout(task):
    result = TaskResult(task_id=task.task_id, workflow_instance_id=task.workflow_instance_id)
    result.status = TaskResultStatus.COMPLETED
    result.output_data = {"loud": task.input_data["text"].upper()}
    return result


def settings():
    """The informer's address, and its token where it has one."""
    secret = os.getenv("CONDUCTOR_AUTH_SECRET")
    authentication = AuthenticationSettings(key_id="informer", key_secret=secret) if secret else None
    return Configuration(authentication_settings=authentication, log_level=logging.WARNING)


def register(configuration):
    metadata = OrkesMetadataClient(configuration)
    for name in ("py_greet", "py_shout"):
        definition = TaskDef(name=name, retry_count=2, retry_logic="FIXED", retry_delay_seconds=0)
        definition.timeout_seconds = 0
        definition.response_timeout_seconds = 60
        metadata.register_task_def(definition)
    executor = WorkflowExecutor(configuration)
    workflow = ConductorWorkflow(executor=executor, name="py_greeting", version=1)
    first = SimpleTask("py_greet", "greet").input_parameter("name", workflow.input("name"))
    second = SimpleTask("py_shout", "shout").input_parameter("text", first.output("greeting"))
    workflow.add(first).add(second)
    workflow.output_parameters({"said": second.output("loud")})
    executor.register_workflow(workflow.to_workflow_def(), overwrite=True)
    return executor


def seen(configuration, run):
    """What the client reads of the run, now that it is over."""
    client = OrkesWorkflowClient(configuration)
    workflow = client.get_workflow(run, include_tasks=True)
    tasks = OrkesTaskClient(configuration)
    found = client.search(query="workflowType = 'py_greeting' AND status IN (COMPLETED)")
    return {
        "status": workflow.status,
        "output": workflow.output,
        "tasks": [[task.reference_task_name, task.status, task.retry_count] for task in workflow.tasks],
        "reason": workflow.tasks[0].reason_for_incompletion,
        "log": [line.log for line in tasks.get_task_logs(workflow.tasks[1].task_id)],
        "found": [summary.workflow_id for summary in found.results],
    }


def main():
    configuration = settings()
    executor = register(configuration)
    runners = [
        TaskRunner(Worker("py_greet", greet, poll_interval=100), configuration),
        TaskRunner(Worker("py_shout", shout, poll_interval=100), configuration),
    ]
    threads = [threading.Thread(target=runner.run) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        name = sys.argv[1] if len(sys.argv) > 1 else "Ada"
        request = StartWorkflowRequest(name="py_greeting", version=1, input={"name": name})
        run = executor.start_workflow(request)
        print(run, flush=True)
        sys.stdin.read()
        print(json.dumps(seen(configuration, run)), flush=True)
    finally:
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
