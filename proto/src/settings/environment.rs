//! Faults of environment variables, told all at once like those of a file.
//!
//! A parser of command lines stops at the first value that it cannot read. Here a variable whose value is wrong is noted and then left
//! out of account, and the line is read again, until every variable that is left is right.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};
use std::error::Error as _;
use std::ffi::OsString;

/// A command line that is right, and what is wrong with variables beside it.
#[derive(Debug)]
pub struct Line {
    /// What it says, as if the variables with faults were not set.
    pub matches: ArgMatches,
    /// One line each: `VARIABLE: what is wrong`.
    pub faults: Vec<String>,
}

/// Reads a command line.
///
/// # Errors
/// The line itself is wrong, or asks for help.
pub fn read(mut command: Command, args: &[OsString]) -> Result<Line, clap::Error> {
    let mut faults = Vec::new();
    // Ends: each round takes the variable away from an option that had one.
    loop {
        let error = match command.clone().try_get_matches_from(args) {
            Ok(matches) => return Ok(Line { matches, faults }),
            Err(error) => error,
        };
        let Some((option, fault)) = wrong_variable(&command, args, &error) else { return Err(error) };
        faults.push(fault);
        command = without_variable(command, &option);
    }
}

/// The option whose variable is wrong, and what is wrong with that; `None` if the error is about anything else.
fn wrong_variable(command: &Command, args: &[OsString], error: &clap::Error) -> Option<(String, String)> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    // As it is shown, like `--beat <D>`.
    let option = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let variable = find(command, option).filter(|arg| !is_given(arg, args))?.get_env()?.to_string_lossy().into_owned();
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let why = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(known))) => format!("write one of {}", known.join(", ")),
        (None, _) => "it cannot be read".to_owned(),
    };
    let shown = format!("{value:?}");
    let fault = if why.contains(&shown) { format!("{variable}: {why}") } else { format!("{variable}: {shown}: {why}") };
    Some((option.to_owned(), fault))
}

/// The option of this name that takes its value from a variable, here or in a command below.
fn find<'c>(command: &'c Command, option: &str) -> Option<&'c Arg> {
    let here = command.get_arguments().find(|arg| arg.get_env().is_some() && arg.get_long() == Some(option));
    here.or_else(|| command.get_subcommands().find_map(|below| find(below, option)))
}

/// It stands on the command line, which then counts and not the variable.
fn is_given(arg: &Arg, args: &[OsString]) -> bool {
    let Some(long) = arg.get_long() else { return false };
    let (flag, with_value) = (format!("--{long}"), format!("--{long}="));
    args.iter().filter_map(|word| word.to_str()).any(|word| word == flag || word.starts_with(&with_value))
}

fn without_variable(command: Command, option: &str) -> Command {
    let forget = |arg: Arg| if arg.get_long() == Some(option) { arg.env(None::<&'static str>) } else { arg };
    command.mut_args(forget).mut_subcommands(|below| without_variable(below, option))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables that every process has, and whose values are no numbers.
    fn command() -> Command {
        let number = |name: &'static str, variable: &'static str| {
            Arg::new(name).long(name).env(variable).value_parser(clap::value_parser!(u16))
        };
        let flag = Arg::new("flag").long("flag").env("CARGO_PKG_NAME").value_parser(clap::value_parser!(bool));
        let run = Command::new("run").arg(number("slots", "CARGO_MANIFEST_DIR")).arg(flag);
        Command::new("daemon").subcommand(run.arg(number("cpu", "CARGO_PKG_VERSION")))
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn every_wrong_variable_is_told_at_once() {
        let line = read(command(), &words("daemon run")).expect("the line itself is right");
        let told = line.faults;
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().any(|fault| fault.starts_with("CARGO_MANIFEST_DIR: \"/")), "{told:?}");
        assert!(told.contains(&"CARGO_PKG_NAME: \"proto\": write one of true, false".to_owned()), "{told:?}");
        assert!(told.iter().any(|fault| fault.starts_with("CARGO_PKG_VERSION: \"")), "{told:?}");
    }

    #[test]
    fn a_flag_counts_before_its_variable_and_is_told_as_a_flag() {
        let line = read(command(), &words("daemon run --slots 3 --cpu=4 --flag true")).expect("all is given");
        assert_eq!(line.faults, Vec::<String>::new());
        let error = read(command(), &words("daemon run --slots many")).expect_err("no number");
        assert!(error.to_string().contains("--slots"), "{error}");
        assert!(read(command(), &words("daemon walk")).is_err());
    }
}
