//! What operators do: many tasks at once, drains, executors, lists by every filter.

use super::*;

fn filter(name: &str) -> Option<v1::ListRequest> {
    Some(v1::ListRequest { name: name.to_owned(), ..Default::default() })
}

#[tokio::test]
async fn many_are_cancelled_and_retried_page_by_page() {
    let mut world = World::new().await;
    for _ in 0..5 {
        world.submit("many").await;
    }
    let other = world.submit("other").await;
    let mut request = v1::ManyRequest { filter: filter("many"), reason: "enough".to_owned(), ..Default::default() };
    request.filter.as_mut().unwrap().page_size = 3;
    let first = world.client.cancel_many(request.clone()).await.unwrap().into_inner();
    assert_eq!((first.matched, first.done, first.refused), (3, 3, 0));
    request.filter.as_mut().unwrap().page_token = first.next_page_token;
    let second = world.client.cancel_many(request).await.unwrap().into_inner();
    assert_eq!((second.matched, second.done, second.next_page_token.as_str()), (2, 2, ""));
    let task = world.client.get(v1::GetRequest { id: other }).await.unwrap().into_inner();
    assert_eq!(task.state(), v1::TaskState::Ready);

    let retry = v1::ManyRequest { filter: filter("many"), key: "k".to_owned(), ..Default::default() };
    let retried = world.client.retry_many(retry.clone()).await.unwrap().into_inner();
    assert_eq!((retried.matched, retried.done), (5, 5));
    let again = world.client.retry_many(retry).await.unwrap().into_inner();
    assert_eq!(again.matched, 0, "none has ended since");
    let ended = v1::ListRequest { states: vec![v1::TaskState::Ready.into()], ..filter("many").unwrap() };
    let refused = v1::ManyRequest { filter: Some(ended), ..Default::default() };
    let refused = world.client.retry_many(refused).await.unwrap().into_inner();
    assert_eq!((refused.matched, refused.done, refused.refused), (5, 0, 5));
}

#[tokio::test]
async fn wrong_filters_are_refused() {
    let mut world = World::new().await;
    let id = world.submit("single").await;
    let unknown = "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b";
    for (request, expected) in [
        (v1::ListRequest { reason: 99, ..Default::default() }, "invalid"),
        (v1::ListRequest { array: "x".to_owned(), ..Default::default() }, "invalid"),
        (v1::ListRequest { array: id, ..Default::default() }, "invalid"),
        (v1::ListRequest { array: unknown.to_owned(), ..Default::default() }, "unknown_task"),
    ] {
        let refused = world.client.list(request).await.unwrap_err();
        assert_eq!(code(&refused), expected);
    }
    let mode = v1::DrainRequest { sidecar: unknown.to_owned(), mode: 99 };
    assert_eq!(code(&world.client.drain(mode).await.unwrap_err()), "invalid");
    let nothing = v1::PutExecutorRequest::default();
    assert_eq!(code(&world.client.put_executor(nothing).await.unwrap_err()), "invalid");
}

#[tokio::test]
async fn lists_are_filtered_by_every_field() {
    let mut world = World::new().await;
    let spec = v1::TaskSpec { priority: 5, ..command("first-one") };
    let urgent = v1::SubmitRequest { spec: Some(spec), key: String::new() };
    let urgent = world.client.submit(urgent).await.unwrap().into_inner().id;
    let mut watch = world.watch(&urgent).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    sidecar.finish(&assign, 1).await;
    world.client.cancel(v1::CancelRequest { id: urgent.clone(), reason: String::new() }).await.unwrap();
    let ended = until(&mut watch, v1::TaskState::Cancelled).await;
    let plain = world.submit("second-one").await;
    let created = ended.created_unix_ms;
    for (request, expected) in [
        (v1::ListRequest { name_prefix: "first".to_owned(), ..Default::default() }, &urgent),
        (v1::ListRequest { name_prefix: "second".to_owned(), ..Default::default() }, &plain),
        (v1::ListRequest { priority: Some(5), ..Default::default() }, &urgent),
        (v1::ListRequest { priority: Some(0), ..Default::default() }, &plain),
        (v1::ListRequest { reason: v1::Reason::Cancelled.into(), ..Default::default() }, &urgent),
        (v1::ListRequest { created_before_unix_ms: created + 1, ..filter("first-one").unwrap() }, &urgent),
    ] {
        let tasks = world.client.list(request.clone()).await.unwrap().into_inner().tasks;
        let ids: Vec<&String> = tasks.iter().map(|task| &task.id).collect();
        assert_eq!(ids, [expected], "{request:?}");
    }
    let nowhere = v1::ListRequest { sidecar: "0192f3c4-0000-7000-8000-000000000000".to_owned(), ..Default::default() };
    assert!(world.client.list(nowhere).await.unwrap().into_inner().tasks.is_empty());
    let there = v1::ListRequest { sidecar: hello().sidecar, ..Default::default() };
    assert!(!world.client.list(there).await.unwrap().into_inner().tasks.is_empty());
    let kind = v1::ListRequest { kind: "script".to_owned(), ..Default::default() };
    assert!(world.client.list(kind).await.unwrap().into_inner().tasks.is_empty());
}

#[tokio::test]
async fn a_drained_sidecar_takes_nothing_until_it_is_told_to_again() {
    let mut world = World::new().await;
    let unknown = v1::DrainRequest { sidecar: hello().sidecar, mode: v1::DrainMode::Finish.into() };
    assert_eq!(code(&world.client.drain(unknown.clone()).await.unwrap_err()), "unknown_sidecar");
    let mut sidecar = world.sidecar().await;
    sidecar.beat(4).await;
    let drained = world.client.drain(unknown).await.unwrap().into_inner().sidecar.unwrap();
    assert_eq!((drained.state(), drained.drain()), (v1::SidecarState::Draining, v1::DrainMode::Finish));
    let id = world.submit("waits").await;
    let task = world.client.get(v1::GetRequest { id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(task.state(), v1::TaskState::Ready);
    world.client.drain(v1::DrainRequest { sidecar: hello().sidecar, mode: 0 }).await.unwrap();
    let assign = sidecar.assigned().await;
    assert_eq!(assign.attempt.unwrap().task, id);
}

#[tokio::test]
async fn executors_are_put_told_and_deleted() {
    let mut world = World::new().await;
    let executor = |program: &str| v1::Executor {
        r#type: "thumb".to_owned(),
        mode: Some(v1::executor::Mode::Command(v1::Command { argv: vec![program.to_owned()] })),
        ..Default::default()
    };
    let put = |program: &str, replace| v1::PutExecutorRequest { executor: Some(executor(program)), replace };
    let first = world.client.put_executor(put("a", false)).await.unwrap().into_inner();
    let registered = first.executor.unwrap();
    assert!(!first.existed && !registered.id.is_empty() && registered.registered_unix_ms > 0);
    let again = world.client.put_executor(put("a", false)).await.unwrap().into_inner();
    assert_eq!((again.existed, &again.executor.unwrap().id), (true, &registered.id));
    assert_eq!(code(&world.client.put_executor(put("b", false)).await.unwrap_err()), "executor_conflict");
    let replaced = world.client.put_executor(put("b", true)).await.unwrap().into_inner().executor.unwrap();
    assert_ne!(replaced.id, registered.id);
    let listed = world.client.executors(v1::ExecutorsRequest {}).await.unwrap().into_inner().executors;
    assert_eq!(listed, [replaced]);
    let delete = || v1::DeleteExecutorRequest { r#type: "thumb".to_owned() };
    assert!(world.client.delete_executor(delete()).await.unwrap().into_inner().existed);
    assert!(!world.client.delete_executor(delete()).await.unwrap().into_inner().existed);
    assert!(world.client.executors(v1::ExecutorsRequest {}).await.unwrap().into_inner().executors.is_empty());
}
