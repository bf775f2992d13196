//! A path into JSON: the part of JsonPath that definitions use.

use serde_json::Value;

use super::{Error, MAX_EXPRESSION_BYTES};

/// A path whose first step names a task, or `workflow`.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// The first step.
    pub root: String,
    /// The steps after it.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Keys(Vec<String>),
    Indexes(Vec<i64>),
    Slice(Option<i64>, Option<i64>),
    All,
    /// Everything below, the value itself included; the next step picks.
    Deep,
    Length,
}

/// Values that a path with `*` or `..` may give. A deep search of a large output gives as many as it has parts.
const MAX_MATCHES: usize = 100_000;

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What it has that is not understood.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(Error::Length);
        }
        let trimmed = text.trim();
        let trimmed = trimmed.strip_prefix("$.").or(trimmed.strip_prefix('$')).unwrap_or(trimmed);
        let mut scanner = Scanner { whole: text, rest: trimmed };
        let mut steps = Vec::new();
        if !trimmed.starts_with(['[', '.']) {
            steps.push(scanner.key()?);
        }
        while !scanner.rest.is_empty() {
            scanner.step(&mut steps)?;
        }
        let root = match steps.first() {
            Some(Step::Keys(keys)) if keys.len() == 1 => keys[0].clone(),
            _ => return Err(scanner.error("it does not begin with a task's reference name or workflow")),
        };
        steps.remove(0);
        Ok(Self { root, steps })
    }

    /// The second step where it is a single key: `output` of `task.output.x`.
    pub fn field(&self) -> Option<&str> {
        self.key(0)
    }

    /// The third step where it is a single key.
    pub fn member(&self) -> Option<&str> {
        self.key(1)
    }

    fn key(&self, index: usize) -> Option<&str> {
        match self.steps.get(index)? {
            Step::Keys(keys) if keys.len() == 1 => Some(&keys[0]),
            _ => None,
        }
    }

    /// What the path gives below `value`, which stands where the first `skip` steps after the root lead. `None`: nothing.
    pub fn read(&self, value: &Value, skip: usize) -> Option<Value> {
        let steps = self.steps.get(skip..).unwrap_or_default();
        let (steps, length) = match steps.split_last() {
            Some((Step::Length, rest)) => (rest, true),
            _ => (steps, false),
        };
        let mut found = vec![value];
        let mut many = false;
        for step in steps {
            many |= !matches!(step, Step::Keys(keys) if keys.len() == 1)
                && !matches!(step, Step::Indexes(i) if i.len() == 1);
            let mut next = Vec::new();
            found.into_iter().for_each(|value| pick(step, value, &mut next));
            next.truncate(MAX_MATCHES);
            found = next;
        }
        let value =
            if many { Value::Array(found.into_iter().cloned().collect()) } else { found.first().copied()?.clone() };
        if !length {
            return Some(value);
        }
        match value {
            Value::Array(list) => Some(list.len().into()),
            Value::Object(map) => Some(map.len().into()),
            Value::String(text) => Some(text.chars().count().into()),
            _ => None,
        }
    }
}

fn pick<'v>(step: &Step, value: &'v Value, out: &mut Vec<&'v Value>) {
    match (step, value) {
        (Step::Keys(keys), Value::Object(map)) => out.extend(keys.iter().filter_map(|key| map.get(key))),
        (Step::Indexes(indexes), Value::Array(list)) => {
            out.extend(indexes.iter().filter_map(|index| list.get(place(*index, list.len())?)));
        }
        (Step::Slice(from, to), Value::Array(list)) => {
            let end = |index: i64| place(index, list.len()).unwrap_or(if index < 0 { 0 } else { list.len() });
            let (from, to) = (from.map_or(0, end), to.map_or(list.len(), end));
            out.extend(list.get(from..to.max(from)).unwrap_or_default());
        }
        (Step::All, Value::Object(map)) => out.extend(map.values()),
        (Step::All, Value::Array(list)) => out.extend(list),
        (Step::Deep, value) => deep(value, out),
        _ => {}
    }
}

fn deep<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        if out.len() >= MAX_MATCHES {
            return;
        }
        out.push(value);
        match value {
            Value::Object(map) => open.extend(map.values().rev()),
            Value::Array(list) => open.extend(list.iter().rev()),
            _ => {}
        }
    }
}

/// The place of an index, which may count from the end.
fn place(index: i64, len: usize) -> Option<usize> {
    let place = if index < 0 {
        usize::try_from(index + i64::try_from(len).ok()?).ok()?
    } else {
        usize::try_from(index).ok()?
    };
    (place < len).then_some(place)
}

struct Scanner<'t> {
    whole: &'t str,
    rest: &'t str,
}

impl Scanner<'_> {
    fn error(&self, what: &'static str) -> Error {
        Error::Unsupported { expression: self.whole.chars().take(200).collect(), what }
    }

    fn step(&mut self, steps: &mut Vec<Step>) -> Result<(), Error> {
        if let Some(rest) = self.rest.strip_prefix("..") {
            self.rest = rest;
            steps.push(Step::Deep);
            if !rest.starts_with('[') {
                steps.push(self.key()?);
            }
            return Ok(());
        }
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            let step = self.key()?;
            if step == Step::Length && !self.rest.is_empty() {
                return Err(self.error("nothing may follow length()"));
            }
            steps.push(step);
            return Ok(());
        }
        if let Some(rest) = self.rest.strip_prefix('[') {
            self.rest = rest;
            steps.push(self.bracket()?);
            return Ok(());
        }
        Err(self.error("it does not go on with . or ["))
    }

    /// A key up to the next `.` or `[`, `*`, or `length()`.
    fn key(&mut self) -> Result<Step, Error> {
        let end = self.rest.find(['.', '[']).unwrap_or(self.rest.len());
        let (key, rest) = self.rest.split_at(end);
        self.rest = rest;
        match key.trim() {
            "" => Err(self.error("a key is empty")),
            "*" => Ok(Step::All),
            "length()" => Ok(Step::Length),
            key if key.ends_with(')') => Err(self.error("it calls a function that is not length()")),
            key => Ok(Step::Keys(vec![key.to_owned()])),
        }
    }

    fn bracket(&mut self) -> Result<Step, Error> {
        let inside = self.rest.trim_start();
        if inside.starts_with(['\'', '"']) {
            return self.quoted();
        }
        let Some((inside, rest)) = self.rest.split_once(']') else { return Err(self.error("a [ is not closed")) };
        self.rest = rest;
        let inside = inside.trim();
        if inside == "*" {
            return Ok(Step::All);
        }
        if inside.starts_with(['?', '(', '@']) {
            return Err(self.error("it has a filter"));
        }
        if let Some((from, to)) = inside.split_once(':') {
            let end = |text: &str| if text.trim().is_empty() { Ok(None) } else { text.trim().parse().map(Some) };
            return match (end(from), end(to)) {
                (Ok(from), Ok(to)) => Ok(Step::Slice(from, to)),
                _ => Err(self.error("a slice is not [from:to]")),
            };
        }
        let indexes: Result<Vec<i64>, _> = inside.split(',').map(|index| index.trim().parse()).collect();
        indexes.map(Step::Indexes).map_err(|_| self.error("an index is not a number; quote keys: ['key']"))
    }

    fn quoted(&mut self) -> Result<Step, Error> {
        let mut keys = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            let quote = match self.rest.chars().next() {
                Some(quote @ ('\'' | '"')) => quote,
                _ => return Err(self.error("a key in [] is not quoted")),
            };
            let Some((key, rest)) = self.rest[1..].split_once(quote) else {
                return Err(self.error("a quote is not closed"));
            };
            keys.push(key.to_owned());
            let rest = rest.trim_start();
            match rest.split_at_checked(1) {
                Some((",", rest)) => self.rest = rest,
                Some(("]", rest)) => {
                    self.rest = rest;
                    return Ok(Step::Keys(keys));
                }
                _ => return Err(self.error("a [ is not closed")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(path: &str, value: &Value) -> Option<Value> {
        Path::parse(path).unwrap().read(value, 0)
    }

    #[test]
    fn steps_lead_where_json_path_leads() {
        let value = json!({"a": [{"b": 1, "c.d": "x"}, {"b": 2}], "b": {"b": 3}, "s": "four"});
        assert_eq!(read("t.a[0].b", &value), Some(json!(1)));
        assert_eq!(read("t.a[-1].b", &value), Some(json!(2)));
        assert_eq!(read("t.a[0]['c.d']", &value), Some(json!("x")));
        assert_eq!(read("t.a[*].b", &value), Some(json!([1, 2])));
        assert_eq!(read("t.a[0:1]", &value), Some(json!([{"b": 1, "c.d": "x"}])));
        assert_eq!(read("t..b", &value), Some(json!([{"b": 3}, 1, 2, 3])));
        assert_eq!(read("t.a.length()", &value), Some(json!(2)));
        assert_eq!(read("t.s.length()", &value), Some(json!(4)));
        assert_eq!(read("t.a[7].b", &value), None);
        assert_eq!(read("t.nothing..b", &value), Some(json!([])));
        assert_eq!(read("$.t.s", &value), Some(json!("four")));
        assert_eq!(Path::parse("['a task'].output.x").unwrap().root, "a task");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for bad in ["t.a[?(@.b > 1)]", "t.a.min()", "t.a[", "t.a['x]", "t.a[x]", "", "t..", "t.length().x", "[0].a"] {
            assert!(matches!(Path::parse(bad), Err(Error::Unsupported { .. })), "{bad}");
        }
    }
}
