//! What of workflows must have been reached when enough histories were played.

use super::super::coverage::Coverage;
use super::draw::Verb;
use super::edge::Edge;
use std::fmt::Write as _;

/// Types, each with the ends that must be met.
const TYPES: [(&str, &[&str]); 18] = [
    ("SIMPLE", &["COMPLETED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "CANCELED", "COMPLETED_WITH_ERRORS", "SKIPPED"]),
    ("SIMPLE, polled for", &["COMPLETED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED"]),
    ("DYNAMIC", &["COMPLETED", "CANCELED"]),
    ("SWITCH", &["COMPLETED"]),
    ("DECISION", &["COMPLETED"]),
    ("FORK_JOIN", &["COMPLETED"]),
    ("FORK_JOIN_DYNAMIC", &["COMPLETED"]),
    ("JOIN", &["COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED"]),
    ("EXCLUSIVE_JOIN", &["COMPLETED"]),
    ("DO_WHILE", &["COMPLETED", "CANCELED"]),
    ("SUB_WORKFLOW", &["COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED"]),
    ("START_WORKFLOW", &["COMPLETED", "FAILED"]),
    ("WAIT", &["COMPLETED", "CANCELED"]),
    ("HUMAN", &["COMPLETED", "CANCELED"]),
    ("TERMINATE", &["COMPLETED"]),
    ("SET_VARIABLE", &["COMPLETED"]),
    ("INLINE", &["COMPLETED"]),
    ("EVENT", &["COMPLETED"]),
];

impl Coverage {
    pub(in super::super) fn missing_of_runs(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (kind, ends) in TYPES {
            let unmet = ends.iter().filter(|end| !self.types.contains_key(&(kind.to_owned(), **end)));
            missing.extend(unmet.map(|end| format!("a task of type {kind} that ends {end}")));
        }
        for verb in Verb::ALL {
            for outcome in verb.outcomes() {
                if !self.verbs.contains_key(&(verb, outcome)) {
                    missing.push(format!("a run that is told {verb:?}: {outcome}"));
                }
            }
        }
        for edge in Edge::ALL {
            for side in ["durable", "lost"] {
                if !self.edges.contains_key(&(edge, side)) {
                    missing.push(format!("the informer killed around {edge:?}: {side}"));
                }
            }
        }
        if self.compared == 0 {
            missing.push("a run that is compared with what it means".to_owned());
        }
        missing
    }

    pub(in super::super) fn table_of_runs(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let mut line = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
        line(format_args!("\nruns: type | status | times\n"));
        for ((kind, status), times) in &self.types {
            line(format_args!("{kind} | {status} | {times}\n"));
        }
        line(format_args!("\nruns: told | outcome | times\n"));
        for ((verb, outcome), times) in &self.verbs {
            line(format_args!("{verb:?} | {outcome} | {times}\n"));
        }
        line(format_args!("\nruns: the informer killed around | the commit was | times\n"));
        for ((edge, side), times) in &self.edges {
            line(format_args!("{edge:?} | {side} | {times}\n"));
        }
        line(format_args!(
            "\n{} runs, {} compared with what they mean, {} starts where that is a race\n",
            self.runs, self.compared, self.unsure
        ));
        text
    }
}

impl Verb {
    /// How it must have gone, each at least once.
    fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::Pause | Self::Skip | Self::Signal => &["done", "ignored", "refused"],
            Self::Resume | Self::Retry | Self::Restart | Self::RestartLatest => &["done", "refused"],
            Self::Terminate => &["done", "ignored"],
            Self::Rerun => &["done"],
        }
    }
}
