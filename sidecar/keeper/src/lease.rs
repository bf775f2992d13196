//! The lease page `<data>/lease`: the one number that must outlive the agent.
//!
//! The agent publishes the deadline of its lease; monitors and keeper read it when their timers fire, with the agent dead too.
//! Two slots of five words are written in turn, each closed by a checksum:
//!
//! ```text
//! sequence | boot id (hash) | incarnation | deadline ns | checksum      slot 0, slot 1
//! ```
//!
//! A reader takes the whole slot with the highest sequence. So an agent killed in the middle of a store costs only that store:
//! with one slot (or a seqlock) it would leave no lease at all and end every `stop` attempt at once.
//!
//! Behind the slots stands a seal: whose lease it is. A deadline guards what one informer has given to one sidecar, and the next agent
//! may be another sidecar's or speak to another informer: it must not prolong what runs for the one by what it has earned from the other.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::SharedWords;

const SLOT_WORDS: usize = 5;
/// Place of the seal. Builds that do not know it leave it as it is; it then names another incarnation than their slots.
const SEAL: usize = 2 * SLOT_WORDS;
const PAGE_BYTES: u64 = 4096;

/// Name of the page inside the data directory.
pub const FILE: &str = "lease";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    sequence: u64,
    boot: u64,
    incarnation: u64,
    deadline_ns: u64,
}

impl Entry {
    fn checksum(&self) -> u64 {
        hash([self.sequence, self.boot, self.incarnation, self.deadline_ns].map(u64::to_le_bytes).as_flattened())
    }
}

/// Whose lease a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    incarnation: u64,
    word: u64,
}

impl Seal {
    /// Of a lease that this sidecar's incarnation has earned from the informer of this lineage.
    #[must_use]
    pub fn of(sidecar: &[u8], lineage: &str, incarnation: u64) -> Self {
        let bytes = [sidecar, lineage.as_bytes(), &incarnation.to_le_bytes()].concat();
        Self { incarnation, word: hash(&bytes) }
    }

    /// Whether the same sidecar has earned both from the same informer.
    #[must_use]
    pub fn is_of(self, sidecar: &[u8], lineage: &str) -> bool {
        self == Self::of(sidecar, lineage, self.incarnation)
    }
}

/// FNV-1a with the offset changed, so that a page of zeros is no entry.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0x6c65_6173_6521_2121, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The mapped page. The agent writes it; keeper and monitors read it.
#[derive(Debug)]
pub struct LeasePage {
    words: SharedWords,
    boot: u64,
}

impl LeasePage {
    /// Opens the page in a data directory, creating it if it is absent.
    ///
    /// # Errors
    /// The file cannot be made, extended or mapped, or the boot id cannot be read.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_for_boot(data_dir, boot_id.trim())
    }

    fn open_for_boot(data_dir: &Path, boot_id: &str) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let file: File =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() < PAGE_BYTES {
            file.set_len(PAGE_BYTES)?;
        }
        Ok(Self { words: SharedWords::map(file.as_fd(), SEAL + 1)?, boot: hash(boot_id.as_bytes()) })
    }

    /// Publishes the lease's deadline in nanoseconds of `CLOCK_BOOTTIME`; 0 gives the lease up.
    pub fn publish(&self, deadline_boottime_ns: u64, incarnation: u64) {
        let newest = self.newest();
        let sequence = newest.map_or(1, |entry| entry.sequence + 1);
        let entry = Entry { sequence, boot: self.boot, incarnation, deadline_ns: deadline_boottime_ns };
        let slot = self.slot(sequence);
        // The checksum is broken first and mended last: a reader in between sees no entry here and takes the other slot.
        slot[4].store(0, Ordering::SeqCst);
        slot[0].store(entry.sequence, Ordering::SeqCst);
        slot[1].store(entry.boot, Ordering::SeqCst);
        slot[2].store(entry.incarnation, Ordering::SeqCst);
        slot[3].store(entry.deadline_ns, Ordering::SeqCst);
        slot[4].store(entry.checksum(), Ordering::SeqCst);
    }

    /// Says whose the deadlines are that are published from now on. An agent killed before the next of them leaves a seal that fits
    /// none, which is nobody's.
    pub fn seal(&self, seal: Seal) {
        self.words.words()[SEAL].store(seal.word, Ordering::SeqCst);
    }

    /// Whose the deadline last published in this boot is; `None` if there is none.
    #[must_use]
    pub fn sealed(&self) -> Option<Seal> {
        let newest = self.newest().filter(|entry| entry.boot == self.boot && entry.deadline_ns != 0)?;
        Some(Seal { incarnation: newest.incarnation, word: self.words.words()[SEAL].load(Ordering::SeqCst) })
    }

    /// The deadline last published in this boot, in nanoseconds of `CLOCK_BOOTTIME`; it may have passed. None if there is none.
    pub fn deadline(&self) -> Option<u64> {
        self.newest().filter(|entry| entry.boot == self.boot && entry.deadline_ns != 0).map(|entry| entry.deadline_ns)
    }

    /// The incarnation that published last in this boot.
    pub fn incarnation(&self) -> Option<u64> {
        self.newest().filter(|entry| entry.boot == self.boot).map(|entry| entry.incarnation)
    }

    /// Whether the lease is live now.
    pub fn is_live(&self, now_ns: u64) -> bool {
        self.deadline().is_some_and(|deadline| now_ns < deadline)
    }

    fn slot(&self, sequence: u64) -> &[AtomicU64] {
        let from = (sequence % 2) as usize * SLOT_WORDS;
        &self.words.words()[from..from + SLOT_WORDS]
    }

    fn newest(&self) -> Option<Entry> {
        let read = |slot: &[AtomicU64]| {
            let word = |at: usize| slot[at].load(Ordering::SeqCst);
            let checksum = word(4);
            let entry = Entry { sequence: word(0), boot: word(1), incarnation: word(2), deadline_ns: word(3) };
            (entry.checksum() == checksum).then_some(entry)
        };
        read(self.slot(0)).into_iter().chain(read(self.slot(1))).max_by_key(|entry| entry.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("lease-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        dir
    }

    #[test]
    fn readers_see_the_last_deadline_and_zero_gives_it_up() {
        let dir = directory("last");
        let (writer, reader) = (LeasePage::open(&dir).unwrap(), LeasePage::open(&dir).unwrap());
        assert_eq!(reader.deadline(), None);
        for deadline in 1..100 {
            writer.publish(deadline, 7);
            assert_eq!((reader.deadline(), reader.incarnation()), (Some(deadline), Some(7)));
        }
        assert!(reader.is_live(98) && !reader.is_live(99));
        writer.publish(0, 7);
        assert_eq!(reader.deadline(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_torn_store_costs_only_itself() {
        let dir = directory("torn");
        let page = LeasePage::open(&dir).unwrap();
        page.publish(10, 1);
        page.publish(20, 1);
        page.slot(2)[3].store(99, Ordering::SeqCst);
        assert_eq!(page.deadline(), Some(10));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lease_is_its_sidecars_and_its_informers() {
        let dir = directory("seal");
        let page = LeasePage::open(&dir).unwrap();
        assert_eq!(page.sealed(), None, "no lease is nobody's");
        page.publish(10, 1);
        assert!(page.sealed().is_some_and(|seal| !seal.is_of(b"box", "x")), "an earlier build's");
        page.seal(Seal::of(b"box", "x", 2));
        assert!(page.sealed().is_some_and(|seal| !seal.is_of(b"box", "x")), "nothing was published under it");
        page.publish(20, 2);
        let seal = LeasePage::open(&dir).unwrap().sealed().unwrap();
        assert!(seal.is_of(b"box", "x") && !seal.is_of(b"box", "y") && !seal.is_of(b"fox", "x"));
        page.publish(30, 3);
        assert!(
            page.sealed().is_some_and(|seal| !seal.is_of(b"box", "x")),
            "a later incarnation's, of an earlier build"
        );
        assert_eq!(page.deadline(), Some(30));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_page_of_another_boot_holds_no_lease() {
        let dir = directory("boot");
        LeasePage::open_for_boot(&dir, "before").unwrap().publish(u64::MAX, 1);
        let now = LeasePage::open_for_boot(&dir, "after").unwrap();
        assert_eq!((now.deadline(), now.incarnation()), (None, None));
        now.publish(5, 2);
        assert_eq!(now.deadline(), Some(5));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
