//! How an end is judged, and when the next try comes. Pure functions of facts and ending.

use proto::{bounds, store, v1};

/// What an ending means for its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    /// The task's own failure, charged to its attempts.
    Own {
        retriable: bool,
    },
    /// Not the task's fault; counted apart.
    Infrastructure,
}

/// Judges how an attempt's process ended.
pub(super) fn judge(facts: &store::Facts, ending: &v1::Ending) -> Verdict {
    use v1::Reason as R;
    match ending.reason() {
        R::Unspecified if ending.exit_code == Some(0) => Verdict::Success,
        R::Lost | R::Drained | R::Fenced | R::Refused => Verdict::Infrastructure,
        // Its machine lacked what any task needs there: a descriptor, a process, room for a record, a program of ours.
        R::Spawn if ending.machine_fault => Verdict::Infrastructure,
        // Somebody stopped it whom this informer did not ask: an order of an earlier one that is forgotten.
        R::Cancelled | R::Revoked => Verdict::Infrastructure,
        R::ExitCode | R::Unspecified => Verdict::Own { retriable: code_is_retriable(facts, ending.exit_code) },
        R::Signal
        | R::Oom
        | R::Timeout
        | R::TotalTimeout
        | R::QueueTimeout
        | R::Stalled
        | R::Spawn
        | R::Unhealthy
        | R::Output
        | R::Input
        | R::Members
        | R::MaxFailures => Verdict::Own { retriable: true },
    }
}

/// Whether trying a failed task again could help, by the codes that it names.
pub(super) fn is_retriable(facts: &store::Facts, ending: &v1::Ending) -> bool {
    judge(facts, ending) != Verdict::Own { retriable: false }
}

fn code_is_retriable(facts: &store::Facts, code: Option<i32>) -> bool {
    let (Some(retry), Some(code)) = (&facts.retry, code.and_then(|code| u32::try_from(code).ok())) else { return true };
    !retry.final_codes.contains(&code) && (retry.retriable_codes.is_empty() || retry.retriable_codes.contains(&code))
}

pub(super) fn max_attempts(facts: &store::Facts) -> u32 {
    match facts.retry.as_ref().map_or(0, |retry| retry.max_attempts) {
        0 => bounds::MAX_ATTEMPTS_DEFAULT,
        n => n,
    }
}

pub(super) fn max_infrastructure(facts: &store::Facts) -> u32 {
    match &facts.retry {
        Some(retry) if retry.no_infrastructure_retry => 0,
        Some(v1::Retry { max_infrastructure: n @ 1.., .. }) => *n,
        _ => bounds::MAX_INFRASTRUCTURE_DEFAULT,
    }
}

/// Whether an operator may have it run elsewhere at no charge. A task that must not be run again after a loss must not be run again
/// for somebody's convenience either.
pub(super) fn may_be_moved(facts: &store::Facts) -> bool {
    facts.retry.as_ref().is_none_or(|retry| !retry.no_infrastructure_retry)
}

/// Delay before try number `failures + 1`: exponential with a cap and full jitter, at least 1 ms.
///
/// Full jitter (a uniform draw from zero to the cap) spreads a crowd of equal failures best; source: M. Brooker, "Exponential
/// Backoff and Jitter", AWS Architecture Blog, 2015.
pub(super) fn backoff_ms(facts: &store::Facts, failures: u32, entropy: u64) -> u64 {
    let (first, cap) = match &facts.retry {
        Some(retry) => (or(retry.backoff_ms, bounds::BACKOFF_MS), or(retry.backoff_cap_ms, bounds::BACKOFF_CAP_MS)),
        None => (bounds::BACKOFF_MS, bounds::BACKOFF_CAP_MS),
    };
    let ceiling = exponential(first, cap, failures);
    1 + entropy % ceiling
}

/// Delay before a service starts again: exponential with a cap, without jitter (its copies do not crowd: there is one).
pub(super) fn restart_ms(policy: &v1::RestartPolicy, restarts: u32) -> u64 {
    let first = or(policy.backoff_ms, bounds::RESTART_BACKOFF_MS);
    exponential(first, or(policy.backoff_cap_ms, bounds::RESTART_BACKOFF_CAP_MS), restarts)
}

/// The longest delay of either kind.
pub(super) fn longest_ms(facts: &store::Facts) -> u64 {
    let retry_ms = facts.retry.as_ref().map_or(0, |retry| retry.backoff_cap_ms);
    let restart_ms = facts.restart.map_or(0, |policy| or(policy.backoff_cap_ms, bounds::RESTART_BACKOFF_CAP_MS));
    or(retry_ms, bounds::BACKOFF_CAP_MS).max(restart_ms)
}

/// `first` for the first failure, doubled for each further one, at most `cap`.
fn exponential(first: u64, cap: u64, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(40);
    first.max(1).saturating_mul(1 << doublings).min(cap.max(1))
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(retry: v1::Retry) -> store::Facts {
        store::Facts { retry: Some(retry), ..Default::default() }
    }

    fn exit(code: i32) -> v1::Ending {
        let reason = if code == 0 { v1::Reason::Unspecified } else { v1::Reason::ExitCode };
        v1::Ending { reason: reason.into(), exit_code: Some(code), ..Default::default() }
    }

    #[test]
    fn codes_can_be_final_or_retriable() {
        let by_default = facts(v1::Retry::default());
        assert_eq!(judge(&by_default, &exit(0)), Verdict::Success);
        assert_eq!(judge(&by_default, &exit(3)), Verdict::Own { retriable: true });
        let some_final = facts(v1::Retry { final_codes: vec![3], ..Default::default() });
        assert_eq!(judge(&some_final, &exit(3)), Verdict::Own { retriable: false });
        let only_75 = facts(v1::Retry { retriable_codes: vec![75], ..Default::default() });
        assert_eq!(judge(&only_75, &exit(75)), Verdict::Own { retriable: true });
        assert_eq!(judge(&only_75, &exit(1)), Verdict::Own { retriable: false });
    }

    #[test]
    fn back_off_doubles_to_its_cap_with_full_jitter() {
        let facts = facts(v1::Retry { backoff_ms: 100, backoff_cap_ms: 350, ..Default::default() });
        for (failures, ceiling) in [(1, 100), (2, 200), (3, 350), (60, 350)] {
            assert_eq!(backoff_ms(&facts, failures, 0), 1);
            assert_eq!(backoff_ms(&facts, failures, ceiling - 1), ceiling);
            assert_eq!(backoff_ms(&facts, failures, ceiling), 1);
        }
    }

    #[test]
    fn infrastructure_has_a_budget_of_its_own() {
        assert_eq!(max_infrastructure(&facts(v1::Retry::default())), bounds::MAX_INFRASTRUCTURE_DEFAULT);
        assert_eq!(max_infrastructure(&facts(v1::Retry { no_infrastructure_retry: true, ..Default::default() })), 0);
        assert_eq!(max_infrastructure(&facts(v1::Retry { max_infrastructure: 9, ..Default::default() })), 9);
        for reason in [v1::Reason::Lost, v1::Reason::Drained, v1::Reason::Fenced, v1::Reason::Refused] {
            let ending = v1::Ending { reason: reason.into(), ..Default::default() };
            assert_eq!(judge(&store::Facts::default(), &ending), Verdict::Infrastructure);
        }
        let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), ..Default::default() };
        assert_eq!(judge(&store::Facts::default(), &spawn), Verdict::Own { retriable: true }, "what the task named");
        let of_machine = v1::Ending { machine_fault: true, ..spawn };
        assert_eq!(judge(&store::Facts::default(), &of_machine), Verdict::Infrastructure);
    }
}
