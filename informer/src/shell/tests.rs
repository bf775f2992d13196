//! Stories about the loop, with the real machine, on a disk that hangs and fails when told to.

use super::core::CLIENT_EVENTS;
use super::*;
use crate::machine::{Batch, Event, Hello, SessionId};
use crate::store::memory::{Fault, Hold, Memory};
use crate::store::{Commit, ItemChunk, Store as _};
use bytes::Bytes;
use prost::Message as _;
use proto::id::{Fence, SidecarId, TaskId};
use proto::store::Facts;
use proto::v1::{self, InformerMessage, TaskState, informer_message::Message};
use proto::{bounds, v1::TaskSpec};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc;

/// Beats so far apart that no lease ends during a test.
pub(super) const OPTIONS: Options = Options {
    beat_ms: 60_000,
    lease_ms: 180_000,
    fence_grace_ms: 1000,
    accept_restored: false,
    shares: std::collections::BTreeMap::new(),
    log_policy: proto::v1::LogPolicy::Never,
    retention: Retention::EVERYTHING,
};

/// A disk and an informer on it.
struct World {
    disk: Memory,
    handle: Handle,
    shell: Shell,
}

impl World {
    fn new() -> Self {
        Self::on(Memory::default())
    }

    fn on(disk: Memory) -> Self {
        let (handle, shell) = Shell::start(Box::new(disk.open().unwrap()), OPTIONS).unwrap();
        Self { disk, handle, shell }
    }

    fn stored(&self, task: TaskId) -> bool {
        self.disk.open().unwrap().reader().unwrap().get(task).unwrap().is_some()
    }

    /// Makes the disk hang in a commit that holds one submit, whose answer is the future.
    fn hang(&self, id: u128) -> (Hold, Call<Submitted>) {
        let hold = self.disk.hold();
        let next = self.disk.commits() + 1;
        let submit = call(&self.handle, move |handle| async move { handle.submit(task(id)).await });
        hold.begun(next);
        (hold, submit)
    }
}

type Call<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Makes a call: it is in the loop's queue (or refused) when this returns; the answer is awaited later.
fn call<T: Send + 'static, F>(handle: &Handle, make: impl FnOnce(Handle) -> F) -> Call<T>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut asked: Call<T> = Box::pin(make(handle.clone()));
    match polled(&mut asked) {
        Poll::Pending => asked,
        Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
    }
}

fn polled<T>(call: &mut Call<T>) -> Poll<Result<T, Error>> {
    call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn spec(id: u128) -> TaskSpec {
    TaskSpec { name: format!("job-{id}"), ..TaskSpec::default() }
}

pub(super) fn task(id: u128) -> NewTask {
    let body = Bytes::from(spec(id).encode_to_vec());
    let facts = Facts { name: format!("job-{id}"), kind: "command".into(), cpu_millis: 1000, ..Facts::default() };
    let payload = Sha256::digest(&body).into();
    NewTask {
        task: TaskId::from_u128(id),
        key: None,
        payload,
        body,
        digest: payload,
        array: None,
        facts,
        start_after_unix_ms: 0,
        start_after_ms: 0,
    }
}

pub(super) fn hello(slots: u32) -> Hello {
    Hello {
        sidecar: SidecarId::from_u128(1),
        incarnation: 1,
        start: 0,
        yields: false,
        place: String::new(),
        host: "box".into(),
        version: "1".into(),
        labels: BTreeMap::new(),
        cpu_millis: 1000 * u64::from(slots),
        memory_bytes: 1 << 30,
        slots,
        weak_fencing: false,
        kinds: vec!["command".into()],
        seen: None,
        highest_fence: Fence::default(),
    }
}

async fn link(handle: &Handle, capacity: usize) -> (SessionId, mpsc::Receiver<Box<InformerMessage>>) {
    let (out, messages) = mpsc::channel(capacity);
    (handle.open_link(hello(4), Vec::new(), out).await.unwrap(), messages)
}

async fn welcomed(handle: &Handle) -> (SessionId, mpsc::Receiver<Box<InformerMessage>>) {
    let (session, mut messages) = link(handle, bounds::LINK_QUEUE).await;
    assert!(matches!(next(&mut messages).await, Message::Welcome(_)));
    (session, messages)
}

/// The next message but for executors, which follow a welcome; none when the link has ended.
async fn told(messages: &mut mpsc::Receiver<Box<InformerMessage>>) -> Option<Message> {
    loop {
        match messages.recv().await?.message.unwrap() {
            Message::Executors(_) => {}
            other => return Some(other),
        }
    }
}

async fn next(messages: &mut mpsc::Receiver<Box<InformerMessage>>) -> Message {
    told(messages).await.expect("the link is open")
}

pub(super) fn beat(session: SessionId, seq: u64, credit: u32) -> Event {
    Event::BeatReceived {
        session,
        seq,
        load: v1::Load::default(),
        credit,
        held: 0,
        apart: v1::Resources::default(),
        aside: Some(vec![]),
        closed: false,
        progress: Vec::new(),
    }
}

fn stopped<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Stopped(why)) => why,
        other => panic!("not stopped: {other:?}"),
    }
}

#[tokio::test]
async fn a_reply_comes_only_after_the_commit() {
    let world = World::new();
    let (hold, mut submit) = world.hang(1);
    assert!(polled(&mut submit).is_pending());
    assert_eq!(world.handle.get(TaskId::from_u128(1)).await.unwrap(), None);
    drop(hold);
    assert_eq!(submit.await.unwrap(), Submitted { task: TaskId::from_u128(1), existed: false });
    let row = world.handle.get(TaskId::from_u128(1)).await.unwrap().unwrap();
    assert_eq!(row.state(), TaskState::Ready);
    assert_eq!(world.handle.identity().commit_seq, 1);
    let history = world.handle.history(TaskId::from_u128(1), 0, 9).await.unwrap();
    assert_eq!(history[0].kind, "submitted");
}

#[tokio::test]
async fn the_next_batch_fills_while_one_commits() {
    let world = World::new();
    let (hold, first) = world.hang(1);
    let mut second = call(&world.handle, |handle| async move { handle.submit(task(2)).await });
    // Asked behind the second submit, and answered: so that one was applied.
    assert_eq!(world.handle.why(TaskId::from_u128(2)).await.unwrap().state(), TaskState::Ready);
    assert!(polled(&mut second).is_pending());
    assert_eq!(world.disk.commits(), 1);
    drop(hold);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(world.disk.commits(), 2);
}

#[tokio::test]
async fn a_thousand_submits_share_few_commits() {
    let world = World::new();
    let (hold, first) = world.hang(1);
    let submits: Vec<_> =
        (2..=1001).map(|id| call(&world.handle, move |handle| async move { handle.submit(task(id)).await })).collect();
    world.handle.sidecars(true).await.unwrap();
    drop(hold);
    first.await.unwrap();
    for submit in submits {
        submit.await.unwrap();
    }
    assert_eq!(world.disk.commits(), 2);
    let filter = crate::store::Filter { page_size: 1000, ..Default::default() };
    assert_eq!(world.handle.list(filter).await.unwrap().rows.len(), 1000);
}

#[tokio::test]
async fn a_beat_is_acknowledged_while_a_commit_hangs_and_clients_are_refused() {
    let world = World::new();
    let (session, mut messages) = welcomed(&world.handle).await;
    let (hold, first) = world.hang(1);
    world.handle.link_event(beat(session, 1, 0)).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::BeatAck(ack) if ack.seq == 1));

    // Until the batch that fills is full, and the inbox behind it.
    let mut accepted = Vec::new();
    while accepted.len() < CLIENT_EVENTS + bounds::INBOX {
        let mut submit =
            call(&world.handle, |handle| async move { handle.cancel(TaskId::from_u128(9), String::new()).await });
        match polled(&mut submit) {
            Poll::Pending => accepted.push(submit),
            // The loop has not come round yet.
            Poll::Ready(answer) => assert_eq!(answer, Err(Error::Busy)),
        }
    }
    assert_eq!(world.handle.submit(task(3)).await, Err(Error::Busy));
    assert_eq!(world.handle.why(TaskId::from_u128(1)).await, Err(Error::Busy));
    world.handle.link_event(beat(session, 2, 0)).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::BeatAck(ack) if ack.seq == 2));
    assert_eq!(world.disk.commits(), 2, "the link's and the hanging one");

    drop(hold);
    first.await.unwrap();
    for cancel in accepted {
        assert!(matches!(cancel.await, Err(Error::Rejected(_))));
    }
    world.handle.submit(task(3)).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_commit_nothing_is_told() {
    for (fault, there) in [(Fault::Before, false), (Fault::After, true)] {
        let world = World::new();
        let (session, mut messages) = welcomed(&world.handle).await;
        world.disk.plan(2, fault);
        let (hold, first) = world.hang(1);
        let second = call(&world.handle, |handle| async move { handle.submit(task(2)).await });
        drop(hold);
        let why = stopped(first.await);
        assert!(why.contains("commit"), "{why}");
        assert_eq!(stopped(second.await), why);
        assert_eq!(world.shell.stopped().await, why);
        assert_eq!(told(&mut messages).await, None, "the link was ended without a word");
        assert_eq!(stopped(world.handle.submit(task(3)).await), why);
        assert_eq!(stopped(world.handle.get(TaskId::from_u128(1)).await), why);
        assert_eq!(stopped(world.handle.link_event(beat(session, 1, 1)).await), why);
        world.handle.link_closed(session);
        assert_eq!(world.disk.commits(), 2, "and nothing was committed after it");
        assert_eq!(world.stored(TaskId::from_u128(1)), there);
    }
}

#[tokio::test]
async fn a_newer_leader_ends_this_one() {
    let world = World::new();
    let newer = world.disk.open().unwrap();
    let why = stopped(world.handle.submit(task(1)).await);
    assert!(why.contains("superseded") && why.contains(&newer.identity().epoch.to_string()), "{why}");
}

#[tokio::test]
async fn a_full_link_is_dropped() {
    let world = World::new();
    let (session, mut messages) = link(&world.handle, 1).await;
    // The welcome fills the queue; nobody reads it.
    while messages.is_empty() {
        world.handle.sidecars(true).await.unwrap();
    }
    world.handle.link_event(beat(session, 1, 0)).await.unwrap();
    while !messages.is_closed() {
        world.handle.sidecars(true).await.unwrap();
    }
    assert!(matches!(next(&mut messages).await, Message::Welcome(_)));
    assert_eq!(told(&mut messages).await, None);
    let id = SidecarId::from_u128(1).to_string();
    assert_eq!(world.handle.session_of(id).await.unwrap(), None, "the machine knows");
    let log = InformerMessage { message: Some(Message::Log(v1::LogRequest::default())) };
    assert_eq!(world.handle.send(session, log).await, Err(Error::NoLink));
}

#[tokio::test]
async fn messages_of_ours_go_down_an_open_link_only() {
    let world = World::new();
    let (session, mut messages) = welcomed(&world.handle).await;
    let id = SidecarId::from_u128(1).to_string();
    assert_eq!(world.handle.session_of(id.clone()).await.unwrap(), Some(session));
    let log = InformerMessage { message: Some(Message::Log(v1::LogRequest { request: 7, ..Default::default() })) };
    world.handle.send(session, log.clone()).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::Log(log) if log.request == 7));
    world.handle.link_closed(session);
    while world.handle.session_of(id.clone()).await.unwrap().is_some() {}
    assert_eq!(world.handle.send(session, log).await, Err(Error::NoLink));
    assert_eq!(told(&mut messages).await, None);
}

#[tokio::test]
async fn an_assignment_carries_its_payload() {
    let world = World::new();
    let (session, mut messages) = welcomed(&world.handle).await;
    world.handle.link_event(beat(session, 1, 4)).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::BeatAck(_)));
    let mut changes = world.handle.changes();
    world.handle.submit(task(1)).await.unwrap();
    let Message::Assign(assign) = next(&mut messages).await else { panic!("no assignment") };
    assert_eq!((assign.spec, assign.task_name.as_str()), (Some(spec(1)), "job-1"));
    assert_eq!(assign.fence.map(|fence| fence.epoch), Some(1));
    assert_eq!(changes.recv().await.unwrap().state(), TaskState::Assigned);
    let body = world.handle.payload(task(1).payload).await.unwrap();
    assert_eq!(body, Some(task(1).body));
}

#[tokio::test]
async fn a_restart_knows_tasks_keys_and_payloads() {
    let world = World::new();
    let keyed = || NewTask { key: Some("k".into()), ..task(1) };
    world.handle.submit(keyed()).await.unwrap();
    let disk = world.disk.clone();
    world.shell.stop().await;

    let world = World::on(disk);
    assert_eq!(world.handle.identity().epoch, 2);
    let again = NewTask { task: TaskId::from_u128(2), ..keyed() };
    assert_eq!(world.handle.submit(again).await.unwrap(), Submitted { task: TaskId::from_u128(1), existed: true });
    let other = NewTask { key: Some("k".into()), ..task(3) };
    assert!(matches!(world.handle.submit(other).await, Err(Error::Rejected(_))));
    assert_eq!(world.handle.payload(task(3).payload).await.unwrap(), None, "a refused body is not kept");
    let (session, mut messages) = welcomed(&world.handle).await;
    world.handle.link_event(beat(session, 1, 4)).await.unwrap();
    loop {
        if let Message::Assign(assign) = next(&mut messages).await {
            assert_eq!(assign.spec, Some(spec(1)));
            break;
        }
    }
}

#[tokio::test]
async fn a_missing_payload_is_reported_and_ends_the_informer() {
    let disk = Memory::default();
    let mut store = disk.open().unwrap();
    let mut row = crate::store::conformance::row(1, TaskState::Ready);
    row.facts = Some(task(1).facts);
    row.version = 1;
    let batch = Batch { tasks: vec![crate::store::conformance::change(row)], ..Batch::default() };
    store.commit(1, &Commit { seq: 1, batch, ..Commit::default() }).unwrap();
    let world = World::on(disk);
    let (session, _messages) = welcomed(&world.handle).await;
    world.handle.link_event(beat(session, 1, 4)).await.unwrap();
    let why = world.shell.stopped().await;
    assert!(why.contains("payload 0707") && why.contains("missing") && why.contains("backup"), "{why}");
}

#[tokio::test]
async fn an_orderly_stop_answers_what_was_taken_in() {
    let world = World::new();
    let (_session, mut messages) = welcomed(&world.handle).await;
    let (hold, submit) = world.hang(1);
    let mut stop = pin!(world.shell.stop());
    assert!(stop.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(hold);
    stop.await;
    submit.await.unwrap();
    assert_eq!(told(&mut messages).await, None);
    assert!(stopped(world.handle.submit(task(2)).await).contains("told to stop"));
}

#[tokio::test]
async fn why_knows_ended_and_unknown_tasks() {
    let world = World::new();
    world.handle.submit(task(1)).await.unwrap();
    let cancelled = world.handle.cancel(TaskId::from_u128(1), "enough".into()).await.unwrap();
    assert_eq!(cancelled.state(), TaskState::Cancelled);
    let why = world.handle.why(TaskId::from_u128(1)).await.unwrap();
    assert_eq!(why.state(), TaskState::Cancelled);
    assert!(why.summary.contains("cancelled"), "{}", why.summary);
    assert!(matches!(world.handle.why(TaskId::from_u128(2)).await, Err(Error::Rejected(_))));
    let again = world.handle.retry(TaskId::from_u128(1), String::new()).await.unwrap();
    assert_eq!(again.state(), TaskState::Ready);
}

fn chunk(array: u128, first: u32) -> ItemChunk {
    ItemChunk { array: TaskId::from_u128(array), first, items: vec!["a".into(), "b".into()] }
}

#[tokio::test]
async fn items_are_durable_before_they_are_answered_and_wait_while_the_disk_does() {
    let world = World::new();
    let (hold, submit) = world.hang(1);
    let keep = |first| call(&world.handle, move |handle| async move { handle.keep_items(chunk(7, first)).await });
    let mut kept = keep(0);
    // A call of another kind is answered behind it: so it was taken in.
    world.handle.sidecars(true).await.unwrap();
    assert!(polled(&mut kept).is_pending());
    drop(hold);
    submit.await.unwrap();
    kept.await.unwrap();
    assert_eq!(world.disk.commits(), 2);
    keep(2).await.unwrap();
    assert_eq!(world.handle.numbers().rows[4], 2, "chunks of items");
    assert_eq!(world.handle.get(TaskId::from_u128(7)).await.unwrap(), None, "nothing shows until it is submitted");
}

#[tokio::test]
async fn the_items_of_an_upload_that_came_to_nothing_are_removed() {
    let world = World::new();
    world.handle.keep_items(chunk(7, 0)).await.unwrap();
    let mut pruned = world.handle.pruned();
    world.handle.drop_items(TaskId::from_u128(7));
    assert_eq!(*pruned.recv().await.unwrap(), [TaskId::from_u128(7)]);
    world.handle.submit(task(1)).await.unwrap();
    world.handle.drop_items(TaskId::from_u128(1));
    world.handle.submit(task(2)).await.unwrap();
    assert_eq!(world.handle.numbers().rows[6], 1, "a task that was submitted stays");
}

#[tokio::test]
async fn ended_tasks_go_when_retention_says_so() {
    let disk = Memory::default();
    {
        let world = World::on(disk.clone());
        for id in 1..=3 {
            world.handle.submit(task(id)).await.unwrap();
        }
        world.handle.cancel(TaskId::from_u128(1), String::new()).await.unwrap();
        world.handle.cancel(TaskId::from_u128(2), String::new()).await.unwrap();
        world.shell.stop().await;
    }
    let retention = Retention { keep_ended_count: 1, ..Retention::EVERYTHING };
    let options = Options { retention, ..OPTIONS };
    let (handle, _shell) = Shell::start(Box::new(disk.open().unwrap()), options).unwrap();
    while handle.get(TaskId::from_u128(1)).await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(handle.get(TaskId::from_u128(2)).await.unwrap().is_some(), "the last that ended is kept");
    assert!(handle.get(TaskId::from_u128(3)).await.unwrap().is_some(), "what has not ended is");
}

#[tokio::test]
async fn a_key_whose_task_is_just_going_stands_for_the_new_task() {
    let disk = Memory::default();
    let keyed = |id| NewTask { task: TaskId::from_u128(id), key: Some("nightly".into()), ..task(1) };
    {
        let world = World::on(disk.clone());
        world.handle.submit(keyed(1)).await.unwrap();
        world.handle.cancel(TaskId::from_u128(1), String::new()).await.unwrap();
        world.shell.stop().await;
    }
    let hold = disk.hold();
    let next = disk.commits() + 1;
    let options = Options { retention: Retention { keep_ended_count: 0, ..Retention::EVERYTHING }, ..OPTIONS };
    let (handle, _shell) = Shell::start(Box::new(disk.open().unwrap()), options).unwrap();
    // The commit that removes the task is under way, and the store still has it.
    hold.begun(next);
    assert!(handle.get(TaskId::from_u128(1)).await.unwrap().is_some());
    let mut again = call(&handle, move |handle| async move { handle.submit(keyed(2)).await });
    let mut once_more = call(&handle, move |handle| async move { handle.submit(keyed(3)).await });
    // Asked behind them, and answered: so they were applied.
    assert_eq!(handle.why(TaskId::from_u128(2)).await.unwrap().state(), TaskState::Ready);
    assert!(polled(&mut again).is_pending() && polled(&mut once_more).is_pending());
    drop(hold);
    assert_eq!(again.await.unwrap(), Submitted { task: TaskId::from_u128(2), existed: false });
    assert_eq!(once_more.await.unwrap(), Submitted { task: TaskId::from_u128(2), existed: true });
    assert_eq!(handle.get(TaskId::from_u128(1)).await.unwrap(), None);
    let row = handle.get(TaskId::from_u128(2)).await.unwrap().unwrap();
    assert_eq!((row.key.as_str(), row.state()), ("nightly", TaskState::Ready));
    assert_eq!(handle.submit(keyed(4)).await.unwrap(), Submitted { task: TaskId::from_u128(2), existed: true });
}

#[tokio::test]
async fn numbers_follow_what_happens() {
    let world = World::new();
    let (session, mut messages) = welcomed(&world.handle).await;
    world.handle.submit(task(1)).await.unwrap();
    world.handle.link_event(beat(session, 1, 4)).await.unwrap();
    while !matches!(next(&mut messages).await, Message::Assign(_)) {}
    let numbers = loop {
        let numbers = world.handle.numbers();
        if numbers.gauges.tasks[TaskState::Assigned as usize] == 1 {
            break numbers;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((numbers.commits, numbers.commit_buckets.iter().sum::<u64>()), (3, 3));
    assert!(numbers.rows[0] >= 2 && numbers.body_bytes > 0 && numbers.batches >= 3, "{numbers:?}");
    let gauges = numbers.gauges;
    assert_eq!((gauges.links, gauges.waiters, gauges.ready, gauges.held), (1, 0, 0, 1));
    assert_eq!(gauges.sidecars[v1::SidecarState::Live as usize], 1);
}
