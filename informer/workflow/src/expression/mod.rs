//! `${…}`: what stands in a template, and what it becomes.
//!
//! | written | becomes |
//! |---|---|
//! | `"${task.output.list[0].id}"` | the value, with its type; null when it is not there |
//! | `"id ${task.output.id}!"` | text; what is missing becomes `null` |
//! | `"${task.output['a.b']}"`, `[*]`, `[1:3]`, `..key`, `.length()` | as in JsonPath |
//! | `"${task.output.${workflow.input.key}}"` | the inner one first |
//! | `"$${kept}"` | the text `${kept}` |
//! | `"${CPEWF_TASK_ID}"` | the id of the task whose input this is |
//!
//! Filters (`[?(…)]`) and functions other than `length()` are refused when a definition is read.

mod path;
mod resolve;
mod template;

pub use path::Path;
pub use resolve::{Context, weigh};
pub use template::{Needs, Template};

/// Levels of `${…${…}…}`. Each is a resolution of its own; nobody can read more.
pub const MAX_NESTING: usize = 4;

/// Bytes of one expression.
pub const MAX_EXPRESSION_BYTES: usize = 1_024;

/// Bytes that the expressions of one template may bring in together. An input is stored and sent whole; a template that
/// names one large output a thousand times would otherwise take a thousand times its memory.
pub const MAX_RESOLVED_BYTES: usize = 32 << 20;

/// Why a template is refused, or cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The path is none that is understood here.
    #[error("${{{expression}}}: {what}; supported are keys, ['keys'], [indexes], [from:to], *, .. and length()")]
    Unsupported {
        /// The expression.
        expression: String,
        /// What it has.
        what: &'static str,
    },
    /// Too many levels.
    #[error("expressions are nested more than {MAX_NESTING} deep")]
    Nesting,
    /// Too long.
    #[error("an expression is longer than {MAX_EXPRESSION_BYTES} bytes")]
    Length,
    /// Templates within templates.
    #[error("the template is nested too deep")]
    Depth,
    /// Too much.
    #[error("the expressions bring in more than {MAX_RESOLVED_BYTES} bytes")]
    Size,
    /// What an expression names could not be read.
    #[error("{0}")]
    Read(String),
}

/// Whether `name` is one of Conductor's system parameters.
pub fn is_system(name: &str) -> bool {
    matches!(name, "CPEWF_TASK_ID" | "NETFLIX_ENV" | "NETFLIX_STACK")
}

/// `ref__2` is iteration 2 of `ref`; the inner of two loops gives `ref__2__1`.
pub fn base(reference: &str) -> Option<(&str, Vec<u32>)> {
    let mut rest = reference;
    let mut iterations = Vec::new();
    while let Some((front, number)) = rest.rsplit_once("__")
        && !front.is_empty()
        && let Ok(iteration) = number.parse()
    {
        iterations.insert(0, iteration);
        rest = front;
    }
    (!iterations.is_empty()).then_some((rest, iterations))
}
