use super::*;
use proto::bounds;
use tonic::Code;

#[tokio::test]
async fn bad_requests_are_refused_with_their_code() {
    let mut world = World::new().await;
    let spec = v1::TaskSpec { priority: 5000, ..command("bad\nname") };
    let refused = world.client.submit(v1::SubmitRequest { spec: Some(spec), key: String::new() }).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "invalid"));
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), ["name", "priority"]);

    let unknown = "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b".to_owned();
    let get = world.client.get(v1::GetRequest { id: unknown.clone() }).await.unwrap_err();
    assert_eq!((get.code(), code(&get).as_str()), (Code::NotFound, "unknown_task"));
    let cancel =
        world.client.cancel(v1::CancelRequest { id: unknown.clone(), reason: String::new() }).await.unwrap_err();
    assert_eq!((cancel.code(), code(&cancel).as_str()), (Code::NotFound, "unknown_task"));
    let why = world.client.why(v1::WhyRequest { id: unknown.clone() }).await.unwrap_err();
    assert_eq!(why.code(), Code::NotFound);
    let history = v1::HistoryRequest { id: unknown.clone(), ..Default::default() };
    assert_eq!(world.client.history(history).await.unwrap_err().code(), Code::NotFound);
    let mut watch = world.watch(&unknown).await;
    assert_eq!(watch.message().await.unwrap_err().code(), Code::NotFound);

    let garbled = world.client.get(v1::GetRequest { id: "task 1".to_owned() }).await.unwrap_err();
    assert_eq!(garbled.code(), Code::InvalidArgument);
    let huge = v1::ListRequest { page_size: u32::MAX, ..Default::default() };
    assert_eq!(world.client.list(huge).await.unwrap_err().code(), Code::InvalidArgument);
    let stateless = v1::ListRequest { states: vec![99], ..Default::default() };
    assert_eq!(world.client.list(stateless).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_key_names_one_task() {
    let mut world = World::new().await;
    let request = |name: &str| v1::SubmitRequest { spec: Some(command(name)), key: "k".to_owned() };
    let first = world.client.submit(request("a")).await.unwrap().into_inner();
    let again = world.client.submit(request("a")).await.unwrap().into_inner();
    assert_eq!((again.id, again.existed, first.existed), (first.id, true, false));
    let other = world.client.submit(request("b")).await.unwrap_err();
    assert_eq!((other.code(), code(&other).as_str()), (Code::AlreadyExists, "key_conflict"));
}

#[tokio::test]
async fn a_task_is_read_back_as_it_is_kept() {
    let mut world = World::new().await;
    let id = world.submit("mine").await;
    let task = world.client.get(v1::GetRequest { id: id.clone() }).await.unwrap().into_inner();
    assert_eq!((task.id.as_str(), task.name.as_str(), task.kind.as_str()), (id.as_str(), "mine", "command"));
    assert_eq!(task.state(), v1::TaskState::Ready);
    assert_eq!(
        task.spec.unwrap().retry.unwrap().max_attempts,
        proto::bounds::MAX_ATTEMPTS_DEFAULT,
        "defaults are filled in"
    );
    let why = world.client.why(v1::WhyRequest { id: id.clone() }).await.unwrap().into_inner();
    assert!(!why.summary.is_empty());
    let history = v1::HistoryRequest { id, ..Default::default() };
    let events = world.client.history(history).await.unwrap().into_inner().events;
    assert_eq!(events.first().map(|event| event.kind.as_str()), Some("submitted"));
}

#[tokio::test]
async fn a_batch_answers_in_its_order() {
    let mut world = World::new().await;
    let requests: Vec<_> = (0..600)
        .map(|number| {
            let name = if number == 300 { "bad\nname".to_owned() } else { format!("n{number}") };
            v1::SubmitRequest { spec: Some(command(&name)), key: String::new() }
        })
        .collect();
    let results = world.client.submit_batch(tokio_stream::iter(requests)).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 600);
    let mut last = String::new();
    for (number, result) in results.into_iter().enumerate() {
        match result.result.unwrap() {
            v1::submit_result::Result::Ok(ok) => {
                assert!(ok.id > last, "ids grow in the order of the stream");
                last = ok.id;
            }
            v1::submit_result::Result::Failure(failure) => {
                assert_eq!((number, failure.code.as_str()), (300, "invalid"));
            }
        }
    }
    let task = world.client.get(v1::GetRequest { id: last }).await.unwrap().into_inner();
    assert_eq!(task.name, "n599");
}

#[tokio::test]
async fn pages_stay_stable_while_tasks_come() {
    let mut world = World::new().await;
    for number in 0..5 {
        world.submit(&format!("n{number}")).await;
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRequest { page_size: 2, page_token, ..Default::default() };
        let page = world.client.list(request).await.unwrap().into_inner();
        names.extend(page.tasks.into_iter().map(|task| task.name));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
        world.submit("late").await;
    }
    assert_eq!(names, ["n4", "n3", "n2", "n1", "n0"]);
    let named = v1::ListRequest { name: "n3".to_owned(), ..Default::default() };
    assert_eq!(world.client.list(named).await.unwrap().into_inner().tasks.len(), 1);
}

#[tokio::test]
async fn a_watch_ends_with_its_tasks() {
    let mut world = World::new().await;
    let id = world.submit("short").await;
    let mut watch = world.watch(&id).await;
    until(&mut watch, v1::TaskState::Ready).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    assert_eq!(assign.spec.as_ref().map(|spec| spec.name.as_str()), Some("short"));
    until(&mut watch, v1::TaskState::Running).await;
    sidecar.finish(&assign, 0).await;
    let task = until(&mut watch, v1::TaskState::Succeeded).await;
    assert_eq!(task.ending.unwrap().exit_code, Some(0));
    assert!(watch.message().await.unwrap().is_none(), "nothing follows the end");

    let request = v1::RetryRequest { id: id.clone(), key: String::new() };
    assert!(world.client.retry(request).await.unwrap().into_inner().task.is_some());
    let request = v1::CancelRequest { id: id.clone(), reason: "enough".to_owned() };
    world.client.cancel(request).await.unwrap();
    let mut sidecars = world.client.sidecars(v1::SidecarsRequest { all: false }).await.unwrap().into_inner().sidecars;
    assert_eq!(sidecars.pop().map(|known| known.id), Some(hello().sidecar));
}

#[tokio::test]
async fn a_watch_of_everything_begins_now() {
    let mut world = World::new().await;
    world.submit("before").await;
    let mut watch = world.client.watch(v1::WatchRequest { ids: Vec::new() }).await.unwrap().into_inner();
    let id = world.submit("after").await;
    let task = timeout(PATIENCE, watch.message()).await.expect("in time").unwrap().unwrap();
    assert_eq!((task.id, task.name.as_str()), (id, "after"));
}

#[tokio::test]
async fn watched_tasks_are_bounded_over_all_watches() {
    let mut world = World::new().await;
    let request = v1::WatchRequest { ids: vec![world.submit("watched").await; bounds::WATCH_IDS] };
    let mut watches = Vec::new();
    let refused = loop {
        match world.client.watch(request.clone()).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(status) => break status,
        }
    };
    let room = bounds::WATCHED_TASKS / bounds::WATCH_IDS;
    assert_eq!((watches.len(), code(&refused).as_str()), (room, "watchers"));
    watches.pop();
    let again = async { while world.client.watch(request.clone()).await.is_err() {} };
    timeout(PATIENCE, again).await.expect("one that leaves makes room");
}

#[tokio::test]
async fn a_watch_tells_progress() {
    let mut world = World::new().await;
    let id = world.submit("long").await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    let mut watch = world.watch(&id).await;
    until(&mut watch, v1::TaskState::Running).await;
    let progress = v1::Progress { permille: 420, step: 1, ..Default::default() };
    let entry = v1::AttemptProgress { attempt: assign.attempt, progress: Some(progress) };
    sidecar.say(Said::Beat(v1::Beat { seq: 2, credit: 3, held: 1, progress: vec![entry], ..Default::default() })).await;
    loop {
        let task = until(&mut watch, v1::TaskState::Running).await;
        if task.progress.is_some_and(|progress| progress.permille == 420) {
            return;
        }
    }
}
