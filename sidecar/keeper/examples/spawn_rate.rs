//! How fast the keeper starts processes, as a share of what the machine can do at all.
//!
//! `spawn_rate DIR KEEPER [STARTS] [ROUNDS] [IN_FLIGHT]`: each round runs STARTS times `/bin/true` in a bare loop (two threads, posix_spawn and
//! waitpid) and then STARTS times through the real keeper, with records and logs below DIR. Interleaved, because the machine's speed
//! changes from minute to minute; only the ratio means anything. On a machine that others use, the share of starts per second
//! favours whoever has more processes, so the CPU time per start is compared, too: that of the bare loop and its children against
//! that of keeper, monitors, children and this agent.
#![allow(unsafe_code, reason = "the bare loop is posix_spawn itself")]
#![allow(clippy::disallowed_methods, reason = "it measures elapsed time")]

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
        return Err("usage: spawn_rate DIR KEEPER [STARTS] [ROUNDS] [IN_FLIGHT]".into());
    };
    let number = |at: usize, default: usize| rest.get(at).map_or(Ok(default), |text| text.parse());
    let (starts, rounds) = (number(0, 2000)?, number(1, 7)?);
    let mut bench = Bench::new(dir.into(), Path::new(keeper), number(2, IN_FLIGHT)?)?;
    bare(200);
    bench.keeper(200)?;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let before = bench.cpu_us();
        let bare = bare(starts);
        let between = bench.cpu_us();
        let kept = bench.keeper(starts)?;
        let after = bench.cpu_us();
        let per_start = |from: u64, to: u64| (to - from) as f64 / starts as f64;
        let (bare_us, kept_us) = (per_start(before, between), per_start(between, after));
        rates.push(kept / bare);
        costs.push(bare_us / kept_us);
        println!(
            "round {round}: bare {bare:5.0}/s {bare_us:5.0} us   keeper {kept:5.0}/s {kept_us:5.0} us   {:5.1} % of the rate, \
             {:5.1} % by CPU time",
            100.0 * kept / bare,
            100.0 * bare_us / kept_us
        );
    }
    println!(
        "median of {rounds} rounds of {starts}: {:.1} % of the rate, {:.1} % by CPU time",
        100.0 * median(&mut rates),
        100.0 * median(&mut costs)
    );
    bench.send(&Request::Shutdown { stop_tasks: true })?;
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
        let code =
            libc::posix_spawn(&raw mut pid, argv[0], std::ptr::null(), std::ptr::null(), argv.as_ptr(), env.as_ptr());
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
    in_flight: usize,
    next: usize,
    /// CPU time spent on purging.
    purged_us: i64,
}

impl Bench {
    fn new(dir: PathBuf, keeper: &Path, in_flight: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let lease = LeasePage::open(&dir)?;
        let stream = launch::ensure(&dir, keeper)?;
        let mut bench = Self { dir, stream, reader: FrameReader::default(), lease, in_flight, next: 0, purged_us: 0 };
        bench.send(&Request::Hello { version: VERSION })?;
        bench.send(&Request::Warm { monitors: in_flight as u32 })?;
        Ok(bench)
    }

    fn send(&mut self, request: &Request) -> std::io::Result<()> {
        self.stream.write_all(&codec::frame(&codec::encode_request(request)))
    }

    /// Starts per second through the keeper: every one with its record, its logs and its reported end.
    fn keeper(&mut self, starts: usize) -> Result<f64, Box<dyn std::error::Error>> {
        // An hour is longer than any round.
        self.lease.publish(sys::boottime_ns() + 3_600_000_000_000, 1)?;
        let first = self.next;
        let begin = Instant::now();
        let mut ended = 0;
        let mut free = self.in_flight;
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
        self.purged_us -= own_us();
        for number in first..self.next {
            record::purge(&self.dir, &format!("n{number}"))?;
        }
        self.purged_us += own_us();
        Ok(rate)
    }

    /// CPU time of this process, the keeper, its monitors, and all their ended children; without the purges, which are outside of
    /// the timed part, too.
    fn cpu_us(&self) -> u64 {
        let dir = self.dir.as_os_str().as_encoded_bytes();
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let kept = pids.filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            line.split(|byte| *byte == 0).skip(1).take(2).eq([b"--data".as_slice(), dir]).then_some(())?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // utime, stime, cutime, cstime, in ticks of 10 ms.
            let (_, fields) = stat.rsplit_once(") ")?;
            Some(fields.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000)
        });
        (kept.sum::<u64>() + own_us() as u64) - self.purged_us as u64
    }
}

/// CPU time of this process and its ended children.
fn own_us() -> i64 {
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let of = |who| {
        // SAFETY: rusage is plain integers, filled by the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &raw mut usage);
            usage
        };
        micros(usage.ru_utime) + micros(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

fn spec() -> Spec {
    Spec { argv: vec!["/bin/true".into()], stop_grace_ms: 5000, note: vec![7; 64], ..Spec::default() }
}
