//! Real engines for scripts: the ones an informer would use in its child process.

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read};
use serde_json::Value;
use workflow::evaluate::Scripts;

/// QuickJS and jaq.
#[derive(Default)]
pub(crate) struct Engines;

impl Scripts for Engines {
    fn javascript(&self, script: &str, input: &Value) -> Result<Value, String> {
        let runtime = rquickjs::Runtime::new().map_err(|error| error.to_string())?;
        let context = rquickjs::Context::full(&runtime).map_err(|error| error.to_string())?;
        context.with(|ctx| {
            let run = || -> rquickjs::Result<Option<String>> {
                let input = ctx.json_parse(input.to_string())?;
                ctx.globals().set("$", input)?;
                let value: rquickjs::Value = ctx.eval(script)?;
                ctx.json_stringify(value)?.map(|text| text.to_string()).transpose()
            };
            match run() {
                Ok(text) => {
                    text.map_or(Ok(Value::Null), |text| serde_json::from_str(&text).map_err(|error| error.to_string()))
                }
                Err(error) => Err(match ctx.catch().into_exception() {
                    Some(thrown) => thrown.to_string(),
                    None => error.to_string(),
                }),
            }
        })
    }

    fn jq(&self, program: &str, input: &Value) -> Result<Vec<Value>, String> {
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let modules = Loader::new(defs).load(&arena, File { code: program, path: () });
        let modules = modules.map_err(|_| format!("{program:?} is no jq program"))?;
        let filter = Compiler::default().with_funs(funs).compile(modules);
        let filter = filter.map_err(|_| format!("{program:?} calls what jq does not have"))?;
        let text = input.to_string();
        let input = read::parse_single(text.as_bytes()).map_err(|_| "the input is no JSON".to_owned())?;
        let ctx = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
        let mut results = Vec::new();
        for result in filter.id.run((ctx, input)).map(unwrap_valr) {
            let value = result.map_err(|error| error.to_string())?;
            results.push(serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())?);
        }
        Ok(results)
    }
}
