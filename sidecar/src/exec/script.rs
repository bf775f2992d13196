//! A script: its body becomes a file that the interpreter reads.

use super::{Error, Process, utf8};
use keeper::wire;
use proto::v1;
use std::path::Path;

/// The interpreter of a script that names none.
const INTERPRETER: &str = "/bin/sh";

/// The body's file in `work/`. Not `-c`: a body may be longer than the 128 KiB that the kernel allows one argument, and an
/// interpreter's messages then name a file and a line.
const FILE: &str = "script";

pub(super) fn process(script: &v1::Script, work_dir: &Path) -> Result<Process, Error> {
    let interpreter = if script.interpreter.is_empty() { INTERPRETER } else { &script.interpreter };
    // Absolute, because the task may name another working directory.
    let mut argv = vec![interpreter.to_owned(), utf8(&work_dir.join(FILE))?];
    argv.extend(script.args.iter().cloned());
    let body = wire::File { name: FILE.to_owned(), mode: 0o700, content: script.body.clone().into_bytes() };
    Ok(Process { argv, files: vec![body] })
}
