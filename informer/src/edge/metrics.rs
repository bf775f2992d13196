//! `/metrics`: what the shell counts and what the kernel says of this process, as Prometheus reads it. docs/metrics.md lists each.
//!
//! The text format is a line a value, so it is written here: a client library would bring a registry, locks and a derive for what
//! are atomics already. Nothing here passes the loop, so that a scrape answers even when the loop is behind.

use super::{error, traffic};
use crate::shell::{COMMIT_BUCKETS_US, Handle, Numbers, TABLES};
use proto::v1::{SidecarState, TaskState};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{Display, Write as _};
use std::fs;

/// The whole page.
pub(super) fn page(handle: &Handle) -> String {
    let mut page = Page::default();
    about(&mut page, handle);
    let numbers = handle.numbers();
    work(&mut page, &numbers);
    commits(&mut page, &numbers);
    page.family("informer_network_bytes_total", "counter", "Bytes over all connections, by direction.");
    for (direction, bytes) in traffic::bytes() {
        page.labelled("direction", direction, bytes);
    }
    page.family("informer_refused_calls_total", "counter", "Calls refused, by code (docs/errors.md).");
    for (code, count) in error::refused() {
        page.labelled("code", code, count);
    }
    process(&mut page);
    page.text
}

/// Lines under the name that was announced last.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn one(&mut self, name: &'static str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    /// A value with one label. Labels here are words of ours, which need no escaping.
    fn labelled(&mut self, label: &str, word: &str, value: impl Display) {
        let name = self.name;
        self.line(format_args!("{name}{{{label}=\"{word}\"}} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

fn about(page: &mut Page, handle: &Handle) {
    let identity = handle.identity();
    page.family("informer_build_info", "gauge", "1; the version is in the label.");
    page.labelled("version", env!("CARGO_PKG_VERSION"), 1);
    page.one("informer_epoch", "gauge", "Epoch under which this informer leads.", identity.epoch);
    page.one("informer_commit_sequence", "gauge", "Number of the last commit of this lineage.", identity.commit_seq);
}

fn work(page: &mut Page, numbers: &Numbers) {
    let gauges = &numbers.gauges;
    page.family("informer_tasks", "gauge", "Tasks that have not ended, by state.");
    for state in [TaskState::Waiting, TaskState::Ready, TaskState::Assigned, TaskState::Running, TaskState::Committing]
    {
        let word = state.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase();
        page.labelled("state", &word, gauges.tasks[state as usize]);
    }
    page.one("informer_tasks_held", "gauge", "Tasks in memory.", gauges.held);
    page.one("informer_ready_queue", "gauge", "Tasks that wait for a sidecar.", gauges.ready);
    page.family("informer_sidecars", "gauge", "Sidecars known, by state.");
    for state in [
        SidecarState::Live,
        SidecarState::Suspect,
        SidecarState::Quarantined,
        SidecarState::Draining,
        SidecarState::Lost,
    ] {
        let word = state.as_str_name().trim_start_matches("SIDECAR_STATE_").to_lowercase();
        page.labelled("state", &word, gauges.sidecars[state as usize]);
    }
    page.one("informer_links", "gauge", "Links open.", gauges.links);
    page.one("informer_waiting_calls", "gauge", "Calls whose commit is under way or to come.", gauges.waiters);
    page.family("informer_inbox_depth", "gauge", "Messages that the loop has not taken in, by queue.");
    for (queue, depth) in ["clients", "links", "items"].into_iter().zip(numbers.inbox) {
        page.labelled("queue", queue, depth);
    }
}

fn commits(page: &mut Page, numbers: &Numbers) {
    page.one("informer_batches_total", "counter", "Batches whose effects have left.", numbers.batches);
    page.one("informer_commits_total", "counter", "Commits: one transaction and one fsync each.", numbers.commits);
    page.family("informer_committed_rows_total", "counter", "Rows committed, by table.");
    for (table, rows) in TABLES.into_iter().zip(numbers.rows) {
        page.labelled("table", table, rows);
    }
    page.one(
        "informer_committed_body_bytes_total",
        "counter",
        "Bytes of payloads and items committed.",
        numbers.body_bytes,
    );
    page.family("informer_commit_seconds", "histogram", "Time a commit took.");
    let mut below = 0;
    let bounds = COMMIT_BUCKETS_US.iter().map(|us| seconds(*us).to_string()).chain(["+Inf".to_owned()]);
    for (bound, count) in bounds.zip(numbers.commit_buckets) {
        below += count;
        page.line(format_args!("informer_commit_seconds_bucket{{le=\"{bound}\"}} {below}"));
    }
    page.line(format_args!("informer_commit_seconds_sum {}", seconds(numbers.commit_us)));
    page.line(format_args!("informer_commit_seconds_count {below}"));
}

/// Exact to the microsecond for 285 years.
#[allow(clippy::cast_precision_loss, reason = "below 2^53")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// What the kernel says of this process. What it does not say is left out, as scrapers expect.
fn process(page: &mut Page) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_us = u64::try_from(cpu.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(cpu.tv_nsec).unwrap_or(0) / 1_000;
    page.one("process_cpu_seconds_total", "counter", "User and system CPU time of this process.", seconds(cpu_us));
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        page.one("process_resident_memory_bytes", "gauge", "Resident memory of this process.", bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory that is being read is open too, and not one of ours.
        page.one("process_open_fds", "gauge", "File descriptors open.", open.count().saturating_sub(1));
    }
}

/// `VmRSS`, which the kernel gives in KiB.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_to_the_count() {
        let mut page = Page::default();
        let mut numbers = Numbers { commit_us: 1_500, commits: 3, ..Numbers::default() };
        numbers.commit_buckets[0] = 2;
        numbers.commit_buckets[2] = 1;
        commits(&mut page, &numbers);
        for line in [
            "informer_commit_seconds_bucket{le=\"0.00025\"} 2",
            "informer_commit_seconds_bucket{le=\"0.001\"} 3",
            "informer_commit_seconds_bucket{le=\"+Inf\"} 3",
            "informer_commit_seconds_sum 0.0015",
            "informer_commit_seconds_count 3",
        ] {
            assert!(page.text.lines().any(|is| is == line), "{line} is not in\n{}", page.text);
        }
    }

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident_bytes("VmRSS:\tmuch\n"), None);
    }
}
