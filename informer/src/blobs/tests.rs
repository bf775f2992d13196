use super::format::FRAME_BYTES;
use super::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A data directory that goes with the test.
struct World {
    data: PathBuf,
    dir: Dir,
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("informer-blobs-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&data).unwrap();
        Self { dir: Dir::open(&data).unwrap(), data }
    }

    fn store(&self, attempt: AttemptId, out: &[u8], err: &[u8], facts: [Facts; 2]) {
        let mut writer = self.dir.writer().unwrap();
        put(&mut *writer, attempt, out, err, facts);
        let answers = writer.flush();
        assert!(matches!(&answers[..], [(stored, Ok(()))] if *stored == attempt), "{answers:?}");
    }

    fn read(&self, attempt: AttemptId, stream: LogStream, from: u64) -> (Option<u64>, Vec<u8>) {
        let mut log = self.dir.open(attempt).unwrap().expect("it is kept");
        let (mut first, mut bytes, mut offset) = (None, Vec::new(), from);
        while let Some((at, piece)) = log.read(stream, offset).unwrap() {
            first.get_or_insert(at);
            offset = at + piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        (first, bytes)
    }

    fn holds(&self, attempt: AttemptId) -> bool {
        self.dir.open(attempt).unwrap().is_some()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

#[test]
fn a_place_that_cannot_hold_logs_is_named_before_anything_is_made() {
    let world = World::new();
    Dir::check(&world.data.join("not there yet")).unwrap();
    Dir::check(&world.data).unwrap();
    for name in ["logs/parts", "logs"] {
        let path = world.data.join(name);
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let said = Dir::check(&world.data).unwrap_err().to_string();
        let begins = format!("cannot keep the logs of tasks in {}: not a directory; make it", path.display());
        assert!(said.starts_with(&begins), "{said}");
        std::fs::remove_file(&path).unwrap();
    }
}

fn put(writer: &mut dyn Writer, attempt: AttemptId, out: &[u8], err: &[u8], facts: [Facts; 2]) {
    writer.begin(attempt).unwrap();
    for piece in out.chunks(100_000) {
        writer.write(LogStream::Out, piece).unwrap();
    }
    for piece in err.chunks(100_000) {
        writer.write(LogStream::Err, piece).unwrap();
    }
    writer.finish(facts).unwrap();
}

fn attempt(task: u128, number: u32) -> AttemptId {
    AttemptId { task: TaskId::from_u128(task << 64), number }
}

const NOTHING: [Facts; 2] = [Facts { dropped: 0, truncated: false }; 2];

#[test]
fn a_log_is_read_back_from_any_offset() {
    let (world, one) = (World::new(), attempt(1, 1));
    let out: Vec<u8> = (0..3 * FRAME_BYTES + 17).map(|n| (n * n % 255) as u8).collect();
    let facts = [Facts::default(), Facts { dropped: 1_000, truncated: true }];
    world.store(one, &out, b"error", facts);
    for from in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES + 5, out.len() - 1, out.len(), out.len() + 9] {
        let (_, read) = world.read(one, LogStream::Out, from as u64);
        assert!(read == out[from.min(out.len())..], "from {from}");
    }
    assert_eq!(world.read(one, LogStream::Err, 0), (Some(1_000), b"error".to_vec()));
    assert_eq!(world.read(one, LogStream::Err, 1_002), (Some(1_002), b"ror".to_vec()));
    let log = world.dir.open(one).unwrap().unwrap();
    assert_eq!(log.facts(LogStream::Out), (facts[0], out.len() as u64));
    assert_eq!(log.facts(LogStream::Err), (facts[1], 1_005));
}

#[test]
fn many_logs_are_stored_together_and_an_unfinished_one_is_not() {
    let world = World::new();
    let mut writer = world.dir.writer().unwrap();
    for n in 1..=5 {
        put(&mut *writer, attempt(1, n), b"x", b"", NOTHING);
    }
    writer.begin(attempt(2, 1)).unwrap();
    writer.write(LogStream::Out, b"half").unwrap();
    assert!(!world.holds(attempt(1, 1)), "not before the flush");
    assert_eq!(writer.flush().iter().filter(|(_, result)| result.is_ok()).count(), 5);
    drop(writer);
    assert!(world.holds(attempt(1, 5)) && !world.holds(attempt(2, 1)));
    assert_eq!(std::fs::read_dir(world.dir.parts()).unwrap().count(), 0, "nothing is left over");
}

#[test]
fn a_crash_leaves_nothing_that_the_next_start_does_not_remove() {
    let world = World::new();
    std::fs::write(world.dir.parts().join("x.part"), "half").unwrap();
    Dir::open(&world.data).unwrap();
    assert_eq!(std::fs::read_dir(world.dir.parts()).unwrap().count(), 0);
}

#[test]
fn a_log_stored_again_replaces_the_first() {
    let (world, one) = (World::new(), attempt(1, 1));
    world.store(one, b"first", b"", NOTHING);
    world.store(one, b"second", b"", NOTHING);
    assert_eq!(world.read(one, LogStream::Out, 0).1, b"second");
}

#[test]
fn what_is_wrong_with_parts_costs_only_their_log() {
    let world = World::new();
    let mut writer = world.dir.writer().unwrap();
    assert!(matches!(writer.write(LogStream::Out, b"x"), Err(Error::Order)));
    writer.begin(attempt(1, 1)).unwrap();
    writer.write(LogStream::Err, b"x").unwrap();
    assert!(matches!(writer.write(LogStream::Out, b"x"), Err(Error::Order)));
    assert!(matches!(writer.finish(NOTHING), Err(Error::Order)));
    put(&mut *writer, attempt(2, 1), b"good", b"", NOTHING);
    assert_eq!(writer.flush().len(), 1);
    assert!(!world.holds(attempt(1, 1)) && world.holds(attempt(2, 1)));
}

#[test]
fn the_logs_of_pruned_tasks_go_and_only_those() {
    let world = World::new();
    let array = TaskId::from_u128(7 << 64);
    let member = |index| AttemptId { task: array.at(index).unwrap(), number: 1 };
    let all = [attempt(1, 1), attempt(1, 12), attempt(2, 1), member(0), member(5_000), member(50_000)];
    for one in all {
        world.store(one, b"x", b"", NOTHING);
    }
    world.dir.remove(&[attempt(1, 1).task, attempt(3, 1).task, array.at(5_000).unwrap()]).unwrap();
    assert_eq!(all.map(|one| world.holds(one)), [false, false, true, true, false, true]);
    world.dir.remove(&[array]).unwrap();
    assert_eq!(all.map(|one| world.holds(one)), [false, false, true, false, false, false]);
    world.dir.remove_attempt(attempt(2, 1)).unwrap();
    world.dir.remove_attempt(attempt(2, 1)).unwrap();
    assert!(!world.holds(attempt(2, 1)));
}

#[test]
fn a_damaged_file_is_an_error_that_names_it_and_never_another_log() {
    let (world, one) = (World::new(), attempt(1, 1));
    world.store(one, &[b'a'; 1000], b"", NOTHING);
    let path = world.dir.path(one);
    let whole = std::fs::read(&path).unwrap();
    for n in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[n] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let read = world.dir.open(one).and_then(|log| log.unwrap().read(LogStream::Out, 0));
        match read {
            Err(Error::Damaged { path: named, .. }) => assert_eq!(named, path),
            // A bit of a frame's header that means nothing.
            Ok(Some((0, bytes))) => assert!(bytes == [b'a'; 1000][..], "byte {n}"),
            other => panic!("byte {n}: {other:?}"),
        }
        std::fs::write(&path, &whole[..n]).unwrap();
        assert!(world.dir.open(one).is_err(), "cut at {n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_make_the_same_log(
        out in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400_000), 0..6),
        err in prop::collection::vec(any::<u8>(), 0..3_000),
        from in 0..2_000_000_usize,
    ) {
        let (world, one) = (World::new(), attempt(1, 1));
        let mut writer = world.dir.writer().unwrap();
        writer.begin(one).unwrap();
        for piece in &out {
            writer.write(LogStream::Out, piece).unwrap();
        }
        writer.write(LogStream::Err, &err).unwrap();
        writer.finish(NOTHING).unwrap();
        prop_assert!(writer.flush().iter().all(|(_, result)| result.is_ok()));
        let whole = out.concat();
        let from = from.min(whole.len());
        prop_assert!(world.read(one, LogStream::Out, from as u64).1 == whole[from..]);
        prop_assert!(world.read(one, LogStream::Err, 0).1 == err);
    }
}

#[test]
fn a_directory_that_was_removed_is_made_anew_by_the_next_log() {
    let world = World::new();
    let attempt = |number| AttemptId { task: TaskId::from_u128(7), number };
    world.store(attempt(1), b"first", b"", [Facts::default(); 2]);
    std::fs::remove_dir_all(world.data.join("logs")).unwrap();
    assert!(!world.holds(attempt(1)));
    world.store(attempt(2), b"second", b"", [Facts::default(); 2]);
    assert_eq!(world.read(attempt(2), LogStream::Out, 0).1, b"second");
}
