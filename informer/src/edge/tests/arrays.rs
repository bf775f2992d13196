//! Arrays from their upload to their last member.

use super::*;
use proto::v1::submit_array_request::Part;
use tonic::Code;

fn head(count: u32, key: &str) -> Part {
    let head =
        v1::ArrayHead { spec: Some(command("member")), key: key.to_owned(), first: 1, count, ..Default::default() };
    Part::Head(head)
}

fn items(items: &[&str]) -> Part {
    Part::Items(v1::ArrayItems { items: items.iter().map(|item| (*item).to_owned()).collect() })
}

impl World {
    async fn submit_array(&mut self, parts: Vec<Part>) -> Result<v1::SubmitResponse, Status> {
        let parts = parts.into_iter().map(|part| v1::SubmitArrayRequest { part: Some(part) });
        let parts: Vec<_> = parts.collect();
        self.client.submit_array(tokio_stream::iter(parts)).await.map(tonic::Response::into_inner)
    }

    async fn members(&mut self, array: &str, states: &[v1::TaskState], page_size: u32) -> Vec<v1::Task> {
        let mut members = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListRequest {
                array: array.to_owned(),
                states: states.iter().map(|state| (*state).into()).collect(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = self.client.list(request).await.unwrap().into_inner();
            assert!(page.tasks.len() <= page_size as usize);
            members.extend(page.tasks);
            if page.next_page_token.is_empty() {
                return members;
            }
            page_token = page.next_page_token;
        }
    }

    async fn task(&mut self, id: &str) -> v1::Task {
        self.client.get(v1::GetRequest { id: id.to_owned() }).await.unwrap().into_inner()
    }
}

#[tokio::test]
async fn bad_uploads_are_refused_and_leave_nothing() {
    let mut world = World::new().await;
    let long = "x".repeat(proto::bounds::ITEM_BYTES + 1);
    for (parts, field) in [
        (Vec::new(), "head"),
        (vec![items(&["a"])], "head"),
        (vec![head(0, ""), head(0, "")], "head"),
        (vec![head(0, "")], "array.count"),
        (vec![head(3, ""), items(&["a", "b"])], "items"),
        (vec![head(1, ""), items(&["a", "b"])], "items"),
        (vec![head(0, ""), items(&["a", &long])], "items[1]"),
        (vec![head(proto::bounds::ARRAY_MEMBERS + 1, "")], "array.count"),
    ] {
        let refused = world.submit_array(parts).await.unwrap_err();
        assert_eq!((refused.code(), code(&refused).as_str()), (Code::InvalidArgument, "invalid"));
        let faults = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(faults.first().map(|fault| fault.field.as_str()), Some(field));
    }
    let list = world.client.list(v1::ListRequest::default()).await.unwrap().into_inner();
    assert!(list.tasks.is_empty(), "{:?}", list.tasks);
}

#[tokio::test]
async fn members_are_told_whether_they_have_started_or_not() {
    let mut world = World::new().await;
    let words: Vec<String> = (0..50).map(|number| format!("word-{number}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let array = world.submit_array(vec![head(0, ""), items(&words[..20]), items(&words[20..])]).await.unwrap().id;
    let status = world.task(&array).await.array.unwrap();
    assert_eq!((status.first, status.count, status.pending, status.items), (1, 50, 50, true));

    let mut watch = world.watch(&format!("{array}.50")).await;
    until(&mut watch, v1::TaskState::Ready).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    assert_eq!((assign.has_item, assign.item.as_str()), (true, "word-0"), "the lowest index first");
    let mut first = world.watch(&format!("{array}.1")).await;
    until(&mut first, v1::TaskState::Running).await;

    for page_size in [7, 50, 100] {
        let members = world.members(&array, &[], page_size).await;
        let ids: Vec<String> = members.into_iter().map(|task| task.id).collect();
        let all: Vec<String> = (1..=50).map(|index| format!("{array}.{index}")).collect();
        assert_eq!(ids, all);
    }
    let last = world.task(&format!("{array}.50")).await;
    assert_eq!((last.item.as_str(), last.state(), last.name.as_str()), ("word-49", v1::TaskState::Ready, "member"));
    assert!(last.spec.is_some());
    let none = world.client.get(v1::GetRequest { id: format!("{array}.51") }).await.unwrap_err();
    assert_eq!(code(&none), "unknown_task");

    let cancel = v1::CancelRequest { id: format!("{array}.50"), reason: String::new() };
    world.client.cancel(cancel).await.unwrap();
    until(&mut watch, v1::TaskState::Cancelled).await;
    let cancelled = world.members(&array, &[v1::TaskState::Cancelled], 7).await;
    assert_eq!(cancelled.len(), 1);
    sidecar.finish(&assign, 0).await;
    until(&mut first, v1::TaskState::Succeeded).await;
    let status = world.task(&array).await.array.unwrap();
    assert_eq!((status.succeeded, status.cancelled), (1, 1));
    let listed = world.client.list(v1::ListRequest::default()).await.unwrap().into_inner().tasks;
    assert_eq!(listed.len(), 1, "members show only in their array");
}

#[tokio::test]
async fn a_cancelled_array_tells_its_watched_members() {
    let mut world = World::new().await;
    let array = world.submit_array(vec![head(3, "")]).await.unwrap().id;
    let mut watch = world.watch(&format!("{array}.2")).await;
    until(&mut watch, v1::TaskState::Ready).await;
    let mut logs = {
        let request = v1::LogsRequest { id: format!("{array}.3"), follow: true, ..Default::default() };
        world.client.logs(request).await.unwrap().into_inner()
    };
    world.client.cancel(v1::CancelRequest { id: array, reason: "enough".to_owned() }).await.unwrap();
    until(&mut watch, v1::TaskState::Cancelled).await;
    assert!(watch.message().await.unwrap().is_none(), "nothing follows the end");
    let gone = timeout(PATIENCE, logs.message()).await.expect("in time").unwrap_err();
    assert_eq!(code(&gone), "log_gone");
}

#[tokio::test]
async fn one_key_is_one_array() {
    let mut world = World::new().await;
    let first = world.submit_array(vec![head(0, "k"), items(&["ab", "c"])]).await.unwrap();
    let again = world.submit_array(vec![head(2, "k"), items(&["ab"]), items(&["c"])]).await.unwrap();
    assert_eq!((again.id.as_str(), again.existed, first.existed), (first.id.as_str(), true, false));
    for other in [items(&["a", "bc"]), items(&["ab", "c", "d"])] {
        let refused = world.submit_array(vec![head(0, "k"), other]).await.unwrap_err();
        assert_eq!(code(&refused), "key_conflict");
    }
    let refused = world.submit_array(vec![head(2, "k")]).await.unwrap_err();
    assert_eq!(code(&refused), "key_conflict", "no items at all");
}

#[tokio::test]
async fn items_of_many_chunks_arrive_whole() {
    let mut world = World::new().await;
    let item = |number: usize| format!("{number:05}-{}", "x".repeat(995));
    let parts = (0..20).map(|part| {
        let items = (0..100).map(|number| item(part * 100 + number)).collect();
        Part::Items(v1::ArrayItems { items })
    });
    let array = world.submit_array([head(0, "")].into_iter().chain(parts).collect()).await.unwrap().id;
    for position in [0, 64, 65, 66, 1000, 1999] {
        let member = world.task(&format!("{array}.{}", position + 1)).await;
        assert_eq!(member.item, item(position));
    }
}
