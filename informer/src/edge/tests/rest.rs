//! Conductor's REST interface, spoken by hand.

use super::front::dialogue;
use super::*;
use proto::v1::workflow_service_client::WorkflowServiceClient;
use serde_json::{Value, json};

/// An answer: its status, its head, and its body.
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The JSON of an answer that must be a success.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// The text of one.
    fn text(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.body);
        &self.body
    }

    fn ignored(&self) -> bool {
        self.head.contains("x-informer-ignored: ")
    }
}

async fn call(world: &World, method: &str, path: &str, body: &Value) -> Said {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head =
        format!("{method} /api{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json");
    let said = dialogue(world, format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {said:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Said { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get(world: &World, path: &str) -> Said {
    call(world, "GET", path, &Value::Null).await
}

fn simple(name: &str) -> Value {
    json!({"name": name, "taskReferenceName": format!("{name}_ref"), "type": "SIMPLE", "inputParameters": {"n": "${workflow.input.n}"}})
}

/// A world in which this workflow is registered.
async fn registered(tasks: Value) -> World {
    let world = World::new().await;
    let definition =
        json!({"name": "w", "version": 1, "tasks": tasks, "outputParameters": {"said": "${a_ref.output.said}"}});
    assert_eq!(call(&world, "POST", "/metadata/workflow", &definition).await.status, 200);
    let tasks = json!([{"name": "a", "retryCount": 1, "retryDelaySeconds": 0, "timeoutSeconds": 0, "responseTimeoutSeconds": 30}]);
    assert_eq!(call(&world, "POST", "/metadata/taskdefs", &tasks).await.status, 200);
    world
}

async fn start(world: &World, input: Value) -> String {
    let request =
        json!({"name": "w", "input": input, "correlationId": "c-1", "createdBy": "ada", "labels": {"team": "film"}});
    call(world, "POST", "/workflow", &request).await.text().to_owned()
}

/// What a page says once it says what is wanted. A step that changes tells nobody, so the page is asked until then.
async fn once(world: &World, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let looked = async {
        loop {
            let page = get(world, path).await.ok();
            if wanted(&page) {
                return page;
            }
        }
    };
    timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("{path} does not come to it"))
}

/// Waits until so many tasks of a name wait for a worker.
async fn queued(world: &World, name: &str, count: u64) {
    once(world, &format!("/tasks/queue/size?taskType={name}"), |size| *size == count).await;
}

/// Waits until a HUMAN is waited for.
async fn asked(world: &World, id: &str) {
    let waits = |why: &Value| why["tasks"][0]["why"].as_str().is_some_and(|why| why.contains("somebody's word"));
    once(world, &format!("/workflow/{id}/why"), waits).await;
}

/// A run once it is over.
async fn over(world: &World, id: &str) -> Value {
    let mut grpc = WorkflowServiceClient::new(world.channel.clone());
    let over = timeout(PATIENCE, grpc.wait(v1::GetRunRequest { id: id.to_owned() })).await;
    over.expect("in time").expect("it ends");
    get(world, &format!("/workflow/{id}")).await.ok()
}

/// Polls until there is a task.
async fn take(world: &World, name: &str) -> Value {
    let taken = get(world, &format!("/tasks/poll/batch/{name}?count=1&timeout=30000&workerid=me")).await.ok();
    taken[0].clone()
}

#[tokio::test]
async fn definitions_come_back_as_they_were_registered() {
    let world = registered(json!([simple("a")])).await;
    let definition = get(&world, "/metadata/workflow/w").await.ok();
    assert_eq!((&definition["name"], &definition["version"]), (&json!("w"), &json!(1)));
    assert_eq!(definition["tasks"][0]["taskReferenceName"], "a_ref");
    assert!(definition["createTime"].as_u64().is_some_and(|time| time > 0));

    let other = json!({"name": "w", "version": 1, "tasks": [simple("b")]});
    let refused = call(&world, "POST", "/metadata/workflow", &other).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("definition_conflict")), "{}", refused.body);
    let put =
        call(&world, "PUT", "/metadata/workflow", &json!([other, {"name": "v", "tasks": [simple("a")]}])).await.ok();
    assert_eq!(put["bulkSuccessfulResults"], json!(["w", "v"]));
    assert_eq!(get(&world, "/metadata/workflow").await.ok().as_array().map(Vec::len), Some(2));
    assert_eq!(get(&world, "/metadata/workflow/names-and-versions").await.ok()["v"][0]["version"], 1);
    let refused =
        call(&world, "PUT", "/metadata/workflow", &json!([{"name": "k", "tasks": [{"type": "KAFKA_PUBLISH"}]}])).await;
    assert!(refused.status == 400 && refused.body.contains("$.tasks[0]"), "{}", refused.body);

    assert_eq!(get(&world, "/metadata/taskdefs/a").await.ok()["retryCount"], 1);
    let task = json!({"name": "a", "retryCount": 2, "timeoutSeconds": 0});
    assert_eq!(call(&world, "PUT", "/metadata/taskdefs", &task).await.status, 200);
    assert_eq!(get(&world, "/metadata/taskdefs").await.ok()[0]["retryCount"], 2);
    for (path, status) in [
        ("/metadata/taskdefs/a", 200),
        ("/metadata/taskdefs/a", 404),
        ("/metadata/workflow/w/1", 200),
        ("/metadata/workflow/w/1", 404),
        ("/metadata/workflow/w/x", 400),
    ] {
        assert_eq!(call(&world, "DELETE", path, &Value::Null).await.status, status, "{path}");
    }
    assert_eq!(get(&world, "/metadata/workflow/w").await.status, 404);
}

#[tokio::test]
async fn a_worker_polls_fails_logs_and_completes() {
    let world = registered(json!([simple("a"), simple("a2")])).await;
    let id = start(&world, json!({"n": 7})).await;
    let first = take(&world, "a").await;
    assert_eq!((&first["workflowInstanceId"], &first["inputData"]), (&json!(id), &json!({"n": 7})), "{first}");
    assert_eq!(
        (&first["status"], &first["workerId"], &first["responseTimeoutSeconds"]),
        (&json!("IN_PROGRESS"), &json!("me"), &json!(30))
    );
    assert_eq!(get(&world, "/tasks/poll/a").await.status, 204, "somebody has it");

    let first = first["taskId"].as_str().expect("an id");
    let failed = json!({"taskId": first, "workflowInstanceId": id, "status": "FAILED", "reasonForIncompletion": "it\nbroke",
        "logs": [{"log": "half done", "taskId": first, "createdTime": 1}]});
    assert_eq!(call(&world, "POST", "/tasks", &failed).await.text(), first);
    let second = take(&world, "a").await;
    assert_eq!(second["retryCount"], 1, "{second}");
    let second = second["taskId"].as_str().expect("an id");
    assert!(call(&world, "POST", "/tasks", &failed).await.ignored(), "its try is over");

    assert_eq!(call(&world, "POST", &format!("/tasks/{second}/log"), &json!("a line")).await.status, 200);
    assert_eq!(get(&world, &format!("/tasks/{second}/log")).await.ok()[0]["log"], "a line");
    assert_eq!(get(&world, &format!("/tasks/{first}/log")).await.ok()[0]["log"], "half done");
    let extended =
        json!({"taskId": second, "status": "IN_PROGRESS", "extendLease": true, "outputData": {"half": true}});
    assert_eq!(call(&world, "POST", "/tasks", &extended).await.text(), second);
    assert_eq!(get(&world, &format!("/tasks/{second}")).await.ok()["outputData"], json!({"half": true}));

    let done = json!({"taskId": second, "workerId": "me", "status": "COMPLETED", "outputData": {"said": "hello"}});
    assert_eq!(call(&world, "POST", "/tasks/update-v2", &done).await.status, 204, "no other task of this name");
    let next = take(&world, "a2").await;
    let done = json!({"taskId": next["taskId"], "status": "COMPLETED"});
    assert_eq!(call(&world, "POST", "/tasks", &done).await.status, 200);

    let run = over(&world, &id).await;
    assert_eq!((&run["status"], &run["output"]), (&json!("COMPLETED"), &json!({"said": "hello"})), "{run}");
    assert_eq!((&run["correlationId"], &run["workflowDefinition"]["name"]), (&json!("c-1"), &json!("w")));
    let tasks: Vec<_> = run["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|task| (task["referenceTaskName"].clone(), task["status"].clone()))
        .collect();
    assert_eq!(json!(tasks), json!([["a_ref", "FAILED"], ["a_ref", "COMPLETED"], ["a2_ref", "COMPLETED"]]));
    assert_eq!(run["tasks"][0]["reasonForIncompletion"], "it broke");
    assert_eq!(run["tasks"][1]["retriedTaskId"], first);
    assert!(
        get(&world, &format!("/workflow/{id}?includeTasks=False")).await.ok()["tasks"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
}

#[tokio::test]
async fn the_next_task_of_the_same_name_comes_with_the_answer() {
    let mut again = simple("a");
    again["taskReferenceName"] = json!("again");
    let world = registered(json!([simple("a"), again])).await;
    let id = start(&world, json!({})).await;
    let first = take(&world, "a").await;
    // Whatever there is of the name will do: here it is another run's.
    let other = start(&world, json!({})).await;
    queued(&world, "a", 1).await;
    let done = json!({"taskId": first["taskId"], "workerId": "me", "status": "COMPLETED"});
    let next = call(&world, "POST", "/tasks/update-v2", &done).await.ok();
    assert!(
        next["taskId"] != first["taskId"] && (next["workflowInstanceId"] == id || next["workflowInstanceId"] == other),
        "{next}"
    );
    assert_eq!((&next["status"], &next["workerId"]), (&json!("IN_PROGRESS"), &json!("me")));
}

#[tokio::test]
async fn who_leaves_before_the_answer_leaves_the_task_for_others() {
    let world = registered(json!([simple("a")])).await;
    let handle = world.server.handle();
    let mut left = Box::pin(handle.poll(vec!["a".to_owned()], "gone".to_owned(), 1, 30_000));
    let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(left.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "there is nothing yet");
    drop(left);
    start(&world, json!({})).await;
    assert_eq!(take(&world, "a").await["workerId"], "me");
}

#[tokio::test]
async fn runs_are_operated_as_conductors_clients_do() {
    let human = json!({"name": "h", "taskReferenceName": "human", "type": "HUMAN"});
    let world = registered(json!([human, simple("a")])).await;
    let id = start(&world, json!({"n": 1})).await;
    asked(&world, &id).await;
    let put = async |path: &str| call(&world, "PUT", &format!("/workflow/{id}/{path}"), &Value::Null).await;
    assert_eq!(put("pause").await.status, 200);
    assert!(put("pause").await.ignored());
    assert_eq!(get(&world, &format!("/workflow/{id}/status")).await.ok()["status"], "PAUSED");
    assert_eq!(put("resume").await.status, 200);
    let early = call(&world, "POST", &format!("/tasks/{id}/a_ref/COMPLETED"), &json!({})).await;
    assert_eq!((early.status, &early.json()["code"]), (409, &json!("state")), "{}", early.body);
    assert_eq!(call(&world, "POST", &format!("/tasks/{id}/nobody/COMPLETED"), &json!({})).await.status, 409);
    let said = call(&world, "POST", &format!("/tasks/{id}/human/COMPLETED"), &json!({"by": "hand"})).await;
    assert_eq!(said.text(), format!("{id}.0"));
    assert!(call(&world, "POST", &format!("/tasks/{id}/human/COMPLETED"), &json!({})).await.ignored());

    let task = take(&world, "a").await;
    let fatal =
        json!({"taskId": task["taskId"], "status": "FAILED_WITH_TERMINAL_ERROR", "reasonForIncompletion": "no"});
    assert_eq!(call(&world, "POST", "/tasks", &fatal).await.status, 200);
    let failed = over(&world, &id).await;
    assert_eq!(
        (&failed["status"], &failed["failedReferenceTaskNames"]),
        (&json!("FAILED"), &json!(["a_ref"])),
        "{failed}"
    );
    assert_eq!(call(&world, "POST", &format!("/workflow/{id}/retry"), &Value::Null).await.status, 204);
    let task = take(&world, "a").await;
    assert_eq!(
        call(&world, "DELETE", &format!("/workflow/{id}?reason=enough%20of%20it"), &Value::Null).await.status,
        200
    );
    let ended = over(&world, &id).await;
    assert_eq!((&ended["status"], &ended["reasonForIncompletion"]), (&json!("TERMINATED"), &json!("enough of it")));
    assert!(call(&world, "POST", "/tasks", &json!({"taskId": task["taskId"], "status": "COMPLETED"})).await.ignored());

    let rerun = json!({"reRunFromWorkflowId": id, "reRunFromTaskId": task["taskId"], "taskInput": {"n": 2}});
    assert_eq!(call(&world, "POST", &format!("/workflow/{id}/rerun"), &rerun).await.text(), id);
    assert_eq!(take(&world, "a").await["inputData"], json!({"n": 2}));
    call(&world, "DELETE", &format!("/workflow/{id}"), &Value::Null).await;
    over(&world, &id).await;
    assert_eq!(call(&world, "POST", &format!("/workflow/{id}/restart"), &Value::Null).await.status, 204);
    asked(&world, &id).await;
    let skip = json!({"taskOutput": {"said": "left out"}});
    assert_eq!(call(&world, "PUT", &format!("/workflow/{id}/skiptask/a_ref"), &skip).await.status, 200);
    let shown = call(&world, "POST", &format!("/tasks/{id}/human/COMPLETED/sync"), &json!({})).await.ok();
    assert_eq!(shown["workflowId"], id);
    let executed = json!({"input": {}});
    let run = call(&world, "POST", "/workflow/execute/w/1?requestId=q&waitForSeconds=0", &executed).await.ok();
    assert_eq!((&run["status"], &run["requestId"]), (&json!("RUNNING"), &json!("q")));
    let again = call(&world, "POST", "/workflow/execute/w/1?requestId=q&waitForSeconds=0", &executed).await.ok();
    assert_eq!(again["workflowId"], run["workflowId"], "the same request is the same run");
}

#[tokio::test]
async fn keys_make_a_start_harmless_or_refuse_it() {
    let world = registered(json!([simple("a")])).await;
    let request = |strategy: &str, n: u32| json!({"name": "w", "input": {"n": n}, "idempotencyKey": "k", "idempotencyStrategy": strategy});
    let first = call(&world, "POST", "/workflow", &request("RETURN_EXISTING", 1)).await;
    let again = call(&world, "POST", "/workflow", &request("RETURN_EXISTING", 1)).await;
    assert_eq!(first.text(), again.text());
    for (strategy, n, status) in [("FAIL", 1, 409), ("RETURN_EXISTING", 2, 409), ("FAIL_ON_RUNNING", 1, 501)] {
        assert_eq!(call(&world, "POST", "/workflow", &request(strategy, n)).await.status, status, "{strategy}");
    }
}

#[tokio::test]
async fn runs_and_tasks_are_found() {
    let world = registered(json!([simple("a")])).await;
    let (one, two) = (start(&world, json!({"film": "alpha"})).await, start(&world, json!({"film": "beta"})).await);
    queued(&world, "a", 2).await;
    let found = async |path: &str| {
        let page = get(&world, path).await.ok();
        let ids: Vec<_> =
            page["results"].as_array().expect("results").iter().map(|run| run["workflowId"].clone()).collect();
        (page["totalHits"].as_u64().expect("hits"), json!(ids))
    };
    assert_eq!(
        found("/workflow/search?query=workflowType%3D%27w%27+AND+status+IN+(RUNNING)").await,
        (2, json!([two, one]))
    );
    assert_eq!(found("/workflow/search?start=1&size=1").await, (2, json!([one])));
    assert_eq!(found("/workflow/search?freeText=beta").await, (1, json!([two])));
    assert_eq!(found("/workflow/search?query=input.film%3Dalpha+AND+labels.team%3Dfilm").await, (1, json!([one])));
    assert_eq!(found("/workflow/search?freeText=*&query=status%3DFAILED").await, (0, json!([])));
    assert_eq!(
        found(&format!("/workflow/search?query=workflowId+IN+({one},{two})+AND+correlationId%3Dc-1")).await.0,
        2
    );
    assert_eq!(get(&world, "/workflow/search?query=nothing%3D1").await.status, 400);
    assert_eq!(get(&world, "/workflow/running/w").await.ok(), json!([two, one]));
    assert_eq!(get(&world, "/workflow/w/correlated/c-1").await.ok().as_array().map(Vec::len), Some(2));
    assert_eq!(get(&world, "/tasks/queue/sizes?taskType=a&taskType=b").await.ok(), json!({"a": 2, "b": 0}));
    assert_eq!(get(&world, "/tasks/queue/size?taskType=a").await.ok(), 2);
    let tasks = get(&world, &format!("/tasks/search?query=workflowId%3D{one}+AND+taskType%3Da+AND+status%3DSCHEDULED"))
        .await
        .ok();
    assert_eq!((&tasks["totalHits"], &tasks["results"][0]["taskId"]), (&json!(1), &json!(format!("{one}.0"))));
    assert_eq!(get(&world, "/tasks/search?query=status%3DSCHEDULED").await.status, 501);
    let page = get(&world, &format!("/workflow/{one}/tasks?start=0&count=5&status=SCHEDULED")).await.ok();
    assert_eq!((&page["totalHits"], &page["results"][0]["taskId"]), (&json!(1), &json!(format!("{one}.0"))));
}

#[tokio::test]
async fn charts_histories_and_reasons_are_told() {
    let world = registered(json!([simple("a")])).await;
    let id = start(&world, json!({})).await;
    queued(&world, "a", 1).await;
    let chart = get(&world, &format!("/workflow/{id}/chart")).await.ok();
    assert_eq!((&chart["run"]["id"], &chart["nodes"][1]["state"]), (&json!(id), &json!("SCHEDULED")), "{chart}");
    let picture = get(&world, &format!("/workflow/{id}/chart.svg")).await;
    assert!(picture.head.contains("image/svg+xml") && picture.body.starts_with("<svg"), "{}", picture.head);
    let plain = get(&world, "/metadata/workflow/w/chart").await.ok();
    assert_eq!((&plain["workflow"], plain.get("run")), (&json!("w"), None));
    assert!(get(&world, "/metadata/workflow/w/chart.svg?version=1").await.body.starts_with("<svg"));
    let why = get(&world, &format!("/workflow/{id}/why")).await.ok();
    assert!(why["tasks"][0]["why"].as_str().is_some_and(|why| why.contains("no worker has polled")), "{why}");
    let history = get(&world, &format!("/workflow/{id}/history?count=1")).await.ok();
    assert_eq!((&history["events"][0]["kind"], &history["next"]), (&json!("started"), &json!(1)));
    assert_eq!(get(&world, "/workflow/none/chart").await.status, 404);
}

#[tokio::test]
async fn what_is_wrong_or_not_served_is_told_as_conductor_tells_it() {
    let world = registered(json!([simple("a")])).await;
    let refused = get(&world, "/workflow/nobody").await;
    let told = refused.json();
    assert_eq!(
        (refused.status, &told["status"], &told["code"], &told["retryable"]),
        (404, &json!(404), &json!("unknown_run"), &json!(false))
    );
    let domains = json!({"name": "w", "taskToDomain": {"*": "d"}});
    assert_eq!(call(&world, "POST", "/workflow", &domains).await.status, 501);
    for (method, path, status) in [
        ("GET", "/tasks/poll/a?domain=d", 501),
        ("PUT", "/workflow/bulk/pause", 501),
        ("GET", "/event", 501),
        ("GET", "/nothing", 404),
        ("GET", "/tasks/nobody.1", 404),
        ("GET", "/tasks/nonsense", 404),
        ("POST", "/tasks", 400),
        ("PATCH", "/workflow", 405),
        ("GET", "/tasks/poll/batch/a?count=x", 400),
        ("GET", "/workflow/search?size=1000000", 400),
    ] {
        let said = call(&world, method, path, &Value::Null).await;
        assert_eq!(said.status, status, "{method} {path}: {}", said.body);
    }
    let large = json!({"x": "y".repeat(proto::bounds::RUN_INPUT_BYTES)});
    assert_eq!(call(&world, "POST", "/workflow/w", &large).await.status, 413);
    let run = call(&world, "POST", "/workflow/w?correlationId=c&priority=3", &json!({"n": 1})).await;
    let shown = get(&world, &format!("/workflow/{}", run.text())).await.ok();
    assert_eq!((&shown["priority"], &shown["correlationId"]), (&json!(3), &json!("c")));
    let missing = call(&world, "POST", "/workflow/none", &json!({})).await;
    assert!(missing.status == 400 && missing.body.contains("informer workflow put"), "{}", missing.body);
}

#[tokio::test]
async fn pages_of_others_in_a_browser_may_not_call() {
    let world = registered(json!([simple("a")])).await;
    let status = async |header: &str| {
        let head = format!("GET /api/metadata/workflow/w HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n");
        let said = dialogue(&world, head.as_bytes()).await;
        said.split(' ').nth(1).map(str::to_owned)
    };
    for (header, wanted) in [
        ("Origin: http://evil.example", "403"),
        ("Sec-Fetch-Site: cross-site", "403"),
        ("Sec-Fetch-Site: same-site", "403"),
        ("Sec-Fetch-Site: none", "200"),
        ("Sec-Fetch-Site: same-origin", "200"),
        ("X-Other: 1", "200"),
    ] {
        assert_eq!(status(header).await.as_deref(), Some(wanted), "{header}");
    }
}
