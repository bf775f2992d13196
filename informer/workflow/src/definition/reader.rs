//! Reads fields out of JSON as leniently as Conductor's own mapper does, and collects what is wrong.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds::{MAX_FAULTS, MAX_NAME_BYTES};
use super::{Accepted, Refused};

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Where: `$.tasks[2].loopOver[0].type`.
    pub path: String,
    /// What is wrong, and what to use instead.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Something in a definition that has no effect.
pub type Note = Fault;

/// Looks at how a task is run, which is nothing that workflows know: the value of a task definition's `task`. Its message tells
/// the field and what is wrong with it.
pub type TaskCheck = fn(&Map<String, Value>) -> Result<(), String>;

/// The reader: the fields of objects, and what was wrong so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    faults: Vec<Fault>,
    notes: Vec<Note>,
    task_check: Option<TaskCheck>,
}

impl Reader {
    pub(super) fn checking(check: TaskCheck) -> Self {
        Self { task_check: Some(check), ..Self::default() }
    }

    /// The object under `key` that says how a task is run.
    pub(super) fn task(&mut self, from: &Map<String, Value>, path: &str, key: &str) -> Option<Map<String, Value>> {
        let at = format!("{path}.{key}");
        let task = match present(from, key)? {
            Value::Object(task) => task,
            other => {
                self.fault(at, format!("expected an object, found {}", kind(other)));
                return None;
            }
        };
        if let Some(Err(message)) = self.task_check.map(|check| check(task)) {
            self.fault(at, message);
        }
        Some(task.clone())
    }

    pub(super) fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault { path: path.into(), message: message.into() });
        }
    }

    pub(super) fn note(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.notes.len() < MAX_FAULTS {
            self.notes.push(Note { path: path.into(), message: message.into() });
        }
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<Accepted<T>, Refused> {
        match value {
            Some(value) if self.faults.is_empty() => Ok(Accepted { value, notes: self.notes }),
            _ => Err(Refused { faults: self.faults }),
        }
    }

    pub(super) fn object<'a>(&mut self, value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.fault(path, format!("expected an object, found {}", kind(value)));
        }
        object
    }

    /// The object under `key`, empty when absent.
    pub(super) fn map(&mut self, from: &Map<String, Value>, path: &str, key: &str) -> Map<String, Value> {
        match present(from, key) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => {
                self.fault(format!("{path}.{key}"), format!("expected an object, found {}", kind(other)));
                Map::new()
            }
        }
    }

    /// The list under `key`, empty when absent.
    pub(super) fn list<'a>(&mut self, from: &'a Map<String, Value>, path: &str, key: &str) -> &'a [Value] {
        match present(from, key) {
            None => &[],
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.fault(format!("{path}.{key}"), format!("expected a list, found {}", kind(other)));
                &[]
            }
        }
    }

    pub(super) fn strings(&mut self, from: &Map<String, Value>, path: &str, key: &str) -> Vec<String> {
        let mut strings = Vec::new();
        for (index, value) in self.list(from, path, key).iter().enumerate() {
            match value {
                Value::String(text) => strings.push(text.clone()),
                other => self.fault(
                    format!("{path}.{key}[{index}]"),
                    format!("expected a reference name, found {}", kind(other)),
                ),
            }
        }
        strings
    }

    /// The text under `key`; numbers and booleans are taken as text, as Conductor does.
    pub(super) fn text(&mut self, from: &Map<String, Value>, path: &str, key: &str) -> Option<String> {
        match present(from, key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            other => {
                self.fault(format!("{path}.{key}"), format!("expected a string, found {}", kind(other)));
                None
            }
        }
    }

    /// A name that must be there.
    pub(super) fn name(&mut self, from: &Map<String, Value>, path: &str, key: &str) -> Option<String> {
        let name = self.text(from, path, key);
        let at = format!("{path}.{key}");
        match name {
            None if present(from, key).is_none() => self.fault(at, "is missing"),
            Some(name) if name.trim().is_empty() => self.fault(at, "is empty"),
            Some(name) if name.len() > MAX_NAME_BYTES => {
                self.fault(at, format!("has {} bytes, at most {MAX_NAME_BYTES} are allowed", name.len()));
            }
            name => return name,
        }
        None
    }

    pub(super) fn flag(&mut self, from: &Map<String, Value>, path: &str, key: &str, default: bool) -> bool {
        match present(from, key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
            Some(other) => {
                self.fault(format!("{path}.{key}"), format!("expected true or false, found {}", kind(other)));
                default
            }
        }
    }

    /// The number under `key`, checked against `max`.
    pub(super) fn number(&mut self, from: &Map<String, Value>, path: &str, key: &str, max: u64) -> Option<u64> {
        let value = present(from, key)?;
        let number = match value {
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number <= max => return Some(number),
            Some(number) => self.fault(format!("{path}.{key}"), format!("{number} is more than {max}")),
            None => self.fault(
                format!("{path}.{key}"),
                format!("expected a whole number that is not negative, found {}", brief(value)),
            ),
        }
        None
    }

    /// Tells keys that are known and say something, but change nothing here.
    pub(super) fn without_effect(&mut self, from: &Map<String, Value>, path: &str, keys: &[&str]) {
        for key in keys {
            let says = match present(from, key) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::String(text)) => !text.is_empty(),
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                Some(_) => true,
            };
            if says {
                self.note(format!("{path}.{key}"), "has no effect here");
            }
        }
    }

    /// Tells keys that nobody reads; Conductor ignores them too.
    pub(super) fn known(&mut self, from: &Map<String, Value>, path: &str, keys: &[&str]) {
        for key in from.keys().filter(|key| !keys.contains(&key.as_str())) {
            self.note(format!("{path}.{key}"), "is not known and has no effect");
        }
    }
}

/// The value under `key`, unless absent or null.
pub(super) fn present<'a>(from: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    from.get(key).filter(|value| !value.is_null())
}

fn whole(number: f64) -> Option<u64> {
    (number >= 0.0 && number.fract() == 0.0 && number < 1e15).then_some(number as u64)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn brief(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        other => kind(other).to_owned(),
    }
}
