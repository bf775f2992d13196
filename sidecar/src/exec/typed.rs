//! A registered type that stands for a command: the task carries its input alone.

use keeper::wire;
use proto::v1::{self, task_spec::Kind};
use std::path::Path;

/// What stands for the input in a registered command.
const PLACE: &str = "{input}";

/// The variable that holds the input.
const VARIABLE: &str = "TASK_INPUT";

/// The variable that names the input's file, for an input that no variable can hold.
const FILE_VARIABLE: &str = "TASK_INPUT_FILE";

/// The input's file in `work/`.
const FILE: &str = "input";

/// The kernel's limit on one argument or variable with its terminating zero: 32 pages.
const STRING_BYTES: usize = 32 * 4096;

/// Why a registered command cannot be run with an input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One argument would exceed the kernel's limit, or hold a zero byte.
    #[error(
        "the input of {bytes} bytes cannot be an argument (at most 128 KiB, no zero byte), and the command of type {kind:?} takes it as \
         {{input}}; register a command that reads $TASK_INPUT_FILE instead"
    )]
    Argument {
        /// The type.
        kind: String,
        /// Of the input.
        bytes: usize,
    },
    /// The attempt's directory is not UTF-8.
    #[error("{0:?} is not UTF-8; move the sidecar's data directory to a path that is")]
    NotUtf8(std::path::PathBuf),
}

/// Whether the kernel takes a text as an argument or a variable.
fn fits(text: &str) -> bool {
    text.len() < STRING_BYTES && !text.contains('\0')
}

/// The task as a command, and a file for its working directory if the input needs one.
///
/// `{input}` is replaced in every argument except the program itself, which is not the input's to choose. The input is also
/// `TASK_INPUT` in the environment, or, where the kernel does not take it there, in the file that `TASK_INPUT_FILE` names.
///
/// # Errors
/// [`Error`] says why the input cannot be handed over.
pub fn as_command(
    spec: &v1::TaskSpec,
    typed: &v1::Typed,
    command: &v1::Command,
    work_dir: &Path,
) -> Result<(v1::TaskSpec, Option<wire::File>), Error> {
    let input = &typed.input;
    let mut argv = command.argv.clone();
    for argument in argv.iter_mut().skip(1).filter(|argument| argument.contains(PLACE)) {
        *argument = argument.replace(PLACE, input);
        if !fits(argument) {
            return Err(Error::Argument { kind: typed.r#type.clone(), bytes: input.len() });
        }
    }
    let spec = v1::TaskSpec { kind: Some(Kind::Command(v1::Command { argv })), ..spec.clone() };
    hand_over(spec, input, work_dir)
}

/// The task with its input: in `TASK_INPUT`, or, where the kernel does not take it there, in the file that `TASK_INPUT_FILE` names.
///
/// # Errors
/// The attempt's directory is not UTF-8.
pub fn hand_over(
    mut spec: v1::TaskSpec,
    input: &str,
    work_dir: &Path,
) -> Result<(v1::TaskSpec, Option<wire::File>), Error> {
    if fits(input) && VARIABLE.len() + 1 + input.len() < STRING_BYTES {
        spec.env.insert(VARIABLE.to_owned(), input.to_owned());
        return Ok((spec, None));
    }
    let path = work_dir.join(FILE);
    let path = path.to_str().ok_or_else(|| Error::NotUtf8(path.clone()))?;
    spec.env.insert(FILE_VARIABLE.to_owned(), path.to_owned());
    let file = wire::File { name: FILE.to_owned(), mode: 0o600, content: input.as_bytes().to_vec() };
    Ok((spec, Some(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(argv: &[&str], input: &str) -> Result<(v1::TaskSpec, Option<wire::File>), Error> {
        let command = v1::Command { argv: argv.iter().map(|&argument| argument.to_owned()).collect() };
        let typed = v1::Typed { r#type: "t".into(), input: input.into() };
        as_command(&v1::TaskSpec::default(), &typed, &command, Path::new("/data/attempts/a.1/work"))
    }

    fn argv(spec: &v1::TaskSpec) -> &[String] {
        let Some(Kind::Command(command)) = &spec.kind else { panic!("no command") };
        &command.argv
    }

    #[test]
    fn the_input_is_an_argument_and_a_variable_but_never_the_program() {
        let (spec, file) = plan(&["{input}", "--on={input}", "x"], "a b").expect("a plan");
        assert_eq!(argv(&spec), ["{input}", "--on=a b", "x"]);
        assert_eq!((spec.env.get("TASK_INPUT").map(String::as_str), file), (Some("a b"), None));
    }

    #[test]
    fn what_the_kernel_does_not_take_is_a_file() {
        let longest = "x".repeat(STRING_BYTES - VARIABLE.len() - 2);
        assert!(plan(&["p"], &longest).expect("a plan").1.is_none());
        for input in [longest + "x", "a\0b".to_owned()] {
            let (spec, file) = plan(&["p"], &input).expect("a plan");
            assert_eq!(spec.env.get("TASK_INPUT_FILE").map(String::as_str), Some("/data/attempts/a.1/work/input"));
            assert_eq!(file.expect("a file").content, input.into_bytes());
            assert!(!spec.env.contains_key("TASK_INPUT"));
        }
        assert!(matches!(plan(&["p", "{input}"], &"x".repeat(STRING_BYTES)), Err(Error::Argument { .. })));
    }
}
