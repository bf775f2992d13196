use std::os::fd::AsFd;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("record-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        Self(dir)
    }
    fn create(&self) -> Writer {
        let dir = File::open(&self.0).unwrap();
        Writer::create(dir.as_fd(), &holder(), &codec::encode_spec(&spec())).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn process(pid: u32) -> ProcessId {
    ProcessId { boot_id: "boot".into(), pid_ns: 4, pid, start_ticks: 9, wall_ms: 1 }
}

fn holder() -> Holder {
    Holder { monitor: process(1), cgroup: "/sys/fs/cgroup/m1".into() }
}

fn spec() -> Spec {
    Spec { argv: vec!["true".into()], note: b"mine".to_vec(), ..Spec::default() }
}

fn end() -> End {
    End { code: Some(3), out_bytes: 12, ..End::default() }
}

#[test]
fn a_life_is_read_back_and_every_torn_tail_counts_as_absent() {
    let dir = Dir::new("life");
    let writer = dir.create();
    writer.spawned(&process(2), Some(&process(3))).unwrap();
    writer.trimmed((4096, 0)).unwrap();
    let end = End { out_base: 4096, ..end() };
    writer.exit(&end, true).unwrap();
    let record = read(&dir.0).unwrap();
    assert_eq!((record.spec.as_ref(), record.holder.as_ref()), (Some(&spec()), Some(&holder())));
    assert_eq!((record.spawned.as_ref(), record.init.as_ref()), (Some(&process(2)), Some(&process(3))));
    assert_eq!((record.bases, record.state()), ((4096, 0), ListedState::Ended(end)));
    let bytes = std::fs::read(dir.0.join(FILE)).unwrap();
    assert_eq!(record.valid_bytes, bytes.len() as u64);
    assert_eq!(record.home, Some(Home::of(&std::fs::metadata(&dir.0).unwrap())));
    for cut in 0..bytes.len() {
        std::fs::write(dir.0.join(FILE), &bytes[..cut]).unwrap();
        let record = read(&dir.0).unwrap();
        assert!(record.end.is_none() && record.valid_bytes <= cut as u64 && !record.damaged);
    }
}

#[test]
fn no_flipped_bit_makes_another_end_and_damage_is_told_from_a_torn_tail() {
    let dir = Dir::new("bits");
    let writer = dir.create();
    writer.spawned(&process(2), None).unwrap();
    writer.exit(&end(), true).unwrap();
    drop(writer);
    let whole = read(&dir.0).unwrap();
    let bytes = std::fs::read(dir.0.join(FILE)).unwrap();
    for bit in 0..8 * bytes.len() {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(dir.0.join(FILE), &bytes).unwrap();
        let record = read(&dir.0).unwrap();
        // A length that became greater looks like a frame that was cut short.
        assert!(record.end.is_none() && record != whole, "bit {bit}: {record:?}");
        assert!(record.damaged || record.valid_bytes < bytes.len() as u64, "bit {bit}");
        let settled = mark_lost(&dir.0).unwrap().unwrap();
        assert!(settled.lost && read(&dir.0).unwrap().state() == ListedState::Lost, "bit {bit}");
    }
    // In the middle, with a good end behind it.
    let middle = whole.valid_bytes as usize / 2;
    std::fs::write(dir.0.join(FILE), [&bytes[..middle], &[!bytes[middle]], &bytes[middle + 1..]].concat()).unwrap();
    assert!(read(&dir.0).unwrap().damaged);
}

#[test]
fn a_flipped_bit_hides_the_frame_it_is_in() {
    let dir = Dir::new("bit");
    dir.create().spawned(&process(2), None).unwrap();
    let mut bytes = std::fs::read(dir.0.join(FILE)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(dir.0.join(FILE), &bytes).unwrap();
    assert_eq!(read(&dir.0).unwrap().state(), ListedState::Starting);
}

#[test]
fn a_held_record_is_nobody_elses_and_a_released_one_is_lost_even_behind_a_torn_frame() {
    let dir = Dir::new("lost");
    let writer = dir.create();
    assert!(is_locked(&dir.0).unwrap());
    assert_eq!(mark_lost(&dir.0).unwrap(), None);
    drop(writer);
    assert!(!is_locked(&dir.0).unwrap());
    let mut bytes = std::fs::read(dir.0.join(FILE)).unwrap();
    bytes.extend_from_slice(&[7, 0, 0, 0, 1, 2]);
    std::fs::write(dir.0.join(FILE), &bytes).unwrap();
    assert!(mark_lost(&dir.0).unwrap().unwrap().lost);
    let record = read(&dir.0).unwrap();
    assert_eq!((record.state(), record.spec), (ListedState::Lost, Some(spec())));
}

#[test]
fn an_end_before_its_sweep_is_not_told_and_never_becomes_lost() {
    let dir = Dir::new("swept");
    let writer = dir.create();
    writer.spawned(&process(2), None).unwrap();
    writer.exit(&end(), false).unwrap();
    drop(writer);
    assert_eq!(read(&dir.0).unwrap().state(), ListedState::Running(process(2)));
    assert!(!mark_lost(&dir.0).unwrap().unwrap().lost);
    assert!(mark_swept(&dir.0).unwrap().unwrap().swept);
    assert_eq!(read(&dir.0).unwrap().state(), ListedState::Ended(end()));
}

#[test]
fn what_was_ended_for_its_lease_is_fenced_unless_it_has_an_end() {
    let dir = Dir::new("fenced");
    assert!(!is_condemned(&dir.0));
    condemn(&dir.0).unwrap();
    condemn(&dir.0).unwrap();
    assert!(is_condemned(&dir.0));
    let writer = dir.create();
    writer.spawned(&process(2), None).unwrap();
    assert_eq!(mark_fenced(&dir.0).unwrap(), None, "its monitor lives");
    drop(writer);
    std::fs::write(dir.0.join("out"), "said").unwrap();
    assert!(mark_fenced(&dir.0).unwrap().unwrap().is_final());
    let ListedState::Ended(end) = read(&dir.0).unwrap().state() else { panic!("it has ended") };
    assert_eq!((end.reason, end.code, end.signal, end.out_bytes), (crate::wire::EndReason::Fenced, None, None, 4));
    let ended = Dir::new("fenced-ended");
    let writer = ended.create();
    writer.exit(&self::end(), true).unwrap();
    drop(writer);
    mark_fenced(&ended.0).unwrap();
    assert_eq!(read(&ended.0).unwrap().state(), ListedState::Ended(self::end()));
}

#[test]
fn a_monitor_that_lost_the_race_for_its_record_does_not_run() {
    let dir = Dir::new("race");
    assert!(mark_lost(&dir.0).unwrap().unwrap().lost);
    let fd = File::open(&dir.0).unwrap();
    let error = Writer::create(fd.as_fd(), &holder(), &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_purge_is_whole_and_repeatable() {
    let dir = Dir::new("purge");
    let attempt = dir.0.join(ATTEMPTS).join("a.1");
    std::fs::create_dir_all(attempt.join("work")).unwrap();
    purge(&dir.0, "a.1").unwrap();
    purge(&dir.0, "a.1").unwrap();
    assert_eq!(std::fs::read_dir(dir.0.join(ATTEMPTS)).unwrap().count(), 0);
}

#[test]
fn names_are_one_path_component_without_surprises() {
    assert!(is_name("01a-b_c.2") && is_name(&"x".repeat(100)));
    for bad in ["", ".", "..", ".hidden", "a/b", "ä", "a b", &"x".repeat(101)] {
        assert!(!is_name(bad), "{bad}");
    }
}

#[test]
fn a_directory_is_the_same_where_it_is_moved_to_and_another_one_where_it_is_copied_to() {
    let dir = Dir::new("home");
    let [first, moved, copy] = ["first", "moved", "copy"].map(|name| dir.0.join(name));
    std::fs::create_dir(&first).unwrap();
    let handle = File::open(&first).unwrap();
    drop(Writer::create(handle.as_fd(), &holder(), &codec::encode_spec(&spec())).unwrap());
    assert!(!read(&first).unwrap().is_copied_to(&first));
    std::fs::rename(&first, &moved).unwrap();
    assert!(!read(&moved).unwrap().is_copied_to(&moved));
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(moved.join(FILE), copy.join(FILE)).unwrap();
    assert!(read(&copy).unwrap().is_copied_to(&copy));
}

#[test]
fn a_record_of_an_earlier_build_does_not_tell_its_directory() {
    let dir = Dir::new("earlier");
    let mut body = codec::Writer::tagged(SPEC);
    body.bytes(&codec::encode_process(&process(1)));
    body.text("");
    body.bytes(&codec::encode_spec(&spec()));
    let content = body.done();
    let mut frame = (content.len() as u32).to_le_bytes().to_vec();
    frame.extend(crc32(&content).to_le_bytes());
    frame.extend(content);
    std::fs::write(dir.0.join(FILE), frame).unwrap();
    let record = read(&dir.0).unwrap();
    assert_eq!((record.spec.as_ref(), record.home), (Some(&spec()), None));
    assert!(!record.is_copied_to(&dir.0));
}
