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
//!
//! **Anybody may remove, replace or cut the file**, so all go by its name and nobody maps it: a reader opens it at each look, and a writer
//! makes it again where it is missing. A mapping would go on showing the file that was there before, and whoever touches one of a file
//! that was cut to nothing is ended by SIGBUS. A deadline that was read stays in force: it was earned, whatever became of the file since.
//! So a reader whose file is gone, damaged or an older copy keeps to the last that it knows, and looks into the file that it had, too.
//! (Earlier builds map it. The layout is the same, and what one writes the other reads.)

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open, openat};

const SLOT_WORDS: usize = 5;
/// Place of the seal. Builds that do not know it leave it as it is; it then names another incarnation than their slots.
const SEAL: usize = 2 * SLOT_WORDS;
const WORDS: usize = SEAL + 1;
/// Earlier builds map a page of the file, and touching what lies beyond its end would end them.
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
    fn words(&self) -> [u64; SLOT_WORDS] {
        let [sequence, boot, incarnation, deadline_ns] = [self.sequence, self.boot, self.incarnation, self.deadline_ns];
        let checksum = hash([sequence, boot, incarnation, deadline_ns].map(u64::to_le_bytes).as_flattened());
        [sequence, boot, incarnation, deadline_ns, checksum]
    }

    fn read(slot: &[u64]) -> Option<Self> {
        let &[sequence, boot, incarnation, deadline_ns, _] = slot else { return None };
        let entry = Self { sequence, boot, incarnation, deadline_ns };
        (entry.words() == *slot).then_some(entry)
    }

    /// Whether it counts for one who knows the other. Numbers fall when a file was replaced, and a deadline of less than what was known
    /// is then an older copy's.
    const fn outdates(&self, known: &Self) -> bool {
        self.sequence >= known.sequence || self.deadline_ns > known.deadline_ns
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

/// What the file holds; what lies beyond its end reads as zeros, which are no entry.
struct Words([u64; WORDS]);

impl Words {
    fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0u8; WORDS * 8];
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(Self(words))
    }

    fn newest(&self) -> Option<Entry> {
        let slots = self.0[..SEAL].chunks(SLOT_WORDS);
        slots.filter_map(Entry::read).max_by_key(|entry| entry.sequence)
    }
}

/// The page of a data directory. The agent writes it; keeper and monitors read it.
#[derive(Debug)]
pub struct LeasePage {
    dir: OwnedFd,
    boot: u64,
    /// The last file in which there was an entry. If it is replaced, whoever has it open may still be told there.
    held: RefCell<Option<File>>,
    /// What counted at the last look.
    known: Cell<Option<Entry>>,
}

impl LeasePage {
    /// The page of a data directory; there need not be one yet.
    ///
    /// # Errors
    /// The directory cannot be opened, or the boot id cannot be read.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_for_boot(data_dir, boot_id.trim())
    }

    fn open_for_boot(data_dir: &Path, boot_id: &str) -> io::Result<Self> {
        Self::open_knowing(data_dir, hash(boot_id.as_bytes()), None)
    }

    fn open_knowing(data_dir: &Path, boot: u64, known: Option<Entry>) -> io::Result<Self> {
        let dir = open(data_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let page = Self { dir, boot, held: RefCell::new(None), known: Cell::new(known) };
        page.look();
        Ok(page)
    }

    /// The same page for a fork that has closed the descriptors of this one, and knows what this one knew.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn in_fork(&self, data_dir: &Path) -> io::Result<Self> {
        Self::open_knowing(data_dir, self.boot, self.known.get())
    }

    /// Publishes the lease's deadline in nanoseconds of `CLOCK_BOOTTIME`; 0 gives the lease up.
    ///
    /// # Errors
    /// The file cannot be made or written. What it said before may be gone.
    pub fn publish(&self, deadline_boottime_ns: u64, incarnation: u64) -> io::Result<()> {
        let file = self.writable()?;
        let newest = Words::read(&file)?.newest();
        let sequence = newest.map_or(1, |entry| entry.sequence.saturating_add(1));
        let entry = Entry { sequence, boot: self.boot, incarnation, deadline_ns: deadline_boottime_ns };
        // Half of it is no entry, and the other slot is left as it is: a reader in between takes that one.
        let at = (sequence % 2) as usize * SLOT_WORDS * 8;
        file.write_all_at(entry.words().map(u64::to_ne_bytes).as_flattened(), at as u64)
    }

    /// Says whose the deadlines are that are published from now on. An agent killed before the next of them leaves a seal that fits
    /// none, which is nobody's.
    ///
    /// # Errors
    /// The file cannot be made or written.
    pub fn seal(&self, seal: Seal) -> io::Result<()> {
        self.writable()?.write_all_at(&seal.word.to_ne_bytes(), SEAL as u64 * 8)
    }

    /// Whose the deadline last published in this boot is; `None` if there is none.
    #[must_use]
    pub fn sealed(&self) -> Option<Seal> {
        let words = self.named()?;
        let newest = words.newest().filter(|entry| entry.boot == self.boot && entry.deadline_ns != 0)?;
        Some(Seal { incarnation: newest.incarnation, word: words.0[SEAL] })
    }

    /// Whether the file of that name holds this deadline, under this seal, and all of it is there.
    #[must_use]
    pub fn holds(&self, deadline_boottime_ns: u64, seal: Seal) -> bool {
        let whole = || self.readable()?.metadata().map(|meta| meta.len() >= PAGE_BYTES);
        let newest = self.named().and_then(|words| words.newest());
        self.sealed() == Some(seal)
            && newest.is_some_and(|entry| entry.deadline_ns == deadline_boottime_ns)
            && whole().unwrap_or(false)
    }

    /// The deadline last published in this boot, in nanoseconds of `CLOCK_BOOTTIME`; it may have passed. None if there is none.
    pub fn deadline(&self) -> Option<u64> {
        self.look().0.filter(|entry| entry.deadline_ns != 0).map(|entry| entry.deadline_ns)
    }

    /// The same, and whether it is in doubt: the file of that name does not say so (any more), and its agent may be about to write a
    /// later one.
    pub fn deadline_and_doubt(&self) -> (Option<u64>, bool) {
        let (known, doubtful) = self.look();
        (known.filter(|entry| entry.deadline_ns != 0).map(|entry| entry.deadline_ns), doubtful)
    }

    /// The incarnation that published last in this boot.
    pub fn incarnation(&self) -> Option<u64> {
        self.look().0.map(|entry| entry.incarnation)
    }

    /// Whether the lease is live now.
    pub fn is_live(&self, now_ns: u64) -> bool {
        self.deadline().is_some_and(|deadline| now_ns < deadline)
    }

    /// What counts now, and whether the file of that name says something else.
    fn look(&self) -> (Option<Entry>, bool) {
        let newest = |file: &File| {
            let newest = Words::read(file).ok()?.newest();
            newest.filter(|entry| entry.boot == self.boot)
        };
        let named = self.readable().ok();
        let (before, now) = (self.held.borrow().as_ref().and_then(newest), named.as_ref().and_then(newest));
        for entry in before.into_iter().chain(now) {
            if self.known.get().is_none_or(|known| entry.outdates(&known)) {
                self.known.set(Some(entry));
            }
        }
        if now.is_some() {
            self.held.replace(named);
        }
        (self.known.get(), self.known.get() != now)
    }

    fn named(&self) -> Option<Words> {
        Words::read(&self.readable().ok()?).ok()
    }

    /// Not waiting, should it be a pipe.
    fn readable(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.dir, FILE, flags, Mode::empty())?.into())
    }

    fn writable(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.dir, FILE, flags, Mode::from_raw_mode(0o600))?);
        if file.metadata()?.len() < PAGE_BYTES {
            file.set_len(PAGE_BYTES)?;
        }
        Ok(file)
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
            writer.publish(deadline, 7).unwrap();
            assert_eq!((reader.deadline(), reader.incarnation()), (Some(deadline), Some(7)));
        }
        assert!(reader.is_live(98) && !reader.is_live(99));
        writer.publish(50, 7).unwrap();
        assert_eq!(reader.deadline(), Some(50), "a shorter one counts");
        writer.publish(0, 7).unwrap();
        assert_eq!(reader.deadline(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_torn_store_costs_only_itself() {
        let dir = directory("torn");
        let page = LeasePage::open(&dir).unwrap();
        page.publish(10, 1).unwrap();
        page.publish(20, 1).unwrap();
        page.writable().unwrap().write_all_at(&99u64.to_ne_bytes(), 3 * 8).unwrap();
        assert_eq!(page.deadline(), Some(10));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lease_is_its_sidecars_and_its_informers() {
        let dir = directory("seal");
        let page = LeasePage::open(&dir).unwrap();
        assert_eq!(page.sealed(), None, "no lease is nobody's");
        page.publish(10, 1).unwrap();
        assert!(page.sealed().is_some_and(|seal| !seal.is_of(b"box", "x")), "an earlier build's");
        page.seal(Seal::of(b"box", "x", 2)).unwrap();
        assert!(page.sealed().is_some_and(|seal| !seal.is_of(b"box", "x")), "nothing was published under it");
        page.publish(20, 2).unwrap();
        let seal = LeasePage::open(&dir).unwrap().sealed().unwrap();
        assert!(seal.is_of(b"box", "x") && !seal.is_of(b"box", "y") && !seal.is_of(b"fox", "x"));
        page.publish(30, 3).unwrap();
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
        LeasePage::open_for_boot(&dir, "before").unwrap().publish(u64::MAX, 1).unwrap();
        let now = LeasePage::open_for_boot(&dir, "after").unwrap();
        assert_eq!((now.deadline(), now.incarnation()), (None, None));
        now.publish(5, 2).unwrap();
        assert_eq!(now.deadline(), Some(5));
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// What somebody does to the file.
    type Harm = fn(&Path);

    /// A file that is removed, replaced or cut, and what the reader has from it then: the last that it could know, and no more.
    #[test]
    fn what_was_earned_stays_in_force_whatever_becomes_of_the_file() {
        let seal = Seal::of(b"box", "x", 1);
        let publish = |page: &LeasePage, deadline| page.seal(seal).and_then(|()| page.publish(deadline, 1)).unwrap();
        let harms: [(&str, Harm); 5] = [
            ("removed", |file| std::fs::remove_file(file).unwrap()),
            ("cut", |file| std::fs::File::create(file).map(drop).unwrap()),
            ("half", |file| std::fs::File::options().write(true).open(file).unwrap().set_len(32).unwrap()),
            ("garbage", |file| std::fs::write(file, [0xa5; 4096]).unwrap()),
            ("older", |file| std::fs::rename(file.with_extension("older"), file).unwrap()),
        ];
        for (name, harm) in harms {
            let dir = directory(name);
            let (writer, reader) = (LeasePage::open(&dir).unwrap(), LeasePage::open(&dir).unwrap());
            publish(&writer, 10);
            std::fs::copy(dir.join(FILE), dir.join("lease.older")).unwrap();
            publish(&writer, 20);
            assert_eq!(reader.deadline(), Some(20));
            assert!(writer.holds(20, seal) && !writer.holds(10, seal) && !writer.holds(20, Seal::of(b"box", "y", 1)));
            harm(&dir.join(FILE));
            assert_eq!(reader.deadline_and_doubt(), (Some(20), true), "{name}");
            assert_eq!(reader.in_fork(&dir).unwrap().deadline(), Some(20), "{name}: a monitor of later");
            assert!(!writer.holds(20, seal), "{name}: it is seen");
            publish(&writer, 30);
            assert!(writer.holds(30, seal), "{name}: it is mended");
            assert_eq!(reader.deadline_and_doubt(), (Some(30), false), "{name}");
            assert_eq!(LeasePage::open(&dir).unwrap().deadline(), Some(30), "{name}: a new reader");
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn who_has_a_removed_file_open_may_still_be_told_there() {
        let dir = directory("unlinked");
        let (writer, reader) = (LeasePage::open(&dir).unwrap(), LeasePage::open(&dir).unwrap());
        writer.publish(10, 1).unwrap();
        assert_eq!(reader.deadline(), Some(10));
        writer.publish(20, 1).unwrap();
        std::fs::remove_file(dir.join(FILE)).unwrap();
        assert_eq!(reader.deadline(), Some(20), "published since the last look");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
