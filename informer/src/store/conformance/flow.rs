//! Workflows: definitions, runs with what belongs to them, and the bodies that they share with tasks.

use super::{Open, World, change, payload, row};
use crate::machine::{Batch, PayloadHandle, RunChange, RunId, RunKeyHit};
use crate::store::{Commit, Error, RunFilter};
use bytes::Bytes;
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow, TaskRow};
use proto::v1::{RunStatus, TaskState};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use workflow::evaluate::Handle;
use workflow::run::{PartRow, StepRow};

pub(super) const PARTS: [fn(Open); 9] = [
    definitions_are_read_by_version_and_replaced,
    a_run_comes_back_with_its_steps_parts_and_lines,
    only_runs_that_are_not_over_are_live,
    a_runs_key_is_its_own,
    a_runs_row_is_inserted_once,
    searches_select_and_page,
    searches_look_into_inputs_and_outputs,
    bodies_are_held_by_runs_and_tasks_alike,
    a_pruned_run_leaves_nothing_and_a_child_stays_with_its_parent,
];

fn definition(name: &str, version: u32, json: &str) -> DefinitionRow {
    DefinitionRow { name: name.into(), version, json: json.into(), digest: vec![1; 32], ..DefinitionRow::default() }
}

fn run(id: &str, status: RunStatus) -> RunRow {
    let mut run = RunRow {
        id: id.into(),
        name: "w".into(),
        version: 1,
        owner: "ops".into(),
        started_unix_ms: 10,
        definition: vec![7; 32],
        body: br#"{"reason":"it broke"}"#.to_vec(),
        ..RunRow::default()
    };
    run.set_status(status);
    if !matches!(status, RunStatus::Running | RunStatus::Paused) {
        run.ended_unix_ms = 20;
    }
    run
}

fn changed(row: RunRow, fresh: bool) -> RunChange {
    RunChange {
        id: row.id.as_str().into(),
        row: Some(row),
        fresh,
        steps: Vec::new(),
        removed: Vec::new(),
        parts_removed: false,
        parts: Vec::new(),
        holds: Vec::new(),
    }
}

fn step(number: u32) -> StepRow {
    let json = serde_json::json!({"step": number, "node": {"part": 0, "node": 0}, "scope": [], "order": [number],
        "status": "SCHEDULED", "phase": "sent", "flow": "open", "mapped": true, "ticket": 1, "retry_count": 0,
        "child_era": 0, "iteration": 0, "open": 0, "failed": 0, "errors": 0, "lane_done": false, "first_ms": 1,
        "scheduled_ms": 1});
    serde_json::from_value(json).unwrap()
}

fn start(world: &mut World, rows: &[RunRow]) {
    let runs = rows.iter().map(|row| changed(row.clone(), true)).collect();
    world.try_commit(Batch { runs, ..Batch::default() }).unwrap();
}

fn ids(world: &mut World, filter: &RunFilter) -> Vec<String> {
    world.reader.runs(filter).unwrap().rows.into_iter().map(|row| row.id).collect()
}

fn definitions_are_read_by_version_and_replaced(mut open: Open) {
    let mut world = World::open(&mut open);
    let (one, two, other) = (definition("w", 1, "{}"), definition("w", 2, "[]"), definition("v", 9, "{}"));
    let put = |world: &mut World, definitions| {
        world.try_commit(Batch { definitions, ..Batch::default() }).unwrap();
    };
    put(&mut world, vec![one.clone(), two.clone(), other.clone()]);
    assert_eq!(world.reader.definition("w", None).unwrap(), Some(two.clone()));
    assert_eq!(world.reader.definition("w", Some(1)).unwrap(), Some(one.clone()));
    assert_eq!(world.reader.definition("w", Some(3)).unwrap(), None);
    assert_eq!(world.reader.definitions(None, None, 9).unwrap(), [other.clone(), one.clone(), two.clone()]);
    assert_eq!(world.reader.definitions(None, Some(("v", 9)), 1).unwrap(), std::slice::from_ref(&one));
    assert_eq!(world.reader.definitions(Some("w"), Some(("w", 1)), 9).unwrap(), std::slice::from_ref(&two));
    let replaced = definition("w", 1, "{\"x\":1}");
    let gone = DefinitionRow { deleted: true, ..two };
    put(&mut world, vec![replaced.clone(), gone]);
    let task = TaskDefinitionRow { name: "t".into(), json: b"{}".to_vec(), ..TaskDefinitionRow::default() };
    let task_definitions = vec![task.clone()];
    world.try_commit(Batch { task_definitions, ..Batch::default() }).unwrap();
    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(world.reader.definition("w", None).unwrap(), Some(replaced));
    assert_eq!(world.reader.task_definition("t").unwrap(), Some(task.clone()));
    assert_eq!(world.reader.task_definitions(None, 9).unwrap(), std::slice::from_ref(&task));
    let task_definitions = vec![TaskDefinitionRow { deleted: true, ..task }];
    world.try_commit(Batch { task_definitions, ..Batch::default() }).unwrap();
    assert_eq!(world.reader.task_definition("t").unwrap(), None);
}

fn a_run_comes_back_with_its_steps_parts_and_lines(mut open: Open) {
    let mut world = World::open(&mut open);
    let part = |part| PartRow { part, tasks: Handle([part as u8; 32]), depth: 0 };
    let line = |seq, kind: &str| RunEventRow { run: "r".into(), seq, kind: kind.into(), ..RunEventRow::default() };
    let first = RunChange {
        steps: vec![step(0), step(1), step(2)],
        parts: vec![part(1), part(2)],
        ..changed(run("r", RunStatus::Running), true)
    };
    let run_events = vec![line(1, "started")];
    world.try_commit(Batch { runs: vec![first], run_events, ..Batch::default() }).unwrap();
    let again = StepRow { retry_count: 3, ..step(1) };
    let second = RunChange {
        row: None,
        steps: vec![again.clone()],
        removed: vec![0],
        parts_removed: true,
        parts: vec![part(1)],
        ..changed(run("r", RunStatus::Running), false)
    };
    let run_events = vec![line(2, "paused")];
    world.try_commit(Batch { runs: vec![second], run_events, ..Batch::default() }).unwrap();
    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(world.reader.run("r").unwrap(), Some(run("r", RunStatus::Running)));
    assert_eq!(world.reader.run_steps("r", 0, 9).unwrap(), [again, step(2)]);
    assert_eq!(world.reader.run_steps("r", 2, 9).unwrap(), [step(2)]);
    assert_eq!(world.reader.run_steps("r", 0, 1).unwrap().len(), 1);
    assert_eq!(world.reader.run_parts("r").unwrap(), [part(1)]);
    assert_eq!(world.reader.run_events("r", 0, 9).unwrap(), [line(1, "started"), line(2, "paused")]);
    assert_eq!(world.reader.run_events("r", 1, 9).unwrap(), [line(2, "paused")]);
}

fn only_runs_that_are_not_over_are_live(mut open: Open) {
    let mut world = World::open(&mut open);
    let telling = RunRow { pending_start: "{}".into(), ..run("b", RunStatus::Failed) };
    let rows =
        [run("a", RunStatus::Running), telling.clone(), run("c", RunStatus::Completed), run("d", RunStatus::Paused)];
    start(&mut world, &rows);
    let live = |world: &mut World, after: Option<&str>| -> Vec<String> {
        world.reader.live_runs(after, 9).unwrap().into_iter().map(|row| row.id).collect()
    };
    assert_eq!(live(&mut world, None), ["a", "b", "d"]);
    assert_eq!(live(&mut world, Some("a")), ["b", "d"]);
    let runs = vec![changed(run("b", RunStatus::Failed), false), changed(run("d", RunStatus::Terminated), false)];
    world.try_commit(Batch { runs, ..Batch::default() }).unwrap();
    assert_eq!(live(&mut world, None), ["a"]);
}

fn a_runs_key_is_its_own(mut open: Open) {
    let mut world = World::open(&mut open);
    // Tasks have keys of their own.
    world.put(vec![TaskRow { key: "k".into(), ..row(1, TaskState::Ready) }]);
    let keyed = |id| RunRow { key: "k".into(), key_digest: vec![9; 32], ..run(id, RunStatus::Running) };
    start(&mut world, &[keyed("r")]);
    assert_eq!(world.reader.run_key("k").unwrap(), Some(RunKeyHit { run: "r".into(), digest: [9; 32] }));
    assert_eq!(world.reader.run_key("other").unwrap(), None);
    let outcome = world.try_commit(Batch { runs: vec![changed(keyed("s"), true)], ..Batch::default() });
    assert!(matches!(outcome, Err(Error::KeyTaken { .. })), "{outcome:?}");
}

fn a_runs_row_is_inserted_once(mut open: Open) {
    let mut world = World::open(&mut open);
    start(&mut world, &[run("r", RunStatus::Running)]);
    let runs = vec![changed(run("r", RunStatus::Running), true)];
    let outcome = world.try_commit(Batch { runs, ..Batch::default() });
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
    drop(world);
    let runs = vec![changed(run("other", RunStatus::Running), false)];
    let outcome = World::open(&mut open).try_commit(Batch { runs, ..Batch::default() });
    assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
}

fn searches_select_and_page(mut open: Open) {
    let mut world = World::open(&mut open);
    let mut labelled = run("b", RunStatus::Failed);
    labelled.labels.insert("film".into(), "x".into());
    labelled.correlation = "c1".into();
    let other = RunRow { name: "v".into(), owner: "day".into(), started_unix_ms: 99, ..run("c", RunStatus::Running) };
    let child = RunRow { parent: "a".into(), ..run("a.0", RunStatus::Running) };
    start(&mut world, &[run("a", RunStatus::Running), labelled, other, child]);
    let all = RunFilter::default();
    assert_eq!(ids(&mut world, &all), ["c", "b", "a.0", "a"]);
    let mut only = |filter: RunFilter| ids(&mut world, &filter);
    assert_eq!(only(RunFilter { statuses: vec![RunStatus::Failed], ..all.clone() }), ["b"]);
    let both = vec![RunStatus::Failed, RunStatus::Running];
    assert_eq!(only(RunFilter { statuses: both, ..all.clone() }).len(), 4);
    assert_eq!(only(RunFilter { name: Some("v".into()), ..all.clone() }), ["c"]);
    assert_eq!(only(RunFilter { owner: Some("day".into()), ..all.clone() }), ["c"]);
    assert_eq!(only(RunFilter { correlation: Some("c1".into()), ..all.clone() }), ["b"]);
    let labels = [("film".to_owned(), "x".to_owned())].into();
    assert_eq!(only(RunFilter { labels, ..all.clone() }), ["b"]);
    assert_eq!(only(RunFilter { parent: Some("a".into()), ..all.clone() }), ["a.0"]);
    assert_eq!(only(RunFilter { started_after_unix_ms: Some(50), ..all.clone() }), ["c"]);
    assert_eq!(only(RunFilter { started_before_unix_ms: Some(5), ..all.clone() }), [""; 0]);
    assert_eq!(only(RunFilter { reason: Some("broke".into()), ..all.clone() }).len(), 4);
    assert_eq!(only(RunFilter { version: Some(2), ..all.clone() }), [""; 0]);
    let text = |text: &str| RunFilter { text: Some(text.into()), ..RunFilter::default() };
    let mut only = |filter: RunFilter| ids(&mut world, &filter);
    assert_eq!(only(text("c1")), ["b"]);
    assert_eq!(only(text("fil")), ["b"]);
    assert_eq!(only(text("day")), ["c"]);
    assert_eq!(only(text("nowhere")), [""; 0]);
    let page = world.reader.runs(&RunFilter { page_size: 3, ..all.clone() }).unwrap();
    assert_eq!((page.rows.len(), page.next.as_deref()), (3, Some("a.0")));
    assert_eq!(ids(&mut world, &RunFilter { before: page.next, ..all }), ["a"]);
}

fn bodies(world: &mut World, handles: &[PayloadHandle]) -> usize {
    world.reader.payloads(handles).unwrap().len()
}

fn bodies_are_held_by_runs_and_tasks_alike(mut open: Open) {
    let mut world = World::open(&mut open);
    let ([shared, own, unheld], texts) = ([payload(1).0, payload(2).0, payload(3).0], [1, 2, 3].map(payload));
    let task = TaskRow { payload: shared.to_vec(), ..row(1, TaskState::Succeeded) };
    let holding = |id: &str| RunChange { holds: vec![shared, own], ..changed(run(id, RunStatus::Completed), true) };
    let batch = Batch {
        tasks: vec![change(task)],
        runs: vec![holding("r"), holding("s")],
        bodies: vec![texts[2].clone()],
        ..Batch::default()
    };
    let payloads = texts[..2].to_vec();
    world.commit(Commit { batch, payloads, ..Commit::default() }).unwrap();
    assert_eq!(bodies(&mut world, &[shared, own, unheld]), 3);
    drop(world);
    let mut world = World::open(&mut open);
    assert_eq!(bodies(&mut world, &[shared, own, unheld]), 2, "what nobody has goes at the next start");
    // Held once more by the same run: nothing is counted twice.
    let again = RunChange { holds: vec![shared, own], ..changed(run("r", RunStatus::Completed), false) };
    world.try_commit(Batch { runs: vec![again], ..Batch::default() }).unwrap();
    let prune_runs =
        |runs: &[&str]| Commit { prune_runs: runs.iter().map(|run| RunId::from(*run)).collect(), ..Commit::default() };
    world.commit(prune_runs(&["r"])).unwrap();
    assert_eq!(bodies(&mut world, &[shared, own]), 2);
    world.commit(prune_runs(&["s"])).unwrap();
    assert_eq!(bodies(&mut world, &[shared, own]), 1, "the task still has its own");
    world.commit(Commit { prune: vec![super::array::task(1)], ..Commit::default() }).unwrap();
    assert_eq!(bodies(&mut world, &[shared, own]), 0);
}

fn a_pruned_run_leaves_nothing_and_a_child_stays_with_its_parent(mut open: Open) {
    let mut world = World::open(&mut open);
    let mut old = RunRow { key: "k".into(), key_digest: vec![9; 32], ..run("r", RunStatus::Completed) };
    old.labels.insert("film".into(), "x".into());
    let whole = RunChange {
        steps: vec![step(0)],
        parts: vec![PartRow { part: 1, tasks: Handle([1; 32]), depth: 0 }],
        ..changed(old.clone(), true)
    };
    let child = RunRow { parent: "p".into(), ..run("p.0", RunStatus::Completed) };
    let run_events = vec![RunEventRow { run: "r".into(), seq: 1, ..RunEventRow::default() }];
    let after = changed(run("s", RunStatus::Completed), true);
    let runs = vec![whole, after, changed(run("p", RunStatus::Running), true), changed(child, true)];
    world.try_commit(Batch { runs, run_events, ..Batch::default() }).unwrap();
    assert!(world.reader.prunable_runs(20, u64::MAX, 9).unwrap().is_empty(), "they ended at 20");
    assert_eq!(world.reader.prunable_runs(21, u64::MAX, 9).unwrap(), ["r", "s"].map(RunId::from));
    assert_eq!(world.reader.prunable_runs(0, 0, 9).unwrap(), ["r", "s"].map(RunId::from));
    // Together with its step it is as large as two; the first goes however large it is.
    for (limit, found) in [(1, &["r"][..]), (2, &["r"]), (3, &["r", "s"])] {
        let runs = world.reader.prunable_runs(0, 0, limit).unwrap();
        assert_eq!(runs, found.iter().map(|run| RunId::from(*run)).collect::<Vec<_>>(), "{limit}");
    }
    world.commit(Commit { prune_runs: vec!["r".into(), "s".into(), "never".into()], ..Commit::default() }).unwrap();
    assert_eq!(world.reader.run("r").unwrap(), None);
    assert_eq!(world.reader.run_steps("r", 0, 9).unwrap(), []);
    assert_eq!(world.reader.run_parts("r").unwrap(), []);
    assert_eq!(world.reader.run_events("r", 0, 9).unwrap(), []);
    assert_eq!(world.reader.run_key("k").unwrap(), None);
    let labels = [("film".to_owned(), "x".to_owned())].into();
    assert_eq!(ids(&mut world, &RunFilter { labels, ..RunFilter::default() }), [""; 0]);
    start(&mut world, &[old]);
}

fn searches_look_into_inputs_and_outputs(mut open: Open) {
    let mut world = World::open(&mut open);
    let body = |json: serde_json::Value| {
        let text = json.to_string();
        (Handle(Sha256::digest(&text).into()), Bytes::from(text))
    };
    let (film, other) = (body(json!({"film": {"name": "a \"b\""}, "n": 3, "list": [7]})), body(json!({"n": 4})));
    let result = body(json!({"frames": 99}));
    let of = |id: &str, input: Handle, output: Option<Handle>| {
        let mut row = run(id, RunStatus::Running);
        let mut own: serde_json::Value = serde_json::from_slice(&row.body).unwrap();
        own["input"] = json!(input);
        own["output"] = json!(output);
        row.body = own.to_string().into_bytes();
        RunChange {
            holds: [Some(input), output].into_iter().flatten().map(|handle| handle.0).collect(),
            ..changed(row, true)
        }
    };
    let batch = Batch {
        runs: vec![of("a", film.0, Some(result.0)), of("b", other.0, None)],
        bodies: [film, other, result].map(|(handle, body)| (handle.0, body)).into(),
        ..Batch::default()
    };
    world.try_commit(batch).unwrap();
    let mut text = |text: &str| ids(&mut world, &RunFilter { text: Some(text.into()), ..RunFilter::default() });
    assert_eq!(text("frames"), ["a"]);
    assert_eq!(text("a \"b\""), ["a"], "as people write it, not as JSON does");
    assert_eq!(text("\"n\""), [""; 0]);
    let mut with = |pairs: &[(&str, &str)]| {
        let input = pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
        ids(&mut world, &RunFilter { input, ..RunFilter::default() })
    };
    assert_eq!(with(&[("film.name", "a \"b\"")]), ["a"]);
    assert_eq!(with(&[("n", "4")]), ["b"]);
    assert_eq!(with(&[("list.0", "7"), ("n", "3")]), ["a"]);
    assert_eq!(with(&[("list.0", "7"), ("n", "4")]), [""; 0]);
    assert_eq!(with(&[("film.nothing", "")]), [""; 0]);
}
