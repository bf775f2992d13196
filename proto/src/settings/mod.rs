//! Configuration files in TOML, read so that all their faults are told at once, each with its line and key.
//!
//! ```text
//!  text ─ parse (every syntax error) ─▶ Section ─ known keys, checked ─▶ end (unknown keys) ─▶ finish
//!                                           └─ sections within ─▶ the same
//! ```
//!
//! Serde would stop at the first fault, and whoever mends a file wants to mend it once.

#[cfg(any(feature = "environment", test))]
pub mod environment;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the largest configuration file: a weight for each of some thousand owners.
pub const FILE_BYTES: u64 = 1 << 20;
/// Faults told of one file; beyond it, it is another kind of file.
const FAULTS: usize = 50;
/// Typing errors between an unknown key and the known one that it is taken for, at most a third of its letters.
const TYPOS: usize = 3;

/// Everything that is wrong with a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(Vec<String>);

impl Faults {
    /// One line each: `FILE:LINE: key: what is wrong; what is right`.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// A file that is being read.
pub struct Settings<'t> {
    path: &'t Path,
    text: &'t str,
    table: DeTable<'t>,
    /// Where the text is no TOML.
    broken: Vec<(usize, String)>,
    faults: Book,
}

/// Faults by where they are in the text.
type Book = RefCell<Vec<(usize, String)>>;

impl<'t> Settings<'t> {
    /// Parses `text`, which stands in `path`.
    #[must_use]
    pub fn parse(path: &'t Path, text: &'t str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let broken = errors.into_iter().map(|error| {
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            (error.span().map_or(0, |span| span.start), format!("this is not TOML: {message}"))
        });
        Self { path, text, table: table.into_inner(), broken: broken.collect(), faults: Book::default() }
    }

    /// The keys that stand before all sections, and the sections.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section {
            table: Some(&self.table),
            faults: &self.faults,
            prefix: String::new(),
            folder: self.folder(),
            known: Vec::new(),
        }
    }

    /// Where relative paths in the file begin: where it lies, wherever the daemon is started.
    fn folder(&self) -> &'t Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// What was read, if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was.
    pub fn finish<T>(self, read: T) -> Result<T, Faults> {
        // What is read from a line that is no TOML was guessed, and no news.
        let broken: Vec<usize> = self.broken.iter().map(|(at, _)| self.line(*at)).collect();
        let mut faults = self.faults.take();
        faults.retain(|(at, _)| !broken.contains(&self.line(*at)));
        faults.extend(self.broken.iter().cloned());
        if faults.is_empty() {
            return Ok(read);
        }
        faults.sort();
        let path = self.path.display();
        let told = faults.iter().take(FAULTS);
        let mut lines: Vec<String> = told.map(|(at, fault)| format!("{path}:{}: {fault}", self.line(*at))).collect();
        if faults.len() > FAULTS {
            lines.push(format!("{path}: and {} more", faults.len() - FAULTS));
        }
        Err(Faults(lines))
    }

    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A table of the file, or the lack of one, which is as good as an empty one.
pub struct Section<'s> {
    table: Option<&'s DeTable<'s>>,
    faults: &'s Book,
    /// Of its keys in faults, like `retention.`.
    prefix: String,
    folder: &'s Path,
    known: Vec<&'static str>,
}

impl<'s> Section<'s> {
    /// A text that `parse` understands.
    pub fn text<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_kind(key, value, "a text in quotes");
            return None;
        };
        parse(text).map_err(|fault| self.fault(&value.span(), key, &fault.to_string())).ok()
    }

    /// A path; a relative one begins at the file's folder.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.folder;
        self.text(key, |text| {
            if text.is_empty() { Err("it is empty; name a file or directory") } else { Ok(folder.join(text)) }
        })
    }

    /// A whole number within the range.
    pub fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        number(value, &range).map_err(|fault| self.fault(&value.span(), key, &fault)).ok()
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_kind(key, value, "true or false");
        }
        flag
    }

    /// A section within this one.
    pub fn section(&mut self, key: &'static str) -> Section<'s> {
        let value = self.take(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, table) {
            self.wrong_kind(key, value, &format!("a section that begins with [{}{key}]", self.prefix));
        }
        let prefix = format!("{}{key}.", self.prefix);
        Section { table, faults: self.faults, prefix, folder: self.folder, known: Vec::new() }
    }

    /// A key that must not stand in a file, with the reason and what to do instead.
    pub fn never(&mut self, key: &'static str, instead: &str) {
        if let Some(value) = self.take(key) {
            self.fault(&value.span(), key, instead);
        }
    }

    /// All that is left are names of the user's, each with a whole number within the range.
    #[must_use]
    pub fn numbers(self, range: RangeInclusive<u64>) -> BTreeMap<String, u64> {
        let mut numbers = BTreeMap::new();
        for (key, value) in self.table.into_iter().flatten() {
            match number(value, &range) {
                Ok(number) => drop(numbers.insert(key.get_ref().to_string(), number)),
                Err(fault) => self.fault(&key.span(), key.get_ref(), &fault),
            }
        }
        numbers
    }

    /// All that is left are names of the user's, each with a text; `check` says what is wrong with a pair.
    #[must_use]
    pub fn texts<E: fmt::Display>(self, check: impl Fn(&str, &str) -> Result<(), E>) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for (key, value) in self.table.into_iter().flatten() {
            let name = key.get_ref();
            match value.get_ref().as_str() {
                None => self.wrong_kind(name, value, "a text in quotes"),
                Some(text) => match check(name, text) {
                    Ok(()) => drop(texts.insert(name.to_string(), text.to_owned())),
                    Err(fault) => self.fault(&key.span(), name, &fault.to_string()),
                },
            }
        }
        texts
    }

    /// Notes every key that nobody asked for.
    pub fn end(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let remedy = match nearest(name, &self.known) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("known are {}", self.known.join(", ")),
            };
            self.fault(&key.span(), name, &format!("there is no such key; {remedy}"));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.known.push(key);
        self.table?.get(key)
    }

    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'_>>, right: &str) {
        self.fault(&value.span(), key, &format!("it is {}; write {right}", kind(value)));
    }

    fn fault(&self, span: &Range<usize>, key: &str, fault: &str) {
        self.faults.borrow_mut().push((span.start, format!("{}{key}: {fault}", self.prefix)));
    }
}

/// One word out of a few; what else was written is told with all of them.
///
/// # Errors
/// It is none of them.
pub fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        format!("{text:?} is unknown; write {}", words.join(" or "))
    })
}

fn number(value: &Spanned<DeValue<'_>>, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let (least, most) = (range.start(), range.end());
    let Some(integer) = value.get_ref().as_integer() else {
        return Err(format!("it is {}; write a whole number from {least} to {most}", kind(value)));
    };
    let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("{} is out of range; write a whole number from {least} to {most}", integer.as_str()))
}

fn kind(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// The known key that was probably meant.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let most = TYPOS.min(name.chars().count().div_ceil(3));
    let distances = known.iter().map(|key| (distance(name, key), *key));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, key)| key)
}

/// Letters to insert, remove or replace to make one of the other (Levenshtein). `-` and `_` are one letter: flags have the former.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().map(|letter| if letter == '-' { '_' } else { letter }).collect::<Vec<_>>();
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
