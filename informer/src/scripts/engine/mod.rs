//! The two engines, each a plain function from a program and a JSON text to a JSON text.
//!
//! They run within whatever process calls them: the child of [`super::host`] in an informer, a test elsewhere. What an engine can
//! bound by itself it bounds here; what it cannot (jq has no hook while it computes one output) is the process's affair.

pub(crate) mod javascript;
pub(crate) mod jq;

use std::rc::Rc;

/// What an engine bounds by itself.
#[derive(Clone)]
pub(crate) struct Limits {
    /// The heap of a JavaScript program.
    pub(crate) memory_bytes: usize,
    /// The JSON text of a result.
    pub(crate) output_bytes: usize,
    /// Whether the time is over. Asked often, so it has to be cheap.
    pub(crate) is_over: Rc<dyn Fn() -> bool>,
}

/// Why a program gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Syntax { line: Option<u32>, message: String },
    /// What the program threw, or what is wrong with what it gave.
    #[error("{0}")]
    Thrown(String),
    #[error("the result is too large")]
    TooLarge,
    #[error("it took too long")]
    TooSlow,
    #[error("it took too much memory")]
    OutOfMemory,
}

/// The number of the line in which a byte stands, from 1.
fn line_at(source: &str, offset: usize) -> u32 {
    let before = source.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    u32::try_from(before).map_or(u32::MAX, |lines| lines.saturating_add(1))
}

/// A text cut to what is readable in a message.
fn short(text: &str) -> String {
    /// Characters that show where in a line a fault is.
    const SHOWN: usize = 24;
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(SHOWN).collect();
    if cut.len() < text.trim_end().len() { format!("{cut}…") } else { cut }
}
