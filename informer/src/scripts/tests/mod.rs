//! The engines without a host. They stand apart from the engines, whose files are also part of the tests of workflows.

mod javascript;
mod jq;

use std::rc::Rc;

use super::engine::Limits;

fn limits() -> Limits {
    Limits { memory_bytes: 32 << 20, output_bytes: 1 << 20, is_over: Rc::new(|| false) }
}
