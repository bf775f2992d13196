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

/// Why something is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It cannot be: a history that reaches it shows that the list is out of date.
    Never(&'static str),
    /// It can, once in so many histories that a run of the tests may be without it.
    Seldom(&'static str),
}

/// Arms of the sidecar's table that not every run reaches, each with its reason.
const UNREACHED_ARMS: [(&str, &str, Why); 15] = [
    ("retired", "been spawned", Why::Never(SPAWNED_LATE)),
    ("purging", "been spawned", Why::Never(SPAWNED_LATE)),
    ("retired", "been acknowledged", Why::Never(RETIRED_ONCE)),
    ("purging", "been acknowledged", Why::Never(RETIRED_ONCE)),
    ("refused", "ended", Why::Seldom("what is refused has no record, unless a copy of the ledger is older than it")),
    ("accepted", "become durable", Why::Seldom(ROW_UNDER_WAY)),
    ("accepting", "ended", Why::Seldom(ROW_UNDER_WAY)),
    ("accepting", "been refused", Why::Seldom(ROW_UNDER_WAY)),
    ("publishing", "become durable", Why::Seldom("only an informer that knows it again has its row written again")),
    ("publishing", "been spawned", Why::Seldom(SET_ASIDE)),
    ("published", "been spawned", Why::Seldom(SET_ASIDE)),
    ("publishing", "been acknowledged", Why::Seldom(PUBLISHED_LATE)),
    ("retired", "published", Why::Seldom(PUBLISHED_LATE)),
    ("purging", "published", Why::Seldom(PUBLISHED_LATE)),
    ("purging", "had its log stored", Why::Seldom("its log must be given up while it is on its way")),
];
const SPAWNED_LATE: &str =
    "what is over is stopped without asking the table, unless it is set aside, as nothing retired is";
const RETIRED_ONCE: &str = "the table is not asked about what is retired already";
const ROW_UNDER_WAY: &str =
    "a row is on its way to the ledger for some milliseconds, or a hanging disk meets a lease's end";
const SET_ASIDE: &str = "a restored informer must set it aside while it publishes, and its keeper come back after that";
const PUBLISHED_LATE: &str = "the winner must be given up, and be heard again, before its outputs are in place";

/// Faults that do not meet something in every run, each with the reason; without a kind: all that strike one box.
const UNREACHED_FAULTS: [(Option<Kind>, What, Why); 1] =
    [(None, What::Stopping, Why::Seldom("it lasts for one grace, on one box: each kind meets it once to five times"))];

fn excuse_of_arm(stage: &str, happened: &str) -> Option<Why> {
    UNREACHED_ARMS.iter().find(|arm| (arm.0, arm.1) == (stage, happened)).map(|arm| arm.2)
}

fn excuse_of_fault(kind: Kind, what: What) -> Option<Why> {
    let is_it = |known: &Option<Kind>| known.map_or(!kind.is_central(), |known| known == kind);
    UNREACHED_FAULTS.iter().find(|(known, met, _)| is_it(known) && *met == what).map(|fault| fault.2)
}

impl Coverage {
    /// What should have been reached and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in Kind::ALL {
            for what in What::ALL.into_iter().filter(|what| kind.may_meet(*what)) {
                if !self.matrix.contains_key(&(kind, what)) && excuse_of_fault(kind, what).is_none() {
                    missing.push(format!("fault {kind:?} with {what:?}"));
                }
            }
        }
        for arm in self.arms.table().iter().filter(|arm| arm.answer != "impossible" && arm.times == 0) {
            if excuse_of_arm(arm.stage, arm.happened).is_none() {
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
        missing.extend(self.missing_of_runs());
        missing
    }

    /// Arms that were not reached this time and need not be, with the reasons.
    #[must_use]
    pub fn seldom(&self) -> Vec<String> {
        let table = self.arms.table();
        let unreached = table.iter().filter(|arm| arm.times == 0);
        let excused = unreached.filter_map(|arm| match excuse_of_arm(arm.stage, arm.happened) {
            Some(Why::Seldom(reason)) => Some(format!("sidecar: {} has {}: {reason}", arm.stage, arm.happened)),
            Some(Why::Never(_)) | None => None,
        });
        excused.collect()
    }

    /// What was reached and is said to be out of reach.
    #[must_use]
    pub fn unexpected(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, what) in self.matrix.keys() {
            if let Some(Why::Never(reason)) = excuse_of_fault(*kind, *what) {
                found.push(format!("fault {kind:?} with {what:?}, although {reason}"));
            }
        }
        for arm in self.arms.table().iter().filter(|arm| arm.times > 0) {
            if let Some(Why::Never(reason)) = excuse_of_arm(arm.stage, arm.happened) {
                found.push(format!("sidecar: {} has {}, although {reason}", arm.stage, arm.happened));
            }
        }
        found
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
        text.push_str(&self.table_of_runs());
        text
    }
}
