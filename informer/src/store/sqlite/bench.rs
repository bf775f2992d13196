//! What a task costs in the store: run by hand, with optimisation, on a disk.
//!
//! ```text
//! cargo test --release -p informer --lib -- --ignored --nocapture store::sqlite::bench
//! ```

use super::tests::Data;
use super::*;
use crate::machine::{Batch, HistoryEvent, Own, TaskChange};
use crate::store::Live;
use bytes::Bytes;
use proto::id::TaskId;
use proto::store::{AttemptRow, Facts, TaskRow};
use proto::v1::{AttemptState, Ending, Fence, Reason, TaskState};
use std::sync::Arc;
use std::time::Instant;

/// Tasks in one commit: what a loaded informer sees.
const TOGETHER: u64 = 64;
const COMMITS: u64 = 300;

fn cpu_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

fn id(n: u64) -> TaskId {
    TaskId::from_u128(
        (u128::from(0x0192_f3c4_5b6d_0000 + n / 7) << 64) | u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    )
}

/// The row as it is after `step` changes: ready, assigned, running, succeeded.
fn change(n: u64, step: usize, (facts, own): &(Arc<Facts>, Arc<Own>)) -> TaskChange {
    let state = [TaskState::Ready, TaskState::Assigned, TaskState::Running, TaskState::Succeeded][step];
    let attempt = AttemptRow {
        number: 1,
        sidecar: "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b".into(),
        state: [AttemptState::Assigned, AttemptState::Assigned, AttemptState::Running, AttemptState::Succeeded][step]
            .into(),
        fence: Some(Fence { epoch: 3, n }),
        assigned_unix_ms: 1_760_000_000_000,
        started_unix_ms: if step > 1 { 1_760_000_000_000 } else { 0 },
        ended_unix_ms: if step > 2 { 1_760_000_000_000 } else { 0 },
        ..AttemptRow::default()
    };
    let ending =
        (step == 3).then(|| Ending { reason: Reason::ExitCode.into(), exit_code: Some(0), ..Ending::default() });
    let row = TaskRow {
        id: id(n).to_bytes().to_vec(),
        payload: vec![7; 32],
        state: state.into(),
        attempts: if step > 0 { vec![attempt] } else { Vec::new() },
        created_unix_ms: 1_760_000_000_000,
        ended_unix_ms: if step > 2 { 1_760_000_000_000 } else { 0 },
        ending,
        next_attempt: 2,
        version: step as u64 + 1,
        history: step as u32 + 1,
        ..TaskRow::default()
    };
    TaskChange { row, facts: Arc::clone(facts), own: Arc::clone(own), fresh: step == 0 }
}

fn facts() -> (Arc<Facts>, Arc<Own>) {
    let own = Own { name: "job".into(), ..Own::default() };
    let facts = Facts { owner: "ops".into(), cpu_millis: 1000, kind: "command".into(), ..Facts::default() };
    (Arc::new(facts), Arc::new(own))
}

fn line(n: u64, step: usize) -> HistoryEvent {
    let kind = ["submitted", "assigned", "started", "succeeded"][step];
    let attempt = u32::from(step > 0);
    HistoryEvent {
        task: id(n),
        seq: step as u32 + 1,
        unix_ms: 1_760_000_000_000,
        kind,
        attempt,
        detail: if step == 1 { "to 0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b".into() } else { String::new() },
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn four_writes_and_four_lines_a_task() {
    let data = Data::new("bench");
    let mut store = Sqlite::open(&data.0).unwrap();
    let facts = facts();
    let mut seq = 0;
    for queued in [0_u64, 1_000_000] {
        let base = 10 + queued;
        let (wall, cpu, bytes) = (Instant::now(), cpu_us(), written());
        for round in 0..COMMITS {
            for step in 0..4 {
                let tasks: Vec<u64> = (base + round * TOGETHER..base + (round + 1) * TOGETHER).collect();
                seq += 1;
                let batch = Batch {
                    tasks: tasks.iter().map(|n| change(*n, step, &facts)).collect(),
                    history: tasks.iter().map(|n| line(*n, step)).collect(),
                    ..Batch::default()
                };
                let payloads =
                    if step == 0 { vec![([7; 32], Bytes::from_static(&[1; 200])); tasks.len()] } else { Vec::new() };
                store.commit(store.identity().epoch, &Commit { seq, batch, payloads, ..Commit::default() }).unwrap();
            }
        }
        let tasks = (COMMITS * TOGETHER) as f64;
        println!(
            "{:.1} us CPU, {:.1} us wall, {:.0} bytes written a task",
            (cpu_us() - cpu) / tasks,
            wall.elapsed().as_secs_f64() * 1e6 / tasks,
            (written() - bytes) as f64 / tasks
        );
    }
    println!("{} bytes of database a task", std::fs::metadata(data.db()).unwrap().len() / (2 * COMMITS * TOGETHER));
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn a_start_with_a_million_queued() {
    let data = Data::new("million");
    let facts = facts();
    let mut store = Sqlite::open(&data.0).unwrap();
    let started = Instant::now();
    for seq in 1..=100 {
        let tasks: Vec<u64> = (seq * 10_000..(seq + 1) * 10_000).collect();
        let batch = Batch {
            tasks: tasks.iter().map(|n| change(*n, 0, &facts)).collect(),
            history: tasks.iter().map(|n| line(*n, 0)).collect(),
            ..Batch::default()
        };
        let payloads = vec![([7; 32], Bytes::from_static(&[1; 200]))];
        store.commit(store.identity().epoch, &Commit { seq, batch, payloads, ..Commit::default() }).unwrap();
    }
    println!("written in {:.1?}", started.elapsed());
    drop(store);
    let started = Instant::now();
    let store = Sqlite::open(&data.0).unwrap();
    println!("opened in {:.1?}, {} MB", started.elapsed(), std::fs::metadata(data.db()).unwrap().len() >> 20);
    let started = Instant::now();
    let mut reader = store.reader().unwrap();
    let mut failed = None;
    assert_eq!(Live::new(&mut *reader, &mut failed).count(), 1_000_000);
    assert!(failed.is_none());
    println!("loaded in {:.1?}", started.elapsed());
}
