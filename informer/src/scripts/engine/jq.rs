//! jq programs. Every output is one element of the resulting JSON array; `halt` ends the outputs, and nothing else.
//!
//! No module can be loaded, and there is no further input. Numbers that are whole are written as integers, as Conductor's jq does.

use jaq_core::load::lex::Expect;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, compile, data};
use jaq_json::{Num, Val, read};

use super::{Fault, Limits, line_at, short};

type Filter = jaq_core::compile::Filter<jaq_core::Native<data::JustLut<Val>>>;

/// Whole numbers beyond it are not exact as a float, so they stay one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The outputs of a program, as a JSON array.
pub(crate) fn run(source: &str, input: &str, limits: &Limits) -> Result<String, Fault> {
    let filter = compiled(source)?;
    let input = read::parse_single(input.as_bytes()).map_err(|error| Fault::Thrown(format!("the input: {error}")))?;
    let ctx = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    let mut text = String::from("[");
    for result in filter.id.run((ctx, input)) {
        let value = match result.map_err(jaq_core::Exn::get_err) {
            Ok(value) => value,
            Err(Ok(error)) => return Err(Fault::Thrown(error_text(error))),
            // `halt` is meant for the program that runs jq; here it says that there is no more.
            Err(Err(_halt)) => break,
        };
        if (limits.is_over)() {
            return Err(Fault::TooSlow);
        }
        if text.len() > 1 {
            text.push(',');
        }
        write_value(&value, &mut text, limits.output_bytes)?;
    }
    text.push(']');
    Ok(text)
}

/// Whether a program can be read, and calls nothing that is not there.
pub(crate) fn check(source: &str) -> Result<(), Fault> {
    compiled(source).map(drop)
}

fn compiled(source: &str) -> Result<Filter, Fault> {
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(defs).load(&arena, File { code: source, path: () });
    let modules = modules.map_err(|errors| unreadable(source, errors))?;
    // Nothing would give the variable of an import of data its value.
    let imported = load::import(&modules, |_| Err("no file can be loaded".to_owned()));
    imported.map_err(|errors| unreadable(source, errors))?;
    let filter = Compiler::default().with_funs(funs).compile(modules);
    filter.map_err(|errors| {
        let found = first(errors).and_then(|errors| errors.into_iter().next());
        found.map_or_else(unknown, |(name, undefined)| {
            let what = match undefined {
                compile::Undefined::Filter(arity) => format!("filter {name}/{arity} is not defined"),
                other => format!("{} {name} is not defined", other.as_str()),
            };
            fault(source, name, what)
        })
    })
}

/// The first thing that is wrong with a program's text.
fn unreadable(source: &str, errors: load::Errors<&str, ()>) -> Fault {
    let found = |at: &str| if at.is_empty() { "the end".to_owned() } else { format!("{:?}", short(at)) };
    let told = match first(errors) {
        Some(load::Error::Io(mut errors)) => errors.pop(),
        Some(load::Error::Lex(errors)) => errors.into_iter().next().map(|(expected, at)| match expected {
            Expect::Delim(open) => (at, format!("{open} is not closed")),
            expected => (at, format!("{} expected, found {}", expected.as_str(), found(at))),
        }),
        Some(load::Error::Parse(errors)) => {
            let error = errors.into_iter().next();
            error.map(|(expected, at)| (at, format!("{} expected, found {}", expected.as_str(), found(at))))
        }
        None => None,
    };
    told.map_or_else(unknown, |(at, message)| fault(source, at, message))
}

fn first<P, E>(errors: Vec<(File<&str, P>, E)>) -> Option<E> {
    errors.into_iter().next().map(|(_, error)| error)
}

fn unknown() -> Fault {
    Fault::Syntax { line: None, message: "this is no jq program".to_owned() }
}

/// A fault at `at`, a part of the source. What is at the end of a program has its last line.
fn fault(source: &str, at: &str, message: String) -> Fault {
    let offset = (at.as_ptr() as usize).checked_sub(source.as_ptr() as usize).filter(|offset| *offset <= source.len());
    let offset = if at.is_empty() { Some(source.trim_end().len()) } else { offset };
    Fault::Syntax { line: offset.map(|offset| line_at(source, offset)), message }
}

fn error_text(error: jaq_json::Error) -> String {
    match error.into_val() {
        Val::TStr(text) => String::from_utf8_lossy(&text).into_owned(),
        other => other.to_string(),
    }
}

/// Appends a value as JSON. Strings need not be UTF-8 in jq; what is none becomes the replacement character, as jq prints it.
fn write_value(value: &Val, out: &mut String, limit: usize) -> Result<(), Fault> {
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Val::Num(number) => write_number(number, out),
        Val::BStr(text) | Val::TStr(text) => write_text(text, out),
        Val::Arr(list) => {
            out.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(value, out, limit)?;
            }
            out.push(']');
        }
        Val::Obj(map) => {
            out.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                let Val::TStr(key) = key else {
                    return Err(Fault::Thrown(format!("the key {key} of an object is no text")));
                };
                write_text(key, out);
                out.push(':');
                write_value(value, out, limit)?;
            }
            out.push('}');
        }
    }
    if out.len() > limit { Err(Fault::TooLarge) } else { Ok(()) }
}

fn write_text(text: &[u8], out: &mut String) {
    out.push_str(&serde_json::Value::from(String::from_utf8_lossy(text)).to_string());
}

fn write_number(number: &Num, out: &mut String) {
    let float = match number {
        Num::Int(int) => return out.push_str(&int.to_string()),
        Num::BigInt(int) => return out.push_str(&int.to_string()),
        // What was only passed on stays as it was written.
        Num::Dec(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => return out.push_str(text),
        Num::Dec(text) => text.parse().unwrap_or(f64::NAN),
        Num::Float(float) => *float,
    };
    if float.fract() == 0.0 && float.abs() < EXACT {
        out.push_str(&format!("{float:.0}"));
    } else {
        // The nearest that JSON can say, as jq does; it has no word for what is no number.
        out.push_str(&serde_json::Value::from(float.clamp(f64::MIN, f64::MAX)).to_string());
    }
}
