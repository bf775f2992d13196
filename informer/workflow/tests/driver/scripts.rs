//! The engines of an informer's child process, in this one.

#[path = "../../../src/scripts/engine/mod.rs"]
mod engine;

use std::rc::Rc;

use serde_json::Value;
use workflow::evaluate::Scripts;

/// QuickJS and jaq.
#[derive(Default)]
pub(crate) struct Engines;

fn limits() -> engine::Limits {
    engine::Limits { memory_bytes: 256 << 20, output_bytes: 10 << 20, is_over: Rc::new(|| false) }
}

fn json<T: serde::de::DeserializeOwned>(text: Result<String, engine::Fault>) -> Result<T, String> {
    let text = text.map_err(|fault| fault.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

impl Scripts for Engines {
    fn javascript(&self, script: &str, input: &Value) -> Result<Value, String> {
        json(engine::javascript::run(script, &input.to_string(), &limits()))
    }

    fn jq(&self, program: &str, input: &Value) -> Result<Vec<Value>, String> {
        json(engine::jq::run(program, &input.to_string(), &limits()))
    }
}
