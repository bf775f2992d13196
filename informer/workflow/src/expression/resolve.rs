//! Templates become values.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::template::Piece;
use super::{Error, MAX_RESOLVED_BYTES, Path, Template};

/// What expressions are read from.
pub trait Context {
    /// `field` of `root` (`output` of a task, `input` of `workflow`), or all of it. `None`: there is no such thing.
    ///
    /// # Errors
    /// It is there but cannot be read.
    fn read(&self, root: &str, field: Option<&str>) -> Result<Option<Rc<Value>>, String>;

    /// The value of a system parameter.
    fn system(&self, name: &str) -> Option<String>;
}

impl Template {
    /// The value of the template.
    ///
    /// # Errors
    /// Something named cannot be read, or is too large, or an expression made at run time is not understood.
    pub fn resolve(&self, context: &dyn Context) -> Result<Value, Error> {
        let mut left = MAX_RESOLVED_BYTES;
        resolve(self, context, &mut left)
    }
}

fn resolve(template: &Template, context: &dyn Context, left: &mut usize) -> Result<Value, Error> {
    Ok(match template {
        Template::Literal(value) => value.clone(),
        Template::List(list) => list.iter().map(|inner| resolve(inner, context, left)).collect::<Result<_, _>>()?,
        Template::Map(map) => {
            let mut resolved = Map::new();
            for (key, inner) in map {
                resolved.insert(key.clone(), resolve(inner, context, left)?);
            }
            Value::Object(resolved)
        }
        Template::Text(pieces) => match pieces.as_slice() {
            [only] => piece(only, context, left)?,
            pieces => Value::String(text(pieces, context, left)?),
        },
    })
}

fn text(pieces: &[Piece], context: &dyn Context, left: &mut usize) -> Result<String, Error> {
    let mut whole = String::new();
    for part in pieces {
        match piece(part, context, left)? {
            Value::String(text) => whole.push_str(&text),
            other => whole.push_str(&other.to_string()),
        }
    }
    Ok(whole)
}

fn piece(piece: &Piece, context: &dyn Context, left: &mut usize) -> Result<Value, Error> {
    let value = match piece {
        Piece::Text(text) => return Ok(Value::String(text.clone())),
        Piece::System(name) => context.system(name).map_or(Value::Null, Value::String),
        Piece::Path(path) => read(path, context)?,
        Piece::Nested(pieces) => read(&Path::parse(&text(pieces, context, left)?)?, context)?,
    };
    *left = left.checked_sub(weigh(&value)).ok_or(Error::Size)?;
    Ok(value)
}

fn read(path: &Path, context: &dyn Context) -> Result<Value, Error> {
    let skip = usize::from(path.field().is_some());
    let value = context.read(&path.root, path.field()).map_err(Error::Read)?;
    Ok(value.and_then(|value| path.read(&value, skip)).unwrap_or(Value::Null))
}

/// About how many bytes a value takes as JSON.
pub fn weigh(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => 2 + list.iter().map(|value| 1 + weigh(value)).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 4 + weigh(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::{MAX_NESTING, base};
    use serde_json::json;

    struct Fixed(Value);

    impl Context for Fixed {
        fn read(&self, root: &str, field: Option<&str>) -> Result<Option<Rc<Value>>, String> {
            let root = self.0.get(root);
            Ok(field.map_or(root, |field| root?.get(field)).map(|value| Rc::new(value.clone())))
        }
        fn system(&self, name: &str) -> Option<String> {
            (name == "CPEWF_TASK_ID").then(|| "run.7".to_owned())
        }
    }

    fn resolved(template: Value) -> Value {
        let context = Fixed(json!({
            "workflow": {"input": {"n": 3, "key": "list", "task": "t", "s": "text"}},
            "t": {"output": {"list": [1, {"a": true}], "none": null}, "status": "COMPLETED"},
        }));
        Template::parse(&template).unwrap().resolve(&context).unwrap()
    }

    #[test]
    fn a_whole_string_keeps_its_type_and_an_embedded_one_becomes_text() {
        assert_eq!(resolved(json!("${workflow.input.n}")), json!(3));
        assert_eq!(resolved(json!("${t.output.list}")), json!([1, {"a": true}]));
        assert_eq!(resolved(json!("n=${workflow.input.n} ${t.output.list[1]}.")), json!("n=3 {\"a\":true}."));
        assert_eq!(resolved(json!("${workflow.input.s}${t.status}")), json!("textCOMPLETED"));
        assert_eq!(resolved(json!({"a": ["${t.status}", 1], "b": null})), json!({"a": ["COMPLETED", 1], "b": null}));
        assert_eq!(resolved(json!("${CPEWF_TASK_ID}")), json!("run.7"));
    }

    #[test]
    fn what_is_missing_is_null_and_in_text_the_word() {
        assert_eq!(resolved(json!("${nobody.output.x}")), json!(null));
        assert_eq!(resolved(json!("${t.output.x.y}")), json!(null));
        assert_eq!(resolved(json!("${t.output.none}")), json!(null));
        assert_eq!(resolved(json!("<${t.output.x}>")), json!("<null>"));
    }

    #[test]
    fn the_inner_expression_comes_first() {
        assert_eq!(resolved(json!("${t.output.${workflow.input.key}[0]}")), json!(1));
        assert_eq!(resolved(json!("${${workflow.input.task}.status}")), json!("COMPLETED"));
        let deep = format!("{}x{}", "${t.".repeat(MAX_NESTING + 2), "}".repeat(MAX_NESTING + 2));
        assert_eq!(Template::parse(&json!(deep)), Err(Error::Nesting));
    }

    #[test]
    fn an_escape_is_text_and_so_is_an_open_end() {
        assert_eq!(resolved(json!("$${t.status}")), json!("${t.status}"));
        assert_eq!(resolved(json!("$${a} ${t.status}")), json!("${a} COMPLETED"));
        assert_eq!(resolved(json!("${t.status")), json!("${t.status"));
        assert_eq!(resolved(json!("costs $5 {x}")), json!("costs $5 {x}"));
    }

    #[test]
    fn references_carry_their_iterations() {
        assert_eq!(base("task__2"), Some(("task", vec![2])));
        assert_eq!(base("task__2__10"), Some(("task", vec![2, 10])));
        assert_eq!(base("task"), None);
        assert_eq!(base("a__b"), None);
        assert_eq!(base("__3"), None);
    }
}
