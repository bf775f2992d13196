//! A host: the process in which users' scripts run. It is the informer's own program, started as `informer script-host`.
//!
//! ```text
//!  own thread of 16 MiB ─▶ locked in ─▶ HELLO ─▶ request ─▶ processor time granted ─▶ engine ─▶ reply ─┐
//!                                                   ▲                                                  │ worn, or nobody asks
//!                                                   └──────────────────────────────────────────────────┴──────▶ end
//! ```
//!
//! It trusts nothing that a script does to it: what it has is one socket, memory up to a limit, and no right to open, write or
//! start anything. It dies with the thread that started it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Language;
use super::engine::{Fault, Limits, javascript, jq};
use super::wire::{self, Reply, Request};

/// Stack of the thread that runs scripts: jq programs recurse in Rust frames, and readers of deep JSON as well. Only what is used
/// takes memory; a deeper one would let a runaway recursion fill it for longer.
const STACK_BYTES: usize = 16 << 20;
/// Requests that one host serves. Engines are made anew for each, so this bounds nothing but what we do not know of; starting a host
/// costs some milliseconds, spread over as many requests.
const REQUESTS: u32 = 1_000;

/// Bytes of `/proc/self/status` that are read; the line that is wanted stands in the first half of them.
const STATUS_BYTES: usize = 4 << 10;

/// Arguments of `script-host`, which nobody types.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The heap of a JavaScript program; twice as much is what the process may map beyond its start
    #[arg(long)]
    memory_bytes: u64,
    /// Processor time of a script
    #[arg(long)]
    cpu_ms: u64,
}

/// Why a host could not serve. The informer reads it from its stderr.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {attempted}: {source}")]
    System { attempted: &'static str, source: io::Error },
    #[error("the informer sent what is no request: {0}")]
    Request(#[from] wire::Error),
    #[error("the engine panicked")]
    Panicked,
}

fn system<E: Into<io::Error>>(attempted: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::System { attempted, source: source.into() }
}

/// Serves until nobody asks any more.
///
/// # Errors
/// It could not be locked in, or the informer spoke nonsense.
pub(crate) fn run(args: Args) -> Result<(), Error> {
    let channel = io::stdin().as_fd().try_clone_to_owned().map_err(system("take the socket"))?;
    let channel = UnixStream::from(channel);
    settle(&channel).map_err(system("give up its rights"))?;
    let engine = thread::Builder::new().name("engine".to_owned()).stack_size(STACK_BYTES);
    let engine = engine.spawn(move || serve(&args, channel)).map_err(system("start the engine's thread"))?;
    engine.join().map_err(|_| Error::Panicked)?
}

fn serve(args: &Args, mut channel: UnixStream) -> Result<(), Error> {
    // The file is opened before nothing can be opened any more.
    let maps = Maps(File::open("/proc/self/status").map_err(system("open /proc/self/status"))?);
    let at_start = maps.bytes()?;
    let budget = args.memory_bytes.saturating_mul(2);
    limit(at_start.saturating_add(budget)).map_err(system("limit itself"))?;
    wire::write_frame(&mut channel, wire::HELLO).map_err(system("greet the informer"))?;
    for served in 1.. {
        let bytes = match wire::read_frame(&mut channel, wire::REQUEST_BYTES) {
            Ok(bytes) => bytes,
            // The informer is gone, or needs this host no more.
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                break;
            }
            Err(error) => return Err(system("read a request")(error)),
        };
        let request = Request::decode(&bytes)?;
        let result = answer(&request, args).map_err(system("grant processor time"))?;
        // Allocators keep address space: what one script left must not be missing for another.
        let worn = served >= REQUESTS || maps.bytes()?.saturating_sub(at_start) > budget / 2;
        let reply = Reply { worn, result }.encode();
        wire::write_frame(&mut channel, &reply).map_err(system("answer the informer"))?;
        if worn {
            break;
        }
    }
    Ok(())
}

/// What a process has mapped, which is what its limit counts.
struct Maps(File);

impl Maps {
    fn bytes(&self) -> Result<u64, Error> {
        let mut text = [0; STATUS_BYTES];
        let read = self.0.read_at(&mut text, 0).map_err(system("read /proc/self/status"))?;
        let text = String::from_utf8_lossy(&text[..read]);
        let size =
            text.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let size = size.ok_or_else(|| system("find VmSize in /proc/self/status")(io::ErrorKind::NotFound))?;
        Ok(size.saturating_mul(1 << 10))
    }
}

/// Binds this process to the informer, and leaves it nowhere to go. Threads inherit it.
fn settle(channel: &UnixStream) -> io::Result<()> {
    rustix::thread::set_name(c"script-host")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The one that it would tell of may be gone by now. Then the other end of the socket is closed already, and this finds it out.
    channel.set_nonblocking(true)?;
    let waiting = rustix::net::recv(channel.as_fd(), &mut [0; 1], rustix::net::RecvFlags::PEEK);
    channel.set_nonblocking(false)?;
    match waiting {
        Ok((_, 0)) => return Err(io::ErrorKind::BrokenPipe.into()),
        Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::process::chdir("/")?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Limits this process for good. All that it will ever open, and all its threads, are there.
fn limit(memory_bytes: u64) -> io::Result<()> {
    for (resource, most) in [
        (Resource::As, memory_bytes),
        (Resource::Core, 0),
        // No file, socket or pipe, no byte into a file, no thread or process (unless it is root's).
        (Resource::Nofile, 0),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
    ] {
        let most = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

fn answer(request: &Request<'_>, args: &Args) -> io::Result<Result<String, Fault>> {
    let granted = Duration::from_millis(args.cpu_ms);
    let end = spent(ClockId::ThreadCPUTime).saturating_add(granted);
    grant(granted)?;
    let limits = Limits {
        memory_bytes: usize::try_from(args.memory_bytes).unwrap_or(usize::MAX),
        output_bytes: wire::OUTPUT_BYTES,
        is_over: Rc::new(move || spent(ClockId::ThreadCPUTime) > end),
    };
    Ok(match (request.language, request.input) {
        (Language::JavaScript, Some(input)) => javascript::run(request.source, input, &limits),
        (Language::JavaScript, None) => javascript::check(request.source, &limits).map(|()| String::new()),
        (Language::Jq, Some(input)) => jq::run(request.source, input, &limits),
        (Language::Jq, None) => jq::check(request.source).map(|()| String::new()),
    })
}

/// Has the kernel end this process when the script used its time and the engine did not notice (SIGXCPU). It counts whole seconds, so
/// an engine that does notice is always first.
fn grant(time: Duration) -> io::Result<()> {
    let until = spent(ClockId::ProcessCPUTime).saturating_add(time).as_secs().saturating_add(1);
    let hard = getrlimit(Resource::Cpu).maximum;
    let until = hard.map_or(until, |hard| hard.min(until));
    setrlimit(Resource::Cpu, Rlimit { current: Some(until), maximum: hard })?;
    Ok(())
}

fn spent(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}
