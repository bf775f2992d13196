//! Bytes on their way from one file to another, counted and hashed as they pass.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

/// Passed at once: large enough that the calls do not count, and stopping is still noticed within milliseconds.
const CHUNK_BYTES: usize = 256 << 10;

/// Why not everything passed.
#[derive(Debug)]
pub(crate) enum Cut {
    /// Nobody wants it any more.
    Stopped,
    /// Reading failed.
    Read(io::Error),
    /// Writing failed.
    Write(io::Error),
}

/// How much passed, and its SHA-256 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// The hash and the length of what has passed so far.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    hasher: Sha256,
    bytes: u64,
}

impl Meter {
    pub(crate) fn pass(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Passed {
        let sha256 = self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Passed { bytes: self.bytes, sha256 }
    }
}

/// Told while a file comes in: the bytes that have, and all of them where it is known how many.
pub(crate) type Seen<'a> = &'a dyn Fn(u64, Option<u64>);

/// Pours all of `from` into `to`. `stopped` is asked before each chunk.
pub(crate) fn pour(from: &mut impl Read, to: &mut impl Write, stopped: &dyn Fn() -> bool) -> Result<Passed, Cut> {
    pour_seen(from, to, stopped, &|_| ())
}

/// The same; `seen` is told before each chunk how many bytes have passed.
pub(crate) fn pour_seen(
    from: &mut impl Read,
    to: &mut impl Write,
    stopped: &dyn Fn() -> bool,
    seen: &dyn Fn(u64),
) -> Result<Passed, Cut> {
    let mut meter = Meter::default();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        seen(meter.bytes());
        if stopped() {
            return Err(Cut::Stopped);
        }
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(meter.finish()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Cut::Read(error)),
        };
        to.write_all(&buffer[..length]).map_err(Cut::Write)?;
        meter.pass(&buffer[..length]);
    }
}
