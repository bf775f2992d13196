//! The table `[array]` of a task file: the task is the template of many.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{Problem, below};
use crate::cli::{array, units};

/// Exactly one of `range`, `each_line`, `from_json` and `items` says which members there are.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Array {
    range: Option<String>,
    each_line: Option<PathBuf>,
    from_json: Option<PathBuf>,
    items: Option<Vec<Value>>,
    max_failures: Option<u32>,
}

impl Array {
    pub(super) fn members(self, folder: &Path) -> Result<array::Array, Problem> {
        let members = match (self.range, self.each_line, self.from_json, self.items) {
            (Some(range), None, None, None) => {
                let (first, count) = units::members(&range)
                    .map_err(|error| Problem::Content { near: "range", problem: error.to_string() })?;
                array::Members::Range { first, count }
            }
            (None, Some(file), None, None) => array::Members::Lines(beside(folder, &file)?),
            (None, None, Some(file), None) => array::Members::Json(beside(folder, &file)?),
            (None, None, None, Some(items)) => array::Members::Listed(items.into_iter().map(text).collect()),
            _ => {
                let problem = "an array needs exactly one of `range`, `each_line`, `from_json` and `items`".into();
                return Err(Problem::Content { near: "[array]", problem });
            }
        };
        Ok(array::Array { members, max_failures: self.max_failures })
    }
}

/// A file beside the task file; `-` stays standard input.
fn beside(folder: &Path, file: &Path) -> Result<PathBuf, Problem> {
    if file == Path::new("-") { Ok(file.to_owned()) } else { below(folder, file, "[array]").map(PathBuf::from) }
}

/// A text as it is, anything else as its compact JSON.
pub(super) fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        value => value.to_string(),
    }
}
