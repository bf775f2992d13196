//! Followers against an informer that breaks off.

use std::sync::Arc;

use proto::v1::{Attempt, AttemptState, SubmitRequest, SubmitResponse, Task, TaskState};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::cli::{
    books,
    fake::{self, Answer, Script},
    options::Order,
    screen::Form,
    submit,
};

fn chunk(attempt: u32, stream: LogStream, offset: u64, data: &'static [u8]) -> LogsChunk {
    LogsChunk { attempt, stream: stream.into(), offset, data: data.into(), ..LogsChunk::default() }
}

fn out(attempt: u32, offset: u64, data: &'static [u8]) -> LogsChunk {
    chunk(attempt, LogStream::Out, offset, data)
}

fn end(attempt: u32) -> LogsChunk {
    LogsChunk { end: true, ..out(attempt, 0, b"") }
}

fn answer<T>(messages: Vec<Result<T, Status>>, open: bool) -> Answer<T> {
    Answer { messages, open }
}

fn task(state: TaskState, attempts: &[AttemptState]) -> Task {
    let attempts = attempts.iter().zip(1..).map(|(state, number)| Attempt {
        number,
        state: (*state).into(),
        ..Attempt::default()
    });
    Task { id: "t".into(), state: state.into(), attempts: attempts.collect(), ..Task::default() }
}

/// Follows from attempt 1 while the books are kept; gives what stood on stdout and stderr.
async fn followed(script: &Arc<Script>, first: Task, form: Form) -> (Result<Shown, Error>, Vec<u8>, Vec<u8>) {
    let client = fake::serve(Arc::clone(script)).await;
    let ((out, mut read_out), (err, mut read_err)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
    let screen = Mutex::new(Screen::on(Box::new(out), Box::new(err), form));
    let (keeper, books) = tokio::sync::watch::channel(first);
    let mut follower = Follower { client: &client, id: "t", only: LogStream::Unspecified, books, screen: &screen };
    let result = tokio::try_join!(books::keep(&client, "t", &keeper), follower.follow(1)).map(|(_, shown)| shown);
    drop(screen);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    read_out.read_to_end(&mut stdout).await.expect("stdout");
    read_err.read_to_end(&mut stderr).await.expect("stderr");
    (result, stdout, stderr)
}

#[tokio::test]
async fn a_break_is_resumed_from_the_offsets_reached_and_repeats_nothing() {
    let script = Arc::new(Script::default());
    let running = task(TaskState::Running, &[AttemptState::Running]);
    let done = task(TaskState::Succeeded, &[AttemptState::Succeeded]);
    *script.watches.lock().expect("a lock") =
        [answer(vec![Ok(running.clone())], false), answer(vec![Ok(running.clone()), Ok(done)], false)].into();
    let lost = Status::unavailable("restarting");
    *script.logs.lock().expect("a lock") = [
        Ok(answer(vec![Ok(out(1, 0, b"abc")), Ok(chunk(1, LogStream::Err, 0, b"E\xff")), Err(lost.clone())], false)),
        Err(lost),
        Ok(answer(vec![Ok(out(1, 1, b"bcde")), Ok(out(1, 5, b"f"))], false)),
        Ok(answer(vec![Ok(end(1))], true)),
    ]
    .into();

    let (result, stdout, stderr) = followed(&script, running, Form::Bytes).await;
    result.expect("followed");
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"abcdef"[..], &b"E\xff"[..]));
    let asked: Vec<_> =
        script.asked.lock().expect("a lock").iter().map(|r| (r.attempt, r.out_offset, r.err_offset)).collect();
    assert_eq!(asked, [(1, 0, 0), (1, 3, 2), (1, 3, 2), (1, 6, 2)]);
}

#[tokio::test]
async fn each_attempt_is_shown_whole_and_in_order() {
    let script = Arc::new(Script::default());
    let first = task(TaskState::Running, &[AttemptState::Running]);
    let retried = task(TaskState::Running, &[AttemptState::Failed, AttemptState::Running]);
    let done = task(TaskState::Succeeded, &[AttemptState::Failed, AttemptState::Succeeded]);
    *script.watches.lock().expect("a lock") = [answer(vec![Ok(first.clone()), Ok(retried), Ok(done)], false)].into();
    *script.logs.lock().expect("a lock") = [
        Ok(answer(vec![Ok(out(1, 0, b"one ")), Ok(end(1))], true)),
        // An informer that goes on by itself: the next attempt is asked for all the same, from its beginning.
        Ok(answer(vec![Ok(out(2, 0, b"two")), Ok(end(2)), Ok(out(3, 0, b"never"))], true)),
    ]
    .into();

    let (result, stdout, _) = followed(&script, first, Form::Bytes).await;
    result.expect("followed");
    assert_eq!(stdout, b"one two");
    let asked: Vec<u32> = script.asked.lock().expect("a lock").iter().map(|request| request.attempt).collect();
    assert_eq!(asked, [1, 2]);
}

#[tokio::test]
async fn a_log_that_is_gone_is_missed_only_if_there_was_one() {
    for (state, expected) in [(AttemptState::Lost, Shown::Cut), (AttemptState::Cancelled, Shown::Whole)] {
        let script = Arc::new(Script::default());
        let done = task(TaskState::Failed, &[state]);
        *script.watches.lock().expect("a lock") = [answer(vec![Ok(done.clone())], false)].into();
        *script.logs.lock().expect("a lock") = [Err(Status::not_found("its record is gone"))].into();
        let (result, stdout, _) = followed(&script, done, Form::Bytes).await;
        assert!(result.expect("followed") == expected && stdout.is_empty(), "{state:?}");
    }
}

#[tokio::test]
async fn a_replacement_tells_all_that_a_lost_attempt_did_not() {
    let script = Arc::new(Script::default());
    let done = task(TaskState::Succeeded, &[AttemptState::Lost, AttemptState::Succeeded]);
    *script.watches.lock().expect("a lock") = [answer(vec![Ok(done.clone())], false)].into();
    *script.logs.lock().expect("a lock") =
        [Err(Status::not_found("its record is gone")), Ok(answer(vec![Ok(out(2, 0, b"two")), Ok(end(2))], true))]
            .into();
    let (result, stdout, _) = followed(&script, done, Form::Bytes).await;
    assert_eq!((result.expect("followed"), stdout.as_slice()), (Shown::Whole, &b"two"[..]));
}

#[tokio::test]
async fn an_unknown_task_ends_the_watch_at_once() {
    let script = Arc::new(Script::default());
    let waiting = task(TaskState::Waiting, &[]);
    *script.watches.lock().expect("a lock") = [answer(vec![Err(Status::not_found("no task t"))], false)].into();
    let (result, ..) = followed(&script, waiting, Form::Bytes).await;
    let error = result.expect_err("unknown").to_string();
    assert_eq!(error, "cannot watch task t: no task t");
}

#[tokio::test]
async fn json_lines_carry_the_same_bytes() {
    let script = Arc::new(Script::default());
    let done = task(TaskState::Succeeded, &[AttemptState::Succeeded]);
    *script.watches.lock().expect("a lock") = [answer(vec![Ok(done.clone())], false)].into();
    let messages = vec![Ok(out(1, 0, b"a\n")), Ok(chunk(1, LogStream::Err, 0, b"\xff")), Ok(end(1))];
    *script.logs.lock().expect("a lock") = [Ok(answer(messages, false))].into();
    let (result, stdout, stderr) = followed(&script, done, Form::Lines).await;
    result.expect("followed");
    let expected = "{\"attempt\":1,\"stream\":\"stdout\",\"offset\":0,\"text\":\"a\\n\"}\n\
                    {\"attempt\":1,\"stream\":\"stderr\",\"offset\":0,\"hex\":\"ff\"}\n";
    assert_eq!(String::from_utf8(stdout).expect("UTF-8"), expected);
    assert!(stderr.is_empty());
}

#[tokio::test]
async fn a_submit_is_repeated_with_its_key_until_there_is_an_answer() {
    let script = Arc::new(Script::default());
    let id = SubmitResponse { id: "t".into(), existed: false };
    *script.submits.lock().expect("a lock") =
        [Err(Status::unavailable("restarting")), Err(Status::resource_exhausted("busy")), Ok(id)].into();
    let client = fake::serve(Arc::clone(&script)).await;
    let request = SubmitRequest { key: "k".into(), ..SubmitRequest::default() };
    assert_eq!(submit::submit(&client, Order { request, array: None }).await.expect("an id").id, "t");
    let keys: Vec<String> =
        script.submitted.lock().expect("a lock").iter().map(|request| request.key.clone()).collect();
    assert_eq!(keys, ["k", "k", "k"]);
}

#[tokio::test]
async fn a_delay_is_told_as_a_time_to_an_informer_that_does_not_count_delays() {
    use proto::v1::{IdentityResponse, TaskSpec};
    let counts = IdentityResponse { counts_delays: true, ..IdentityResponse::default() };
    for (identity, counted) in [(None, false), (Some(IdentityResponse::default()), false), (Some(counts), true)] {
        let script = Arc::new(Script::default());
        *script.submits.lock().expect("a lock") = [Ok(SubmitResponse::default())].into();
        *script.identity.lock().expect("a lock") = identity;
        let client = fake::serve(Arc::clone(&script)).await;
        let spec = TaskSpec { start_after_ms: 3_600_000, ..TaskSpec::default() };
        let request = SubmitRequest { key: "k".into(), spec: Some(spec) };
        let before = crate::cli::text::now_unix_ms();
        submit::submit(&client, Order { request, array: None }).await.expect("an id");
        let sent = script.submitted.lock().expect("a lock")[0].spec.clone().expect("a task");
        if counted {
            assert_eq!((sent.start_after_ms, sent.start_after_unix_ms), (3_600_000, 0));
        } else {
            assert_eq!(sent.start_after_ms, 0);
            assert!(sent.start_after_unix_ms >= before + 3_600_000);
        }
    }
}

#[test]
fn overlaps_are_skipped_and_gaps_are_counted() {
    let mut reached = Reached::default();
    assert_eq!(reached.advance(&out(1, 0, b"abc")), (0, 0));
    assert_eq!(reached.advance(&out(1, 1, b"bcd")), (2, 0));
    assert_eq!(reached.advance(&out(1, 0, b"ab")), (2, 0));
    assert_eq!(reached.advance(&out(1, 10, b"x")), (0, 6));
    assert_eq!(reached.advance(&chunk(1, LogStream::Err, 2, b"e")), (0, 2));
    assert_eq!(reached, Reached { out: 11, err: 3 });
}
