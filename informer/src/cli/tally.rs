//! How far an array is: its members counted, their rate, and how long the rest will take.

use std::{fmt, time::Duration};

use proto::v1::{ArrayStatus, ListRequest, Task, TaskState};

use super::{client::Client, text};

/// Failed members named where an array is told of: what one looks at before going to the list.
const NAMED: u32 = 5;
/// Members that must have ended before their rate says anything about the others.
const RATED: u32 = 3;
/// Width of the bar in `show`, in characters.
const WIDTH: u64 = 40;

/// The members counted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Tally {
    status: ArrayStatus,
    /// Members that end in a second; 0: unknown.
    rate: f64,
    /// How long the rest will take.
    eta_ms: Option<u64>,
}

/// How fast members end, seen from when somebody began to look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Members that had ended at the first look.
    first: Option<(u32, Duration)>,
}

impl Pace {
    /// The counts at a time, which grows from look to look.
    pub(crate) fn tally(&mut self, status: &ArrayStatus, at: Duration) -> Tally {
        let over = ended(status);
        let (before, since) = *self.first.get_or_insert((over, at));
        let seconds = at.saturating_sub(since).as_secs_f64();
        let more = over.saturating_sub(before);
        let rate = if more >= RATED && seconds > 0.0 { f64::from(more) / seconds } else { 0.0 };
        let rest = f64::from(status.count.saturating_sub(over));
        // A float of this size rounds to some millisecond; beyond 64 bits the cast saturates.
        let eta_ms = (rate > 0.0 && rest > 0.0).then(|| (rest / rate * 1_000.0) as u64);
        Tally { status: *status, rate, eta_ms }
    }
}

impl Tally {
    /// Members that have ended, of a thousand.
    pub(crate) fn permille(&self) -> u32 {
        permille(&self.status)
    }
}

/// `37/100 done, 2 failed, 8 running, 12.3/s, eta 5s`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&counts(&self.status))?;
        if self.rate > 0.0 {
            write!(f, ", {:.1}/s", self.rate)?;
        }
        match self.eta_ms {
            Some(ms) => write!(f, ", eta {}", text::span(ms)),
            None => Ok(()),
        }
    }
}

fn ended(status: &ArrayStatus) -> u32 {
    status.succeeded.saturating_add(status.failed).saturating_add(status.cancelled)
}

fn permille(status: &ArrayStatus) -> u32 {
    let part = u64::from(ended(status)) * 1_000 / u64::from(status.count.max(1));
    u32::try_from(part.min(1_000)).unwrap_or(1_000)
}

/// `37/100 done, 2 failed, 8 running`.
pub(crate) fn counts(status: &ArrayStatus) -> String {
    let mut line = format!("{}/{} done", ended(status), status.count);
    let parts = [(status.failed, "failed"), (status.cancelled, "cancelled"), (status.live, "running")];
    for (count, what) in parts.iter().filter(|(count, _)| *count > 0) {
        line.push_str(&format!(", {count} {what}"));
    }
    line
}

/// `37/100`, and `37/100, 2 failed`: for a column.
pub(crate) fn brief(status: &ArrayStatus) -> String {
    let failed = if status.failed > 0 { format!(", {} failed", status.failed) } else { String::new() };
    format!("{}/{}{failed}", ended(status), status.count)
}

/// `[=====     ] 50%`.
pub(crate) fn bar(status: &ArrayStatus) -> String {
    let permille = permille(status);
    let full = u64::from(permille) * WIDTH / 1_000;
    let (full, rest) = ("=".repeat(full as usize), " ".repeat((WIDTH - full) as usize));
    format!("[{full}{rest}] {}%", permille / 10)
}

/// The first members that failed. An informer that does not answer gives none: what is told without them is still right.
pub(crate) async fn failures(client: &Client, array: &str) -> Vec<Task> {
    let request = ListRequest {
        array: array.to_owned(),
        states: vec![TaskState::Failed.into()],
        page_size: NAMED,
        ..ListRequest::default()
    };
    client.grpc().list(request).await.map(|answer| answer.into_inner().tasks).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(succeeded: u32, failed: u32, live: u32) -> ArrayStatus {
        let pending = 100 - succeeded - failed - live;
        ArrayStatus { first: 1, count: 100, pending, live, succeeded, failed, ..ArrayStatus::default() }
    }

    #[test]
    fn rate_and_eta_come_from_what_ended_while_one_looked() {
        let mut pace = Pace::default();
        let at = |s| Duration::from_secs(s);
        assert_eq!(pace.tally(&status(10, 0, 2), at(1)).to_string(), "10/100 done, 2 running");
        assert_eq!(pace.tally(&status(12, 0, 2), at(2)).to_string(), "12/100 done, 2 running", "two say nothing");
        let tally = pace.tally(&status(45, 5, 2), at(5));
        assert_eq!(tally.to_string(), "50/100 done, 5 failed, 2 running, 10.0/s, eta 5s");
        assert_eq!(tally.permille(), 500);
        assert_eq!(pace.tally(&status(95, 5, 0), at(10)).to_string(), "100/100 done, 5 failed, 10.0/s");
        // Members that are tried again have not ended any more.
        assert_eq!(pace.tally(&status(5, 0, 2), at(11)).to_string(), "5/100 done, 2 running");
    }

    #[test]
    fn a_bar_is_as_full_as_the_array() {
        assert_eq!(bar(&status(0, 0, 0)), format!("[{}] 0%", " ".repeat(40)));
        assert_eq!(bar(&status(50, 0, 0)), format!("[{}{}] 50%", "=".repeat(20), " ".repeat(20)));
        assert_eq!(bar(&status(99, 1, 0)), format!("[{}] 100%", "=".repeat(40)));
        assert_eq!(bar(&ArrayStatus::default()), format!("[{}] 0%", " ".repeat(40)));
        assert_eq!((brief(&status(3, 0, 1)), brief(&status(3, 1, 1))), ("3/100".into(), "4/100, 1 failed".into()));
    }
}
