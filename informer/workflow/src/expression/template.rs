//! A template: JSON whose strings may hold expressions.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Error, MAX_EXPRESSION_BYTES, MAX_NESTING, Path, is_system};

/// JSON with expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    /// Nothing to resolve.
    Literal(Value),
    /// A string with expressions.
    Text(Vec<Piece>),
    /// A list with expressions somewhere.
    List(Vec<Template>),
    /// An object with expressions somewhere.
    Map(Vec<(String, Template)>),
}

/// A part of a string.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Stands for itself.
    Text(String),
    /// A path to read.
    Path(Path),
    /// One of Conductor's system parameters.
    System(String),
    /// A path that holds expressions itself.
    Nested(Vec<Piece>),
}

/// What must be at hand to resolve a template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The first steps of its paths: reference names, and `workflow`.
    pub roots: BTreeSet<String>,
    /// Loops of which every round is needed, not only how many there were.
    pub whole: BTreeSet<String>,
    /// Whether any task may be needed: a nested expression names it.
    pub any: bool,
}

/// Lists and objects within each other.
const MAX_DEPTH: usize = 64;

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// An expression that is not understood, or beyond a bound.
    pub fn parse(value: &Value) -> Result<Self, Error> {
        parse(value, MAX_DEPTH)
    }

    /// The first steps of its paths that are known without resolving it.
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        let mut roots = Vec::new();
        self.visit(&mut |piece| match piece {
            Piece::Path(path) => roots.push(path.root.as_str()),
            Piece::System(name) => roots.push(name.as_str()),
            _ => {}
        });
        roots.into_iter()
    }

    /// Adds what it needs.
    pub fn needs(&self, needs: &mut Needs) {
        self.visit(&mut |piece| match piece {
            Piece::Path(path) => {
                needs.roots.insert(path.root.clone());
                if path.field() != Some("output")
                    || !matches!(path.member(), Some("iteration" | "loopIndex" | "loopItem"))
                {
                    needs.whole.insert(path.root.clone());
                }
            }
            Piece::Nested(_) => needs.any = true,
            _ => {}
        });
    }

    /// Whether it has no expressions.
    pub fn is_literal(&self) -> bool {
        matches!(self, Template::Literal(_))
    }

    fn visit<'t>(&'t self, see: &mut dyn FnMut(&'t Piece)) {
        match self {
            Template::Literal(_) => {}
            Template::Text(pieces) => visit(pieces, see),
            Template::List(list) => list.iter().for_each(|template| template.visit(see)),
            Template::Map(map) => map.iter().for_each(|(_, template)| template.visit(see)),
        }
    }
}

fn visit<'t>(pieces: &'t [Piece], see: &mut dyn FnMut(&'t Piece)) {
    for piece in pieces {
        see(piece);
        if let Piece::Nested(inner) = piece {
            visit(inner, see);
        }
    }
}

fn parse(value: &Value, depth: usize) -> Result<Template, Error> {
    let inner = depth.checked_sub(1).ok_or(Error::Depth)?;
    Ok(match value {
        Value::String(text) if text.contains("${") => {
            let pieces = pieces(text, MAX_NESTING)?;
            match pieces.as_slice() {
                [Piece::Text(only)] => Template::Literal(Value::String(only.clone())),
                _ => Template::Text(pieces),
            }
        }
        Value::Array(list) => {
            let list: Vec<_> = list.iter().map(|value| parse(value, inner)).collect::<Result<_, _>>()?;
            if list.iter().all(Template::is_literal) { Template::Literal(value.clone()) } else { Template::List(list) }
        }
        Value::Object(map) => {
            let map: Vec<_> =
                map.iter().map(|(key, value)| Ok((key.clone(), parse(value, inner)?))).collect::<Result<_, _>>()?;
            if map.iter().all(|(_, value)| value.is_literal()) {
                Template::Literal(value.clone())
            } else {
                Template::Map(map)
            }
        }
        other => Template::Literal(other.clone()),
    })
}

/// Cuts a string at its expressions. `${` without its `}` is text.
fn pieces(text: &str, nesting: usize) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            plain.push_str(&rest[..at - 1]);
            plain.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        let Some(len) = closing(&rest[at + 2..]) else { break };
        plain.push_str(&rest[..at]);
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(expression(&rest[at + 2..at + 2 + len], nesting)?);
        rest = &rest[at + 3 + len..];
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Where the `}` of an expression is.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' if text[..at].ends_with('$') => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn expression(text: &str, nesting: usize) -> Result<Piece, Error> {
    if text.len() > MAX_EXPRESSION_BYTES {
        return Err(Error::Length);
    }
    if text.contains("${") {
        return Ok(Piece::Nested(pieces(text, nesting.checked_sub(1).ok_or(Error::Nesting)?)?));
    }
    if is_system(text.trim()) {
        return Ok(Piece::System(text.trim().to_owned()));
    }
    Ok(Piece::Path(Path::parse(text)?))
}
