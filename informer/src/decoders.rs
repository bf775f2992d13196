//! What reads foreign text here and is nobody else's to call, opened to the suite that feeds it garbage. Nothing of it is in a shipped
//! build. Each answers with the line that its user would get.

use crate::cli::{self, file, items, units};
use std::io::Cursor;
use std::path::Path;

/// A configuration file of `informer serve`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn config(text: &str) -> Result<(), String> {
    crate::config::parse(Path::new("informer.toml"), text).map(drop).map_err(|faults| faults.lines().join("\n"))
}

/// A task file, in JSON if its first character says so, and the checks that the informer makes of what it describes.
///
/// # Errors
/// The first fault of it.
pub fn task_file(text: &str) -> Result<(), String> {
    // Relative names lead nowhere from there.
    let task = file::parse(Path::new("task"), text, Path::new("/nonexistent")).map_err(|error| error.to_string())?;
    proto::check::spec(task.spec).map(drop).map_err(|faults| faults.to_string())
}

/// Items of an array, a line each; answers how many.
///
/// # Errors
/// The first line that is none.
pub fn lines(bytes: &[u8]) -> Result<usize, String> {
    let mut count = 0;
    let counted = items::lines_of(Path::new("items"), Cursor::new(bytes), &mut |_| {
        count += 1;
        true
    });
    counted.map(|()| count).map_err(|error| error.to_string())
}

/// Items of an array, the elements of a JSON array.
///
/// # Errors
/// What is no array, and the first element that is no item.
pub fn json(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let read = items::json_of(Path::new("items"), Cursor::new(bytes), &mut |item| {
        found.push(item);
        true
    });
    read.map(|()| found).map_err(|error| error.to_string())
}

/// A text, as each of the units that flags and files take.
pub fn units(text: &str) {
    // Whether it is one is not the point here.
    let _ = (units::duration_ms(text), units::limit_ms(text), units::bytes(text), units::signal(text));
    let _ = (units::pair(text), units::unix_ms(text), units::moment(text, 1 << 40), units::range(text));
}

/// The words of a command line, from the verb on; nothing is done.
///
/// # Errors
/// Clap's.
pub fn command_line(words: &[String]) -> Result<(), String> {
    cli::parsed(words)
}
