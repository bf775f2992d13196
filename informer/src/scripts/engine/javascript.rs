//! JavaScript as Conductor's definitions use it: sloppy mode, `$` is the input, the last expression's value is the result.
//!
//! ```text
//!  input (JSON text) ─ JSON.parse ─▶ $ ─ script ─▶ value ─ JSON.stringify ─▶ text      undefined, functions, NaN ─▶ null
//!                                                                                      Date ─▶ its ISO text, 1.0 ─▶ 1
//! ```
//!
//! Each program has a runtime of its own, so nothing that one does to a prototype or a global is seen by the next.

use std::cell::Cell;
use std::rc::Rc;

use rquickjs::context::EvalOptions;
use rquickjs::{Context, Ctx, Error, Runtime, Value};

use super::{Fault, Limits};

/// How deep calls may nest, in bytes of stack: about what Java's engines allow. More would need threads of more than 2 MiB
/// wherever this runs.
const STACK_BYTES: usize = 1 << 20;

/// The name of a program in the traces of its errors.
const NAME: &str = "script";

/// What Java's engines have beside the language. A run has nowhere to show what a condition prints.
const PRELUDE: &str = "globalThis.print = () => {}; globalThis.console = Object.fromEntries(\
    ['log', 'info', 'debug', 'warn', 'error', 'trace'].map(name => [name, globalThis.print]));";

/// Comes before a program that is only read. Nothing of it runs, since a program is compiled whole before it begins.
const STOP: &str = "throw 0;";

/// The JSON text of what a program gives.
pub(crate) fn run(source: &str, input: &str, limits: &Limits) -> Result<String, Fault> {
    let text = within(limits, source, |ctx| {
        let input = ctx.json_parse(input)?;
        ctx.globals().set("$", input)?;
        evaluate(ctx, PRELUDE)?;
        let value = evaluate(ctx, source)?;
        ctx.json_stringify(value)?.map(|text| text.to_string()).transpose()
    })?;
    let text = text.unwrap_or_else(|| "null".to_owned());
    if text.len() > limits.output_bytes {
        return Err(Fault::TooLarge);
    }
    Ok(whole_characters(text))
}

/// Whether a program can be read. Faults that only strict mode knows are not found.
pub(crate) fn check(source: &str, limits: &Limits) -> Result<(), Fault> {
    match within(limits, source, |ctx| evaluate(ctx, &format!("{STOP}{source}")).map(drop)) {
        // It was read whole, and thrown by ourselves.
        Ok(()) | Err(Fault::Thrown(_)) => Ok(()),
        Err(fault) => Err(fault),
    }
}

fn evaluate<'js>(ctx: &Ctx<'js>, source: &str) -> rquickjs::Result<Value<'js>> {
    let mut options = EvalOptions::default();
    // Strict mode refuses assignments to names that nobody declared, which such definitions are full of.
    options.strict = false;
    options.filename = Some(NAME.to_owned());
    ctx.eval_with_options(source, options)
}

fn within<T>(
    limits: &Limits,
    source: &str,
    work: impl for<'js> FnOnce(&Ctx<'js>) -> rquickjs::Result<T>,
) -> Result<T, Fault> {
    if let Some(offset) = source.find('\0') {
        let line = Some(super::line_at(source, offset));
        return Err(Fault::Syntax { line, message: "a NUL character; write \\u0000".to_owned() });
    }
    let runtime = Runtime::new().map_err(|_| Fault::OutOfMemory)?;
    runtime.set_memory_limit(limits.memory_bytes);
    runtime.set_max_stack_size(STACK_BYTES);
    let (stopped, is_over) = (Rc::new(Cell::new(false)), Rc::clone(&limits.is_over));
    let flag = Rc::clone(&stopped);
    runtime.set_interrupt_handler(Some(Box::new(move || {
        flag.set(flag.get() || is_over());
        flag.get()
    })));
    let context = Context::full(&runtime).map_err(|_| Fault::OutOfMemory)?;
    context.with(|ctx| {
        work(&ctx).map_err(|error| match error {
            _ if stopped.get() => Fault::TooSlow,
            Error::Exception => thrown(&ctx, &ctx.catch()),
            error => Fault::Thrown(error.to_string()),
        })
    })
}

/// What was thrown, in words.
fn thrown<'js>(ctx: &Ctx<'js>, value: &Value<'js>) -> Fault {
    let Some(exception) = value.clone().into_exception() else {
        // Where no memory is left for an error there is none.
        if value.is_null() {
            return Fault::OutOfMemory;
        }
        let text = value.as_string().map(rquickjs::String::to_string);
        let text = text.or_else(|| ctx.json_stringify(value.clone()).ok().flatten().map(|text| text.to_string()));
        return Fault::Thrown(text.and_then(Result::ok).unwrap_or_else(|| "something that has no text".to_owned()));
    };
    let name = exception.as_object().get::<_, String>("name").unwrap_or_else(|_| "Error".to_owned());
    let message = exception.message().unwrap_or_default();
    let line = exception.stack().as_deref().and_then(line_in);
    match (name.as_str(), message.as_str()) {
        ("InternalError", "out of memory") => Fault::OutOfMemory,
        // Thrown by `eval` or `new RegExp` within a program it is like any other, but its trace does not name the program then.
        ("SyntaxError", _) => Fault::Syntax { line, message },
        _ => Fault::Thrown(match line {
            Some(line) => format!("{name}: {message} (line {line})"),
            None => format!("{name}: {message}"),
        }),
    }
}

/// The line of the program that a trace names first.
fn line_in(trace: &str) -> Option<u32> {
    let (_, place) = trace.split_once(&format!("{NAME}:"))?;
    place.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Halves of characters, which only JavaScript's strings can hold, as the replacement character. `JSON.stringify` escapes them and
/// no other of their range, and no reader of JSON takes them.
fn whole_characters(text: String) -> String {
    if !text.contains("\\ud") {
        return text;
    }
    let mut bytes = text.into_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
        } else if let [b'\\', b'u', b'd', b'8'..=b'f', ..] = bytes[at..] {
            bytes[at + 2..at + 6].copy_from_slice(b"fffd");
            at += 6;
        } else {
            at += 2;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
