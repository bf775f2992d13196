//! What this sidecar counts, as text for Prometheus on a port of loopback: `docs/metrics.md` explains each line.
//!
//! ```text
//!  first thread, ledger thread, work thread ── atomics ──▶ Metrics ◀── read ── serve (work thread) ◀── GET /metrics
//! ```
//!
//! A scrape reads what the others have stored, and asks nobody: however often it comes, no beat is later by it.

use crate::machine::{Machine, Stage};
use proto::v1;
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{Display, Write as _};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Upper bounds of the classes of commit times, microseconds: from a quick disk's fsync to one that endangers leases.
const CLASSES_US: [u64; 10] = [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000];
/// How long one scrape may take. They are served one after the other, so that many of them cost no more memory than one.
const SCRAPE: Duration = Duration::from_secs(2);
/// Longest request that is read; a scraper's has some hundred bytes.
const REQUEST_BYTES: usize = 8 << 10;
/// Reasons that are told apart, as the machine does.
const REASONS: usize = 32;

/// Everything that is counted. Each value is written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Metrics {
    stages: [AtomicU64; Stage::NAMES.len()],
    ends: [AtomicU64; REASONS],
    logs_given_up: AtomicU64,
    logs_owed: AtomicU64,
    logs_stored: AtomicU64,
    logs_failed: AtomicU64,
    lease_deadline_ms: AtomicU64,
    is_linked: AtomicU64,
    outbox: AtomicU64,
    starts: AtomicU64,
    beats: AtomicU64,
    beats_acked: AtomicU64,
    keeper_connects: AtomicU64,
    commits: Commits,
    load: Load,
}

/// Times of the ledger's commits.
#[derive(Debug, Default)]
struct Commits {
    classes: [AtomicU64; CLASSES_US.len()],
    count: AtomicU64,
    total_us: AtomicU64,
}

/// The load as it was last sampled; means of pressure in thousandths.
#[derive(Debug, Default)]
struct Load {
    cpu: AtomicU64,
    pressures: [AtomicU64; 3],
    memory_used_bytes: AtomicU64,
    memory_total_bytes: AtomicU64,
}

fn set(value: &AtomicU64, to: u64) {
    value.store(to, Ordering::Relaxed);
}

fn add(value: &AtomicU64) {
    value.fetch_add(1, Ordering::Relaxed);
}

fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

impl Metrics {
    /// How the machine stands.
    pub(crate) fn on_turn(&self, machine: &Machine) {
        let tally = machine.tally();
        self.stages.iter().zip(tally.stages).for_each(|(value, count)| set(value, u64::from(count)));
        self.ends.iter().zip(tally.ends).for_each(|(value, count)| set(value, count));
        set(&self.logs_given_up, tally.logs_given_up);
        set(&self.logs_owed, machine.logs_owed() as u64);
        set(&self.lease_deadline_ms, machine.lease_deadline_ms());
        set(&self.is_linked, u64::from(machine.is_linked()));
        set(&self.outbox, machine.outbox_len() as u64);
    }

    /// A process was ordered of the keeper.
    pub(crate) fn on_start(&self) {
        add(&self.starts);
    }

    /// A beat has left.
    pub(crate) fn on_beat(&self) {
        add(&self.beats);
    }

    /// The informer acknowledged one.
    pub(crate) fn on_beat_ack(&self) {
        add(&self.beats_acked);
    }

    /// An upload of a log has ended.
    pub(crate) fn on_log_sent(&self, is_stored: bool) {
        add(if is_stored { &self.logs_stored } else { &self.logs_failed });
    }

    /// The keeper was reached.
    pub(crate) fn on_keeper(&self) {
        add(&self.keeper_connects);
    }

    /// A commit of the ledger took so long.
    pub(crate) fn on_commit(&self, took_us: u64) {
        add(&self.commits.count);
        self.commits.total_us.fetch_add(took_us, Ordering::Relaxed);
        if let Some(class) = CLASSES_US.iter().position(|bound_us| took_us <= *bound_us) {
            add(&self.commits.classes[class]);
        }
    }

    /// The load was sampled.
    pub(crate) fn on_load(&self, load: &v1::Load) {
        set(&self.load.cpu, u64::from(load.cpu_permille));
        set(&self.load.memory_used_bytes, load.memory_used_bytes);
        set(&self.load.memory_total_bytes, load.memory_total_bytes);
        let pressures = [load.cpu_pressure_permille, load.memory_pressure_permille, load.io_pressure_permille];
        self.load.pressures.iter().zip(pressures).for_each(|(value, permille)| set(value, u64::from(permille)));
    }

    /// All of it, in the text format of Prometheus. Reads some small files of `/proc`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = Page(String::with_capacity(8 << 10));
        self.write_attempts(&mut page);
        self.write_link(&mut page);
        self.write_ledger(&mut page);
        self.write_logs(&mut page);
        self.write_load(&mut page);
        write_process(&mut page);
        page.0
    }

    fn write_attempts(&self, page: &mut Page) {
        page.head("sidecar_attempts", "gauge", "Attempts held, by where they stand.");
        for (name, value) in Stage::NAMES.iter().zip(&self.stages) {
            page.line("sidecar_attempts", &[("stage", name)], get(value));
        }
        page.one("sidecar_attempt_starts_total", "counter", "Starts ordered of the keeper.", get(&self.starts));
        page.head("sidecar_attempt_ends_total", "counter", "Ends of attempts, by reason.");
        for (number, value) in self.ends.iter().enumerate() {
            let count = get(value);
            let known = i32::try_from(number).ok().and_then(|number| v1::Reason::try_from(number).ok());
            match known {
                Some(reason) => page.line("sidecar_attempt_ends_total", &[("reason", &word(reason))], count),
                None if count > 0 => page.line("sidecar_attempt_ends_total", &[("reason", "other")], count),
                None => {}
            }
        }
    }

    fn write_link(&self, page: &mut Page) {
        page.one("sidecar_link_up", "gauge", "1 while the informer has welcomed this sidecar.", get(&self.is_linked));
        let left_ms = get(&self.lease_deadline_ms).saturating_sub(boot_ms());
        page.one("sidecar_lease_seconds", "gauge", "Time that the lease still lasts.", Milli(left_ms));
        page.one("sidecar_beats_sent_total", "counter", "Beats that left.", get(&self.beats));
        page.one("sidecar_beats_acknowledged_total", "counter", "Beats acknowledged.", get(&self.beats_acked));
        page.one("sidecar_outbox_reports", "gauge", "Reports queued or not acknowledged.", get(&self.outbox));
        page.one("sidecar_keeper_connects_total", "counter", "Connections to a keeper.", get(&self.keeper_connects));
    }

    fn write_ledger(&self, page: &mut Page) {
        let name = "sidecar_ledger_commit_seconds";
        page.head(name, "histogram", "Time of the ledger's commits, each with one fsync.");
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound_us, class) in CLASSES_US.iter().zip(&self.commits.classes) {
            below += get(class);
            page.line(&bucket, &[("le", &Micro(*bound_us).to_string())], below);
        }
        // Read after its parts, so that it is not less than they are.
        let count = get(&self.commits.count).max(below);
        page.line(&bucket, &[("le", "+Inf")], count);
        page.line(&format!("{name}_sum"), &[], Micro(get(&self.commits.total_us)));
        page.line(&format!("{name}_count"), &[], count);
    }

    fn write_logs(&self, page: &mut Page) {
        let owed = get(&self.logs_owed);
        page.one("sidecar_logs_pending", "gauge", "Logs that the informer wants and has not stored.", owed);
        page.one("sidecar_logs_stored_total", "counter", "Logs stored at the informer.", get(&self.logs_stored));
        page.one("sidecar_log_uploads_failed_total", "counter", "Uploads that failed.", get(&self.logs_failed));
        let given_up = get(&self.logs_given_up);
        page.one("sidecar_logs_given_up_total", "counter", "Logs removed before they were stored.", given_up);
    }

    fn write_load(&self, page: &mut Page) {
        let load = &self.load;
        page.one("sidecar_load_cpu_ratio", "gauge", "CPU in use, of the machine or its cgroup.", Milli(get(&load.cpu)));
        let (used, total) = (get(&load.memory_used_bytes), get(&load.memory_total_bytes));
        page.one("sidecar_load_memory_used_bytes", "gauge", "Memory in use.", used);
        page.one("sidecar_load_memory_total_bytes", "gauge", "Memory that there is.", total);
        page.head("sidecar_load_pressure_ratio", "gauge", "Share of time in which something waited, over ten seconds.");
        for (resource, value) in ["cpu", "memory", "io"].into_iter().zip(&load.pressures) {
            page.line("sidecar_load_pressure_ratio", &[("resource", resource)], Milli(get(value)));
        }
    }
}

/// The word of a reason: `exit_code`; of none, `succeeded`.
fn word(reason: v1::Reason) -> String {
    match reason {
        v1::Reason::Unspecified => "succeeded".to_owned(),
        reason => reason.as_str_name().trim_start_matches("REASON_").to_lowercase(),
    }
}

fn write_process(page: &mut Page) {
    page.head("sidecar_build_info", "gauge", "1, with the version of this build.");
    page.line("sidecar_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let Some(own) = Own::read() else { return };
    page.one("process_resident_memory_bytes", "gauge", "Resident memory of the agent.", own.rss_bytes);
    page.one("process_cpu_seconds_total", "counter", "CPU time of the agent.", Milli(own.cpu_ms));
    page.one("process_open_fds", "gauge", "Open descriptors of the agent.", own.fds);
}

/// What the kernel says of this process.
struct Own {
    rss_bytes: u64,
    cpu_ms: u64,
    fds: usize,
}

impl Own {
    /// `None` where `/proc` is hidden.
    fn read() -> Option<Self> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Some(Self {
            rss_bytes: pages * rustix::param::page_size() as u64,
            cpu_ms: time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000,
            fds: fs::read_dir("/proc/self/fd").ok()?.count(),
        })
    }
}

fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

/// Thousandths, written as a number of ones.
struct Milli(u64);

impl Display for Milli {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// Millionths, likewise.
struct Micro(u64);

impl Display for Micro {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The text being written. Names and label values are ours and need no escapes.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        if !labels.is_empty() {
            let _ = write!(self.0, "{{{}}}", labels.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

/// Listens for scrapes.
///
/// # Errors
/// The system's answer: the port is taken.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers scrapes, one after the other, until dropped.
pub(crate) async fn serve(listener: std::net::TcpListener, metrics: &Metrics) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "no metrics are served");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A scraper that is slow or gone has lost its scrape; the next one is as good.
                let _late = tokio::time::timeout(SCRAPE, answer(stream, metrics)).await;
            }
            // No descriptors: they come back.
            Err(_) => tokio::time::sleep(SCRAPE).await,
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        if length == 0 || request.len() > REQUEST_BYTES {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..length]);
    }
    let mut words = request.split(|byte| *byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", metrics.text()),
        (Some(b"GET"), _) => ("404 Not Found", "there is only /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn every_line_is_a_number_with_a_type_and_a_documented_name() {
        let metrics = Metrics::default();
        for took_us in [100, 700, 9_000_000] {
            metrics.on_commit(took_us);
        }
        metrics.on_load(&v1::Load { cpu_permille: 42, ..Default::default() });
        let text = metrics.text();
        let docs = include_str!("../../docs/metrics.md");
        let mut types = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let name = rest.split(' ').next().unwrap();
                assert!(types.insert(name.to_owned()), "{name} twice");
                assert!(docs.contains(&format!("`{name}`")), "docs/metrics.md does not explain {name}");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next().unwrap();
                let of = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
                assert!(types.contains(name) || of.is_some_and(|of| types.contains(of)), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("sidecar_ledger_commit_seconds_bucket{le=\"0.000250\"} 1\n"), "{text}");
        assert!(text.contains("sidecar_ledger_commit_seconds_bucket{le=\"+Inf\"} 3\n"));
        assert!(text.contains("sidecar_ledger_commit_seconds_sum 9.000800\n"));
        assert!(text.contains("sidecar_load_cpu_ratio 0.042\n"));
        assert!(text.contains("sidecar_attempt_ends_total{reason=\"exit_code\"} 0\n"));
    }

    #[tokio::test]
    async fn scrapes_are_answered_and_nothing_else_is() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::default());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { serve(listener, &metrics).await });
        let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\nsidecar_link_up 0\n"), "{answer}");
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        drop(TcpStream::connect(address).await.unwrap());
        assert!(ask(address, "GET /metrics HTTP/1.0\r\n\r\n").await.contains("200 OK"), "one that left harms nobody");
    }
}
