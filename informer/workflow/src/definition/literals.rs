//! Inputs that stand in the definition as they are: whatever would be refused at run time is refused here. What has an expression in it is
//! known at run time only.

use serde_json::Value;

use super::{DynamicFork, Kind, Task};

/// What is wrong, each with its path.
pub(super) fn faults(task: &Task, at: &str) -> Vec<(String, String)> {
    let mut found = Literals { at: format!("{at}.inputParameters"), faults: Vec::new() };
    let given = |key: &str| task.input.get(key).filter(|value| is_literal(value));
    match &task.kind {
        Kind::Http => match given("http_request") {
            Some(request) => found.request(request),
            None if given("uri").is_some() => found.uri("uri", given("uri")),
            None => {}
        },
        Kind::StartWorkflow => {
            if let Some(start) = given("startWorkflow") {
                found.start(start);
            }
        }
        Kind::Inline => found.text("expression", given("expression")),
        Kind::Lambda => found.text("scriptExpression", given("scriptExpression")),
        Kind::Jq => found.text("queryExpression", given("queryExpression")),
        Kind::DynamicFork(DynamicFork::Tasks { tasks, inputs }) => {
            found.json(tasks, given(tasks), "a list of tasks", Value::is_array);
            found.json(inputs, given(inputs), "an object of inputs by reference name", Value::is_object);
        }
        Kind::DynamicFork(DynamicFork::Same) => {
            found.json("forkTaskInputs", given("forkTaskInputs"), "a list of inputs", Value::is_array);
        }
        Kind::DoWhile(looped) => {
            let items = looped.items.as_ref().filter(|items| is_literal(items) && !items.is_array());
            if let Some(items) = items {
                found.faults.push((format!("{at}.items"), format!("{items} is no list; give a list or an expression")));
            }
            if let Some(keep) = given("keepLastN").filter(|keep| !keep.is_null() && keep.as_u64().is_none()) {
                found.fault("keepLastN", &format!("{keep} is no number of rounds; use 1 or more"));
            }
        }
        _ => {}
    }
    found.faults
}

/// Whether no expression is in it.
fn is_literal(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains("${"),
        Value::Array(items) => items.iter().all(is_literal),
        Value::Object(fields) => fields.values().all(is_literal),
        _ => true,
    }
}

struct Literals {
    at: String,
    faults: Vec<(String, String)>,
}

impl Literals {
    fn fault(&mut self, key: &str, message: &str) {
        self.faults.push((format!("{}.{key}", self.at), message.to_owned()));
    }

    fn text(&mut self, key: &str, value: Option<&Value>) {
        if let Some(value) = value.filter(|value| !value.is_string()) {
            self.fault(key, &format!("{value} is no text"));
        }
    }

    /// A value that may have come as text.
    fn json(&mut self, key: &str, value: Option<&Value>, what: &str, fits: fn(&Value) -> bool) {
        let Some(value) = value.filter(|value| !value.is_null()) else { return };
        let read = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if !fits(read.as_ref().unwrap_or(value)) {
            self.fault(key, &format!("is not {what}"));
        }
    }

    fn uri(&mut self, key: &str, value: Option<&Value>) {
        let known = |text: &str| ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        match value {
            Some(Value::String(text)) if known(text) => {}
            Some(found) => self.fault(key, &format!("{found} is no http(s)://HOST/PATH")),
            None => self.fault(key, "is missing; a request needs one"),
        }
    }

    fn request(&mut self, request: &Value) {
        let Value::Object(fields) = request else {
            return self.fault("http_request", &format!("{request} is no object; give at least its uri"));
        };
        self.uri("http_request.uri", fields.get("uri"));
        self.text("http_request.method", fields.get("method").filter(|method| !method.is_null()));
        if fields.get("headers").is_some_and(|headers| !headers.is_null() && !headers.is_object()) {
            self.fault("http_request.headers", "is no object");
        }
    }

    fn start(&mut self, start: &Value) {
        let Value::Object(fields) = start else {
            return self.fault("startWorkflow", &format!("{start} is no object; give the name of a workflow"));
        };
        match fields.get("name") {
            Some(Value::String(_)) => {}
            Some(found) => self.fault("startWorkflow.name", &format!("{found} is no text")),
            None if fields.contains_key("workflowDefinition") || fields.contains_key("workflowDef") => {}
            None => self.fault("startWorkflow.name", "is missing; name a workflow"),
        }
        let is_number =
            |value: &Value| value.is_u64() || value.as_str().is_some_and(|text| text.parse::<u32>().is_ok());
        if let Some(version) = fields.get("version").filter(|version| !version.is_null() && !is_number(version)) {
            self.fault("startWorkflow.version", &format!("{version} is no number"));
        }
        if fields.get("input").is_some_and(|input| !input.is_null() && !input.is_object()) {
            self.fault("startWorkflow.input", "is no object");
        }
    }
}
