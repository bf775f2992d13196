//! From results of probes to a state. Pure: time is an argument, in milliseconds of one clock.
//!
//! ```text
//!            success                      failures in a row
//! Starting ───────────▶ Healthy ─────────────────────────────▶ Unhealthy
//!    │                     ▲              success                  │
//!    │                     └───────────────────────────────────────┘
//!    └── failures in a row, counted only after the start period ──▶ Unhealthy
//! ```

use proto::v1;

/// Between two probes unless the check says otherwise, ms.
const INTERVAL_MS: u64 = 5_000;
/// Time limit of one probe unless the check says otherwise, ms.
const TIMEOUT_MS: u64 = 2_000;
/// Failures in a row that make unhealthy unless the check says otherwise: one lost packet must not restart a service.
const FAILURES: u32 = 3;
/// Time in which failures before the first success do not count, unless the check says otherwise, ms.
const START_PERIOD_MS: u64 = 10_000;
/// Between two probes before the first success, at most, ms: a service that is up should be seen up soon.
const STARTING_INTERVAL_MS: u64 = 500;

/// A health check's numbers with their defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between the end of a probe and the start of the next, ms.
    pub interval_ms: u64,
    /// Time limit of one probe, ms.
    pub timeout_ms: u64,
    /// Consecutive failures until unhealthy.
    pub failures: u32,
    /// Failures before the first success do not count for this long after the start, ms.
    pub start_period_ms: u64,
}

impl Settings {
    /// From the wire; 0 means the default.
    #[must_use]
    pub const fn of(check: &v1::HealthCheck) -> Self {
        const fn or(value: u64, default: u64) -> u64 {
            if value == 0 { default } else { value }
        }
        Self {
            interval_ms: or(check.interval_ms, INTERVAL_MS),
            timeout_ms: or(check.timeout_ms, TIMEOUT_MS),
            failures: if check.failures == 0 { FAILURES } else { check.failures },
            start_period_ms: or(check.start_period_ms, START_PERIOD_MS),
        }
    }
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The service is healthy now and was not.
    Healthy,
    /// The service is unhealthy now and was not.
    Unhealthy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting { failures: u32 },
    Healthy { failures: u32 },
    Unhealthy,
}

/// One service's health. Exactly one probe is under way or due at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracker {
    settings: Settings,
    started_ms: u64,
    state: State,
    /// When the next probe may start; `None` while one is under way.
    due_ms: Option<u64>,
}

impl Tracker {
    /// For a service whose process was spawned at `started_ms`. An adopted service starts here again: its first probe is due
    /// at once and decides.
    #[must_use]
    pub const fn new(settings: Settings, started_ms: u64) -> Self {
        Self { settings, started_ms, state: State::Starting { failures: 0 }, due_ms: Some(started_ms) }
    }

    /// When [`Tracker::on_due`] wants to be called; `None` while a probe is under way.
    #[must_use]
    pub const fn next_due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// True if a probe is to be made now; it then counts as under way until [`Tracker::on_result`].
    pub fn on_due(&mut self, now_ms: u64) -> bool {
        let due = self.due_ms.is_some_and(|due| due <= now_ms);
        if due {
            self.due_ms = None;
        }
        due
    }

    /// The result of a probe. A result that nobody asked for is not counted.
    pub fn on_result(&mut self, now_ms: u64, healthy: bool) -> Option<Change> {
        if self.due_ms.is_some() {
            return None;
        }
        let (state, change) = self.after(now_ms, healthy);
        self.state = state;
        let interval_ms = match state {
            State::Starting { .. } => self.settings.interval_ms.min(STARTING_INTERVAL_MS),
            State::Healthy { .. } | State::Unhealthy => self.settings.interval_ms,
        };
        self.due_ms = Some(now_ms.saturating_add(interval_ms));
        change
    }

    fn after(&self, now_ms: u64, healthy: bool) -> (State, Option<Change>) {
        let counts = now_ms >= self.started_ms.saturating_add(self.settings.start_period_ms);
        match (self.state, healthy) {
            (State::Starting { .. } | State::Unhealthy, true) => {
                (State::Healthy { failures: 0 }, Some(Change::Healthy))
            }
            (State::Healthy { .. }, true) => (State::Healthy { failures: 0 }, None),
            (State::Starting { failures }, false) if !counts => (State::Starting { failures }, None),
            (State::Starting { failures } | State::Healthy { failures }, false)
                if failures + 1 >= self.settings.failures =>
            {
                (State::Unhealthy, Some(Change::Unhealthy))
            }
            (State::Starting { failures }, false) => (State::Starting { failures: failures + 1 }, None),
            (State::Healthy { failures }, false) => (State::Healthy { failures: failures + 1 }, None),
            (State::Unhealthy, false) => (State::Unhealthy, None),
        }
    }

    /// The state for a progress message.
    #[must_use]
    pub const fn health(&self) -> v1::Health {
        match self.state {
            State::Starting { .. } => v1::Health::Starting,
            State::Healthy { .. } => v1::Health::Healthy,
            State::Unhealthy => v1::Health::Unhealthy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> Tracker {
        let check = v1::HealthCheck { interval_ms: 1000, failures: 2, start_period_ms: 3000, ..Default::default() };
        Tracker::new(Settings::of(&check), 0)
    }

    fn probe(tracker: &mut Tracker, now_ms: u64, healthy: bool) -> Option<Change> {
        assert!(tracker.on_due(now_ms), "no probe was due at {now_ms}");
        assert_eq!(tracker.next_due_ms(), None, "two probes at once");
        tracker.on_result(now_ms, healthy)
    }

    #[test]
    fn a_slow_start_is_forgiven_then_failures_count() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, false), None);
        assert_eq!(tracker.next_due_ms(), Some(500), "an unseen service is looked at sooner");
        assert_eq!(probe(&mut tracker, 2999, false), None);
        assert_eq!(probe(&mut tracker, 3600, false), None, "the first failure that counts");
        assert_eq!(tracker.health(), v1::Health::Starting);
        assert_eq!(probe(&mut tracker, 4200, false), Some(Change::Unhealthy));
        assert_eq!(probe(&mut tracker, 5200, false), None, "said once");
        assert_eq!(probe(&mut tracker, 6200, true), Some(Change::Healthy));
    }

    #[test]
    fn a_success_ends_the_start_period_and_resets_the_count() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, true), Some(Change::Healthy));
        assert_eq!(probe(&mut tracker, 1000, false), None);
        assert_eq!(probe(&mut tracker, 2000, true), None);
        assert_eq!(probe(&mut tracker, 3000, false), None);
        assert_eq!(probe(&mut tracker, 4000, false), Some(Change::Unhealthy));
        assert_eq!(tracker.health(), v1::Health::Unhealthy);
    }

    #[test]
    fn early_calls_and_unasked_results_change_nothing() {
        let mut tracker = tracker();
        assert_eq!(tracker.on_result(0, true), None);
        assert_eq!(probe(&mut tracker, 0, true), Some(Change::Healthy));
        assert!(!tracker.on_due(999));
        assert_eq!(tracker.on_result(999, false), None);
        assert_eq!(tracker.next_due_ms(), Some(1000));
    }
}
