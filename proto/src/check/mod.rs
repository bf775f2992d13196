//! Bytes become checked values here, once. Beyond these functions a value that breaks a bound is our bug; before them it is the
//! peer's, and costs only its own call or connection.
//!
//! | function | for |
//! |---|---|
//! | [`spec`] | a client's task: bounds, contradictions, defaults |
//! | [`array`], [`item`], [`executor`] | arrays, executors |
//! | [`key`], [`page_size`] | the rest of what clients say |
//! | [`hello`], [`held`], [`beat`], [`report`], [`upload`] | what a sidecar says |
//!
//! A client's mistake is refused with every fault at once, since a person reads it. Of a sidecar's message the structure is
//! checked and refused; its words for people are only cut to size ([`line`]): refusing them would make the sidecar send the same
//! report again at each reconnect, for ever.

mod array;
mod executor;
mod files;
mod kind;
mod link;
mod preset;
mod spec;

#[cfg(test)]
mod tests;

pub use array::{array, item};
pub use executor::executor;
pub use files::is_url;
pub use kind::Kind;
pub use link::{
    aside, attempt, beat, emitted, ending, held, hello, inventory, line, progress, protocol, report, upload,
};
pub use preset::{PRESETS, Preset, preset};
pub use spec::{Checked, TYPE, key, label_filter, page_size, reason, spec};

use crate::bounds;
use std::collections::BTreeMap;
use std::fmt;

/// Faults reported of one message. A person mends a screenful at a time; the rest is counted.
pub const FAULTS: usize = 16;

/// Characters of a peer's text that are repeated in a fault: enough to find it, too few to flood a terminal or a log.
const SHOWN_CHARS: usize = 48;

/// One thing that is wrong with a message, for the one who must mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: a path like `retry.max_attempts`.
    pub field: String,
    /// What is wrong there.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.problem, self.remedy)
    }
}

/// All that is wrong with a message: at least one fault, at most [`FAULTS`] of them listed. Shown as one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    list: Vec<Fault>,
    unlisted: usize,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            fault.fmt(f)?;
        }
        if self.unlisted > 0 {
            write!(f, " | and {} more", self.unlisted)?;
        }
        Ok(())
    }
}

impl Faults {
    /// The listed faults, in the order of the message's fields.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        if self.list.len() == FAULTS {
            self.unlisted += 1;
            return;
        }
        self.list.push(Fault { field: field.into(), problem: problem.into(), remedy: remedy.into() });
    }

    fn into_result(self) -> Result<(), Self> {
        if self.list.is_empty() { Ok(()) } else { Err(self) }
    }

    fn at_most(&mut self, field: &str, value: u64, most: u64) {
        if value > most {
            self.add(field, format!("{value} is over the bound"), format!("use at most {most}"));
        }
    }

    fn count(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.add(field, format!("{count} entries are over the bound"), format!("use at most {most}"));
        }
    }

    fn duration(&mut self, field: &str, ms: u64) {
        if ms > bounds::DURATION_MS {
            self.add(
                field,
                format!("{ms} ms is over the bound"),
                format!("use at most {} ms (365 days)", bounds::DURATION_MS),
            );
        }
    }

    /// A name, owner or value that people see in tables.
    fn text(&mut self, field: &str, text: &str) {
        if text.len() > bounds::NAME_BYTES {
            let problem = format!("{} bytes are over the bound", text.len());
            self.add(field, problem, format!("use at most {}", bounds::NAME_BYTES));
        } else if let Some(character) = text.chars().find(|c| !is_printable(*c)) {
            let problem = format!("{:?} is not printable", character.escape_debug().to_string());
            self.add(field, problem, "leave control and direction characters out");
        }
    }

    /// A path or an argument: what the kernel takes.
    fn argument(&mut self, field: &str, text: &str) {
        if text.contains('\0') {
            self.add(field, "it contains a NUL byte", "leave it out: the kernel ends the text there");
        } else if text.len() > bounds::PATH_BYTES {
            let problem = format!("{} bytes are over the bound", text.len());
            self.add(
                field,
                problem,
                format!("use at most {}; longer texts fit a script or a file", bounds::PATH_BYTES),
            );
        }
    }

    fn absolute(&mut self, field: &str, path: &str) {
        self.argument(field, path);
        if !path.starts_with('/') {
            let remedy = "use an absolute path: the sidecar does not know your current directory";
            self.add(field, format!("{} is not an absolute path", shown(path)), remedy);
        }
    }

    /// Labels or required labels: keys of `[A-Za-z0-9._/-]`, printable values.
    fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        self.count(field, labels.len(), bounds::LABELS);
        for (key, value) in labels.iter().take(bounds::LABELS) {
            let at = format!("{field}[{}]", shown(key));
            if key.is_empty() || key.len() > bounds::NAME_BYTES || !key.bytes().all(is_label_byte) {
                let remedy = format!("use 1 to {} of the characters A-Z a-z 0-9 . _ / -", bounds::NAME_BYTES);
                self.add(at.as_str(), "the key is not a label key", remedy);
            }
            self.text(&at, value);
        }
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-')
}

/// Neither a control character nor one that breaks a line or turns the direction of the text after it, which would let a name
/// forge the rest of a table.
fn is_printable(c: char) -> bool {
    !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// A peer's text inside a fault: quoted, escaped, cut.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// The last component of a path, cleaned for people; `None` if nothing is left of it.
fn base_name(path: &str) -> Option<String> {
    let last = path.rsplit('/').find(|part| !part.is_empty())?;
    let name = cut(&last.chars().filter(|c| is_printable(*c)).collect::<String>(), bounds::NAME_BYTES);
    (!name.trim().is_empty()).then_some(name)
}

/// At most `most` bytes of the text, whole characters.
fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
