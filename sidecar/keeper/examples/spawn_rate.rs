//! How fast the keeper starts processes, as a share of what the machine can do at all.
//!
//! `spawn_rate DIR KEEPER [STARTS] [ROUNDS]`: each round runs STARTS times `/bin/true` in a bare loop (two threads, posix_spawn and
//! waitpid) and then STARTS times through the real keeper, with records and logs below DIR. Interleaved, because the machine's speed
//! changes from minute to minute; only the ratio means anything.
#![allow(unsafe_code, reason = "the bare loop is posix_spawn itself")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use keeper::codec::{self, FrameReader};
use keeper::lease::LeasePage;
use keeper::wire::{Notice, Request, Spec, VERSION};
use keeper::{launch, record, sys};

/// Monitors kept warm, and starts in flight: what an agent with four slots does on two cores.
const IN_FLIGHT: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, keeper, rest @ ..] = arguments.as_slice() else {
        return Err("usage: spawn_rate DIR KEEPER [STARTS] [ROUNDS]".into());
    };
    let number = |at: usize, default: usize| rest.get(at).map_or(Ok(default), |text| text.parse());
    let (starts, rounds) = (number(0, 2000)?, number(1, 7)?);
    let mut bench = Bench::new(dir.into(), Path::new(keeper))?;
    bare(200);
    bench.keeper(200)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let (bare, kept) = (bare(starts), bench.keeper(starts)?);
        ratios.push(kept / bare);
        println!("round {round}: bare {bare:6.0}/s  keeper {kept:6.0}/s  {:5.1} %", 100.0 * kept / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of {rounds} rounds of {starts}: {:.1} %", 100.0 * ratios[rounds / 2]);
    bench.send(&Request::Shutdown { stop_tasks: true })?;
    Ok(())
}

/// Starts per second of the bare loop.
fn bare(starts: usize) -> f64 {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..starts / 2).for_each(|_| spawn_true()));
        }
    });
    starts as f64 / begin.elapsed().as_secs_f64()
}

fn spawn_true() {
    let mut pid = 0;
    let argv = [c"/bin/true".as_ptr().cast_mut(), std::ptr::null_mut()];
    let env = [std::ptr::null_mut()];
    // SAFETY: null-terminated arrays of constant strings; the child is waited for by its pid.
    let code = unsafe {
        let code = libc::posix_spawn(
            &raw mut pid,
            argv[0],
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr(),
            env.as_ptr(),
        );
        libc::waitpid(pid, std::ptr::null_mut(), 0);
        code
    };
    assert_eq!(code, 0, "posix_spawn /bin/true");
}

struct Bench {
    dir: PathBuf,
    stream: UnixStream,
    reader: FrameReader,
    lease: LeasePage,
    next: usize,
}

impl Bench {
    fn new(dir: PathBuf, keeper: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let lease = LeasePage::open(&dir)?;
        let stream = launch::ensure(&dir, keeper)?;
        let mut bench = Self { dir, stream, reader: FrameReader::default(), lease, next: 0 };
        bench.send(&Request::Hello { version: VERSION })?;
        bench.send(&Request::Warm { monitors: IN_FLIGHT as u32 })?;
        Ok(bench)
    }

    fn send(&mut self, request: &Request) -> std::io::Result<()> {
        self.stream.write_all(&codec::frame(&codec::encode_request(request)))
    }

    /// Starts per second through the keeper: every one with its record, its logs and its reported end.
    fn keeper(&mut self, starts: usize) -> Result<f64, Box<dyn std::error::Error>> {
        // An hour is longer than any round.
        self.lease.publish(sys::boottime_ns() + 3_600_000_000_000, 1);
        let first = self.next;
        let begin = Instant::now();
        let mut ended = 0;
        let mut free = IN_FLIGHT;
        let mut buffer = vec![0u8; 64 << 10];
        while ended < starts {
            let mut batch = Vec::new();
            while free > 0 && self.next < first + starts {
                let request = Request::Start { name: format!("n{}", self.next), spec: Box::new(spec()) };
                codec::push_frame(&mut batch, &codec::encode_request(&request));
                self.next += 1;
                free -= 1;
            }
            self.stream.write_all(&batch)?;
            let count = self.stream.read(&mut buffer)?;
            self.reader.feed(&buffer[..count]);
            while let Some(body) = self.reader.take()? {
                match codec::decode_notice(body)? {
                    Notice::Ended { end, .. } if end.code == Some(0) => {
                        ended += 1;
                        free += 1;
                    }
                    Notice::Welcome { .. } | Notice::Listing { .. } | Notice::Spawned { .. } => {}
                    other => return Err(format!("unexpected: {other:?}").into()),
                }
            }
        }
        let rate = starts as f64 / begin.elapsed().as_secs_f64();
        for number in first..self.next {
            record::purge(&self.dir, &format!("n{number}"))?;
        }
        Ok(rate)
    }
}

fn spec() -> Spec {
    Spec { argv: vec!["/bin/true".into()], stop_grace_ms: 5000, note: vec![7; 64], ..Spec::default() }
}
