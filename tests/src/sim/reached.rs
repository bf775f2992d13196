//! What must have been reached when enough histories were played, and the tables for people.

use super::coverage::{Coverage, What};
use super::faults::Kind;
use std::fmt::Write as _;

/// Steps of a task that must be met: the arrows of its diagram.
const TASK_STEPS: [(&str, &str); 34] = [
    ("new", "waiting"),
    ("new", "ready"),
    ("new", "assigned"),
    ("waiting", "ready"),
    ("waiting", "assigned"),
    ("waiting", "running"),
    ("waiting", "succeeded"),
    ("waiting", "failed"),
    ("waiting", "cancelled"),
    ("ready", "assigned"),
    ("ready", "running"),
    ("ready", "failed"),
    ("ready", "cancelled"),
    ("assigned", "running"),
    ("assigned", "waiting"),
    ("assigned", "ready"),
    ("assigned", "succeeded"),
    ("assigned", "failed"),
    ("assigned", "cancelled"),
    ("assigned", "committing"),
    ("running", "waiting"),
    ("running", "ready"),
    ("running", "assigned"),
    ("running", "committing"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("committing", "succeeded"),
    ("committing", "failed"),
    ("committing", "waiting"),
    ("committing", "assigned"),
    ("failed", "assigned"),
    ("cancelled", "assigned"),
    ("failed", "ready"),
];

/// Steps of an attempt that must be met: the arrows of its diagram.
const ATTEMPT_STEPS: [(&str, &str); 20] = [
    ("new", "assigned"),
    ("assigned", "running"),
    ("assigned", "committing"),
    ("assigned", "succeeded"),
    ("assigned", "failed"),
    ("assigned", "cancelled"),
    ("assigned", "lost"),
    ("assigned", "presumed lost"),
    ("running", "committing"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "lost"),
    ("running", "presumed lost"),
    ("committing", "succeeded"),
    ("committing", "failed"),
    ("committing", "lost"),
    ("presumed lost", "running"),
    ("presumed lost", "succeeded"),
    ("presumed lost", "late"),
];

/// Answers to a returning sidecar that must be met: how an attempt is held there, what is known of it here, the answer.
const ANSWERS: [(&str, &str, &str); 20] = [
    ("accepted", "open", "keep"),
    ("accepted", "presumed lost", "keep"),
    ("accepted", "fenced", "stop"),
    ("accepted", "unknown", "set aside"),
    ("running", "open", "keep"),
    ("running", "presumed lost", "keep"),
    ("running", "presumed lost", "stop"),
    ("running", "fenced", "stop"),
    ("running", "unlisted", "set aside"),
    ("running", "unknown", "set aside"),
    ("ended", "open", "acknowledged"),
    ("ended", "open", "publish"),
    ("ended", "presumed lost", "acknowledged"),
    ("ended", "presumed lost", "publish"),
    ("ended", "fenced", "acknowledged"),
    ("ended", "over", "acknowledged"),
    ("ended", "unlisted", "set aside"),
    ("ended", "unknown", "set aside"),
    ("published", "open", "acknowledged"),
    ("set aside", "unknown", "set aside"),
];

/// Arms of the sidecar's table that no history reaches, each with its reason.
const UNREACHED_ARMS: [(&str, &str, &str); 0] = [];

/// Faults that never meet something, each with the reason.
const UNREACHED_FAULTS: [(Kind, What, &str); 0] = [];

impl Coverage {
    /// What should have been reached and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in Kind::ALL {
            for what in What::ALL.into_iter().filter(|what| kind.may_meet(*what)) {
                let excused = UNREACHED_FAULTS.iter().any(|(known, met, _)| (*known, *met) == (kind, what));
                if !self.matrix.contains_key(&(kind, what)) && !excused {
                    missing.push(format!("fault {kind:?} with {what:?}"));
                }
            }
        }
        for arm in self.arms.table().iter().filter(|arm| arm.answer != "impossible" && arm.times == 0) {
            let is_this = |(stage, happened, _): &(&str, &str, &str)| *stage == arm.stage && *happened == arm.happened;
            if !UNREACHED_ARMS.iter().any(is_this) {
                missing.push(format!("sidecar: {} has {}", arm.stage, arm.happened));
            }
        }
        let steps = |name: &str,
                     known: &[(&'static str, &'static str)],
                     met: &dyn Fn(&(&'static str, &'static str)) -> bool| {
            known
                .iter()
                .filter(|step| !met(step))
                .map(|(from, to)| format!("{name}: {from} to {to}"))
                .collect::<Vec<_>>()
        };
        missing.extend(steps("task", &TASK_STEPS, &|step| self.tasks.contains_key(step)));
        missing.extend(steps("attempt", &ATTEMPT_STEPS, &|step| self.attempts.contains_key(step)));
        let unanswered = ANSWERS.iter().filter(|answer| !self.answers.contains_key(*answer));
        missing.extend(unanswered.map(|(held, here, decision)| format!("answer: {held}, {here}: {decision}")));
        missing
    }

    /// All counts, for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from("fault \\ struck while");
        // Writing into a string does not fail.
        let mut line = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
        for what in What::ALL {
            line(format_args!(" | {what:?}"));
        }
        for kind in Kind::ALL {
            line(format_args!("\n{kind:?}"));
            for what in What::ALL {
                match self.matrix.get(&(kind, what)) {
                    Some(times) => line(format_args!(" | {times}")),
                    None => line(format_args!(" | –")),
                }
            }
        }
        line(format_args!("\n\nsidecar: an attempt that is … has …: the table says, times\n"));
        for arm in self.arms.table().iter().filter(|arm| arm.times > 0 || arm.answer != "impossible") {
            line(format_args!("{} | {} | {} | {}\n", arm.stage, arm.happened, arm.answer, arm.times));
        }
        for (name, steps) in [("tasks", &self.tasks), ("attempts", &self.attempts)] {
            line(format_args!("\ninformer: {name} from | to | times\n"));
            for ((from, to), times) in steps {
                line(format_args!("{from} | {to} | {times}\n"));
            }
        }
        line(format_args!("\ninformer: an attempt is held as | known here as | answer | times\n"));
        for ((held, here, decision), times) in &self.answers {
            line(format_args!("{held} | {here} | {decision} | {times}\n"));
        }
        text
    }
}
