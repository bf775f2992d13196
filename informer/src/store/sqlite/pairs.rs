//! Files that belong together, and files that do not.

use super::tests::{Data, Files, commit, commits, files, put};
use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::fs;

/// A store whose log began anew after its second commit and has the third: as a kill leaves it then, and what was there after the second,
/// when none of the second was in the file.
fn turned(name: &str) -> (Data, [Files; 2]) {
    let data = Data::new(name);
    let mut store = Sqlite::open(&data.0).unwrap();
    commit(&mut store, 1);
    commit(&mut store, 2);
    let second = files(&data);
    store.move_log(at(&store, 2), 0).unwrap();
    commit(&mut store, 3);
    let third = files(&data);
    assert_ne!(second[&log::of(&data.db())][16..24], third[&log::of(&data.db())][16..24], "it began anew");
    drop(store);
    (data, [second, third])
}

fn at(store: &Sqlite, commit_seq: u64) -> Reached {
    Reached { commit_seq, ..store.claimed() }
}

/// One's file under another's log, with or without a witness.
fn mixed(data: &Data, file: &Files, log: &Files, witness: Option<&Files>) -> Files {
    let mut mixture: Files = log.clone();
    mixture.insert(data.db(), file[&data.db()].clone());
    let beside = witness::beside(&data.db());
    mixture.remove(&beside);
    if let Some(witness) = witness {
        mixture.insert(beside.clone(), witness[&beside].clone());
    }
    mixture
}

/// Is refused as a mixture, vouched for or not, and left as it was.
fn refuses_mixture(data: &Data, mixture: &Files, why: &str) {
    put(data, mixture);
    for refused in [Sqlite::open(&data.0), Sqlite::open_restored(&data.0)] {
        let error = refused.expect_err("a mixture was opened");
        assert!(matches!(error, Error::Mixed { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(why) && said.contains("informer.db-wal"), "{said}");
        assert_eq!(&files(data), mixture);
        assert!(!open::beside(&data.db(), "-shm").exists(), "an index was left");
    }
}

#[test]
fn an_older_file_under_a_newer_log_is_refused() {
    let (data, [second, third]) = turned("older-file");
    for witness in [None, Some(&second), Some(&third)] {
        refuses_mixture(&data, &mixed(&data, &second, &third, witness), "the file is older than the log");
    }
    put(&data, &third);
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3);
}

#[test]
fn a_newer_file_under_an_older_log_is_refused() {
    let (data, [second, third]) = turned("newer-file");
    let mut first = second.clone();
    let log = log::of(&data.db());
    // Of the log that went into the file only its first commit is left.
    let ends = commits(&second[&log]);
    assert_eq!(ends.len(), 2);
    first.get_mut(&log).unwrap().truncate(ends[0]);
    refuses_mixture(&data, &mixed(&data, &third, &first, None), "the log is older than the file");
    // With a witness it is told what is missing, and cannot be vouched for either.
    put(&data, &mixed(&data, &third, &first, Some(&third)));
    assert!(matches!(Sqlite::open(&data.0), Err(Error::Behind { .. })));
    assert!(matches!(Sqlite::open_restored(&data.0), Err(Error::Mixed { .. })));
}

#[test]
fn the_log_of_another_database_is_refused() {
    let (data, [_, third]) = turned("own");
    let (other, [_, foreign]) = turned("foreign");
    let mut mixture = third.clone();
    mixture.insert(log::of(&data.db()), foreign[&log::of(&other.db())].clone());
    refuses_mixture(&data, &mixture, "another database");
    mixture.remove(&witness::beside(&data.db()));
    refuses_mixture(&data, &mixture, "another database");
}

#[test]
fn a_file_without_its_log_is_no_empty_store() {
    let data = Data::new("alone");
    let mut store = Sqlite::open(&data.0).unwrap();
    commit(&mut store, 1);
    let killed = files(&data);
    drop(store);
    let alone: Files = [(data.db(), killed[&data.db()].clone())].into();
    put(&data, &alone);
    let error = Sqlite::open(&data.0).expect_err("what was lost was not missed");
    assert!(matches!(error, Error::NoLog { .. }), "{error:?}");
    assert_eq!(files(&data), alone);
    // An empty log is none.
    fs::write(log::of(&data.db()), "").unwrap();
    assert!(matches!(Sqlite::open(&data.0), Err(Error::NoLog { .. })));
    drop(Sqlite::open_restored(&data.0).unwrap());
    drop(Sqlite::open(&data.0).expect("it is asked for once"));
}

#[test]
fn a_file_whose_log_somebody_else_has_moved_is_whole() {
    let (data, [_, third]) = turned("looked-at");
    put(&data, &third);
    // What `sqlite3 informer.db` does when it ends.
    let db = Connection::open(data.db()).unwrap();
    let _: i64 = db.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).unwrap();
    db.close().unwrap();
    assert!(!log::of(&data.db()).exists());
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3);
}

#[test]
fn a_store_that_ended_in_order_needs_neither_log_nor_witness() {
    let (data, _) = turned("in-order");
    assert!(!log::of(&data.db()).exists(), "it was moved at the end");
    fs::remove_file(witness::beside(&data.db())).unwrap();
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 3);
}

#[test]
fn a_log_that_another_connection_keeps_is_no_fault() {
    let data = Data::new("kept-log");
    let mut store = Sqlite::open(&data.0).unwrap();
    let reader = open::connect_to_read(&data.db()).unwrap();
    let snapshot = reader.unchecked_transaction().unwrap();
    let _: i64 = snapshot.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).unwrap();
    commit(&mut store, 1);
    drop(store);
    drop(snapshot);
    drop(reader);
    assert!(log::of(&data.db()).exists());
    assert_eq!(Sqlite::open(&data.0).unwrap().identity().commit_seq, 1);
}

#[test]
fn a_database_of_an_earlier_version_is_taken_with_its_log() {
    let data = Data::new("second-version");
    fs::create_dir_all(&data.0).unwrap();
    let mut db = Connection::open(data.db()).unwrap();
    db.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    schema::migrate_to(&mut db, &data.db(), 0, 2).unwrap();
    meta::make(&db).unwrap();
    db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())).unwrap();
    log::leave(&db).unwrap();
    db.execute("UPDATE meta SET epoch = 5, commit_seq = 9", []).unwrap();
    drop(db);
    assert!(alone::has_log(&data.db()));
    let store = Sqlite::open(&data.0).unwrap();
    assert_eq!(store.identity().commit_seq, 9);
    assert!(store.moved.commit_seq == 9, "and from now on it is known what is in the file");
}

/// What a power cut in the middle of a move may leave: each page of the file as it was before, or after.
fn cut_move(data: &Data, [before, after]: [&Files; 2], pages: &[bool]) -> Files {
    const PAGE: usize = 4096;
    let (old, new) = (&before[&data.db()], &after[&data.db()]);
    let mut file = Vec::new();
    for (at, start) in (0..new.len()).step_by(PAGE).enumerate() {
        let moved = pages[at % pages.len()];
        let from = if moved { new } else { old };
        // Of a page that was not there before, the file system shows zeros.
        let page = from.get(start..start + PAGE).map_or_else(|| vec![0; PAGE], <[u8]>::to_vec);
        file.extend(page);
    }
    let mut cut = before.clone();
    cut.insert(data.db(), file);
    cut
}

/// What one life of a store does.
#[derive(Debug, Clone)]
enum Step {
    Commit,
    /// Moves the log, all or, beside a reader, some of it.
    Move {
        beside_reader: bool,
    },
    /// Is killed.
    Kill,
    /// Ends in order.
    End,
    /// Is killed while it moves the log, and the power is cut.
    CutMove(Vec<bool>),
    /// Is killed when the new head of the log is written, and the power is cut before its first frame is.
    CutTurn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Commit),
        2 => any::<bool>().prop_map(|beside_reader| Step::Move { beside_reader }),
        1 => Just(Step::Kill),
        1 => Just(Step::End),
        2 => prop::collection::vec(any::<bool>(), 1..9).prop_map(Step::CutMove),
        1 => Just(Step::CutTurn),
    ]
}

/// One life after the other on one directory; what was committed is there in each.
fn live(data: &Data, steps: &[Step]) -> Result<(), Error> {
    let mut store = Sqlite::open(&data.0)?;
    let mut seq = store.identity().commit_seq;
    let again = |left: &Files, seq: u64| -> Result<Sqlite, Error> {
        put(data, left);
        let store = Sqlite::open(&data.0)?;
        assert_eq!(store.identity().commit_seq, seq);
        Ok(store)
    };
    for step in steps {
        let reached = Reached { epoch: store.identity.epoch, commit_seq: seq };
        match step {
            Step::Commit => {
                seq += 1;
                commit(&mut store, seq);
            }
            Step::Move { beside_reader: false } => store.move_log(reached, 0)?,
            Step::Move { beside_reader: true } => {
                let reader = open::connect_to_read(&data.db())?;
                let snapshot = reader.unchecked_transaction().unwrap();
                let _: i64 = snapshot.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap();
                seq += 1;
                commit(&mut store, seq);
                store.move_log(Reached { commit_seq: seq, ..reached }, 0)?;
            }
            Step::Kill => {
                let left = files(data);
                drop(store);
                store = again(&left, seq)?;
            }
            Step::End => {
                drop(store);
                store = Sqlite::open(&data.0)?;
                assert_eq!(store.identity().commit_seq, seq);
            }
            Step::CutMove(pages) => {
                let before = files(data);
                store.move_log(reached, 0)?;
                let after = files(data);
                drop(store);
                store = again(&cut_move(data, [&before, &after], pages), seq)?;
            }
            Step::CutTurn => {
                store.move_log(reached, 0)?;
                let moved = files(data);
                seq += 1;
                commit(&mut store, seq);
                let mut left = files(data);
                left.get_mut(&log::of(&data.db())).unwrap()[32..].fill(0);
                let head = log::of(&data.db());
                assert_ne!(left[&head][16..24], moved[&head][16..24], "it began anew");
                // Nobody was told of it.
                seq -= 1;
                left.insert(witness::beside(&data.db()), moved[&witness::beside(&data.db())].clone());
                drop(store);
                store = again(&left, seq)?;
            }
        }
    }
    Ok(())
}

#[test]
fn no_sound_store_is_refused_whatever_was_cut_off_when() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..20), |steps| {
        let data = Data::new("lives");
        live(&data, &steps).map_err(|error| TestCaseError::fail(error.to_string()))
    });
    outcome.unwrap_or_else(|found| panic!("{found}"));
}

#[test]
fn a_backup_is_a_store_of_its_own() {
    let data = Data::new("backed-up");
    let mut store = Sqlite::open(&data.0).unwrap();
    commit(&mut store, 1);
    let into = Data::new("backup");
    fs::create_dir_all(&into.0).unwrap();
    assert_eq!(backup(&data.0, &into.0).unwrap().commit_seq, 1);
    assert_eq!(files(&into).keys().collect::<Vec<_>>(), [&into.db()], "nothing else is needed");
    commit(&mut store, 2);
    drop(store);
    let copy = Sqlite::open(&into.0).unwrap();
    assert_eq!(copy.identity().commit_seq, 1);
    assert_eq!(copy.reader().unwrap().live(None, 9).unwrap().len(), 1);
    // Nothing is written over.
    assert!(matches!(backup(&data.0, &into.0), Err(Error::File { .. })));
}

#[test]
fn a_backup_of_a_killed_informers_files_leaves_them_as_they_are() {
    let (data, [second, third]) = turned("backup-of-killed");
    let into = Data::new("backup-killed");
    fs::create_dir_all(&into.0).unwrap();
    put(&data, &third);
    assert_eq!(backup(&data.0, &into.0).unwrap().commit_seq, 3);
    assert_eq!(files(&data), third);
    fs::remove_file(into.db()).unwrap();
    put(&data, &mixed(&data, &second, &third, None));
    assert!(matches!(backup(&data.0, &into.0), Err(Error::Mixed { .. })), "no copy of a mixture");
    assert!(matches!(backup(&into.0, &data.0), Err(Error::File { .. })), "there is none to copy");
}
