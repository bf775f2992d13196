//! Another executable in this process's place: `execve`, so that the monitors stay our children and the channels stay open.
//!
//! What cannot be read from the records goes along in a memfd, one line per thing, so that an older or newer image skips what it
//! does not know. The agent's connection is closed; it connects again (the listening socket never closes) and meets the new keeper.
//!
//! Monitors are forks of the image before. One that runs an attempt goes on, and ends with it; an idle one ends at once, so that whatever
//! starts from now on runs under the new program.

use std::ffi::{CString, NulError};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use keeper::record;
use keeper::sys;
use keeper::wire::ListedState;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

use super::slot::{MAX_SERVED, Slot};
use super::{Attempt, Keeper, Leaving};
use crate::cgroup::Seat;
use crate::daemon::{self, Owned};
use crate::life;
use crate::link::Link;

impl Keeper {
    /// Becomes that executable; goes on as it is if that fails.
    pub(super) fn upgrade(&mut self, exe: &str) {
        let error = match self.prepare_upgrade(exe) {
            Ok((exe, arguments, state)) => {
                self.drop_agent();
                self.inherit(true, state.as_fd());
                let error = sys::exec(&exe, &arguments);
                self.inherit(false, state.as_fd());
                error
            }
            Err(error) => error,
        };
        eprintln!("keeper: the upgrade to {exe} failed, this keeper goes on: {error}");
        self.drop_agent();
    }

    fn prepare_upgrade(&mut self, exe: &str) -> io::Result<(CString, Vec<CString>, File)> {
        let mut state = File::from(memfd_create("keeper-state", MemfdFlags::CLOEXEC)?);
        state.write_all(self.describe().as_bytes())?;
        let texts = |texts: Vec<Vec<u8>>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, NulError>>();
        let arguments = texts(vec![
            exe.as_bytes().to_vec(),
            b"--data".to_vec(),
            self.world.data_dir.as_os_str().as_bytes().to_vec(),
            b"--idle-ms".to_vec(),
            (self.idle_exit_ns / 1_000_000).to_string().into_bytes(),
            b"--resume".to_vec(),
            state.as_raw_fd().to_string().into_bytes(),
        ])?;
        Ok((CString::new(exe)?, arguments, state))
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let (lock, listener) = (self.owned.lock.as_raw_fd(), self.owned.listener.as_raw_fd());
        let leaving = self.leaving as u8;
        let (current, maximum) = self.world.open_files;
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "owned {lock} {listener}\nwarm {}\nleaving {leaving}\nfiles {current} {maximum}", self.warm);
        for slot in self.slots.values() {
            let (pending, out) = slot.link.unfinished();
            let dir = slot.seat.dir.as_ref().map_or(&[][..], |dir| dir.as_os_str().as_bytes());
            let _ = writeln!(
                text,
                "slot {} {} {} {} {} {} {} {} {}",
                slot.link.fd().as_raw_fd(),
                slot.pid,
                slot.served,
                u8::from(slot.adopted),
                hex(slot.seat.name.as_bytes()),
                hex(dir),
                hex(slot.attempt.as_deref().unwrap_or_default().as_bytes()),
                hex(pending),
                hex(out),
            );
        }
        text
    }

    /// Lets the descriptors that go along survive the exec, or not.
    fn inherit(&self, survive: bool, state: BorrowedFd<'_>) {
        let flags = if survive { FdFlags::empty() } else { FdFlags::CLOEXEC };
        let owned = [self.owned.lock.as_fd(), self.owned.listener.as_fd(), state];
        for fd in self.slots.values().map(|slot| slot.link.fd()).chain(owned) {
            // It fails only for a descriptor that is not open.
            let _ = fcntl_setfd(fd, flags);
        }
    }

    /// Takes up what the image before handed on.
    pub(crate) fn resume(&mut self, resumed: Resumed) {
        self.warm = resumed.warm;
        self.leaving = resumed.leaving;
        self.world.open_files = resumed.open_files.unwrap_or(self.world.open_files);
        for mut slot in resumed.slots {
            // It exits when its channel closes, and clears its seat itself.
            let Some(name) = slot.attempt.clone() else { continue };
            slot.served = MAX_SERVED;
            let token = self.take_token();
            if let Err(error) = self.watch_fd(&slot.link.fd(), token) {
                eprintln!("keeper: a monitor's channel cannot be watched: {error}");
                continue;
            }
            let record = record::read(&self.attempt_dir(&name)).unwrap_or_default();
            let obeys = record.spec.as_ref().filter(|spec| life::obeys_lease(spec));
            let fence_grace_ns = obeys.map(|spec| life::fence_grace_ms(spec).saturating_mul(1_000_000));
            let state = record.spawned.map_or(ListedState::Starting, ListedState::Running);
            self.attempts.insert(name, Attempt { state, token: Some(token), fence_grace_ns, condemned: false });
            self.slots.insert(token, slot);
            // Whole frames may have been handed on unread.
            self.on_slot(token);
        }
    }
}

/// What a predecessor handed on.
pub(crate) struct Resumed {
    owned: Option<(OwnedFd, OwnedFd)>,
    warm: u32,
    leaving: Leaving,
    open_files: Option<(u64, u64)>,
    slots: Vec<Slot>,
}

impl Resumed {
    /// Reads the state from the descriptor named on the command line.
    pub(crate) fn read(fd: i32) -> io::Result<Self> {
        let mut file = File::from(adopt(fd)?);
        file.rewind()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut resumed =
            Self { owned: None, warm: super::DEFAULT_WARM, leaving: Leaving::No, open_files: None, slots: Vec::new() };
        for line in text.lines() {
            resumed.on_line(line).ok_or_else(|| io::Error::other(format!("the state handed on is broken: {line}")))?;
        }
        Ok(resumed)
    }

    fn on_line(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields.as_slice() {
            ["owned", lock, listener] => {
                self.owned = Some((adopt(lock.parse().ok()?).ok()?, adopt(listener.parse().ok()?).ok()?));
            }
            ["warm", monitors] => self.warm = monitors.parse().ok()?,
            ["leaving", leaving] => {
                let all = [Leaving::No, Leaving::Ordered, Leaving::Terminating];
                self.leaving = *all.get(leaving.parse::<usize>().ok()?)?;
            }
            ["files", current, maximum] => self.open_files = Some((current.parse().ok()?, maximum.parse().ok()?)),
            ["slot", fd, pid, served, adopted, seat, dir, attempt, pending, out] => {
                let link = Link::resume(adopt(fd.parse().ok()?).ok()?, &unhex(pending)?, unhex(out)?);
                let dir = PathBuf::from(String::from_utf8(unhex(dir)?).ok()?);
                let dir = Some(dir).filter(|dir| dir.is_absolute());
                let seat = Seat { name: String::from_utf8(unhex(seat)?).ok()?, dir };
                let mut slot = Slot::new(link, pid.parse().ok()?, seat);
                slot.served = served.parse().ok()?;
                slot.adopted = *adopted == "1";
                slot.attempt = Some(String::from_utf8(unhex(attempt)?).ok()?).filter(|name| !name.is_empty());
                self.slots.push(slot);
            }
            // Of another version: what it is about is found in the records.
            _ => {}
        }
        Some(())
    }

    /// Lock and socket, as they were.
    pub(crate) fn owned(&mut self, data_dir: &Path) -> Result<Owned, daemon::Error> {
        match self.owned.take() {
            Some((lock, listener)) => Owned::resume(data_dir, File::from(lock), UnixListener::from(listener)),
            None => Owned::take(data_dir),
        }
    }
}

fn adopt(fd: i32) -> io::Result<OwnedFd> {
    let fd = sys::adopt_fd(fd).ok_or_else(io::Error::last_os_error)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Empty bytes are a dash, so that every field is there.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
