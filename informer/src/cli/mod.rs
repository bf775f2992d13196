//! The command line `informer`: the server's verbs and the client's. The client's use nothing but the gRPC API.
//!
//! | file | holds |
//! |---|---|
//! | one per verb | its arguments and what it does |
//! | `options`, `file`, `units`, `owner` | what the user wrote → a `TaskSpec` |
//! | `access` | the files that are shown to an informer, or by one |
//! | `array`, `items` | the members of an array, from where they stand to the informer |
//! | `filter`, `many` | which tasks are meant, and doing it to many |
//! | `client` | the connection, and the patience to outlive the informer's restart |
//! | `short` | a task by the beginning of its id |
//! | `books`, `follow`, `idle` | a task's state and log, followed over restarts; why it does not start |
//! | `changes`, `tally` | a list, or an array's counts, followed |
//! | `words`, `text`, `json`, `screen` | what is shown |
//! | `error`, `exit` | what goes wrong, and exit statuses |

mod access;
mod array;
mod backup;
mod books;
mod cancel;
mod certificate;
mod changes;
mod client;
mod dev;
mod drain;
pub(crate) mod error;
mod executor;
mod exit;
pub(crate) mod file;
mod filter;
mod follow;
mod history;
mod idle;
pub(crate) mod items;
mod json;
mod list;
mod logs;
mod many;
mod options;
mod owner;
pub(crate) mod place;
mod retry;
mod run;
mod screen;
mod script_host;
mod serve;
mod short;
mod show;
mod sidecars;
mod submit;
mod tally;
mod text;
pub(crate) mod units;
mod wait;
mod why;
mod words;
mod workflow;

#[cfg(test)]
mod fake;

use std::{
    ffi::OsString,
    future::Future,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use proto::settings::environment;

use access::Files;
use client::{Address, Client};
use error::Error;

/// What every verb has.
#[derive(Debug, clap::Args)]
struct Common {
    /// The informer's address
    #[arg(long = "informer", global = true, env = "INFORMER_URL", value_name = "URL", default_value = client::DEFAULT_URL)]
    informer: String,
    #[command(flatten)]
    files: Files,
    /// Tell more on stderr
    #[arg(short, long, global = true)]
    verbose: bool,
}

/// Runs tasks durably on this machine and others: `informer dev` starts everything, `informer run -- CMD` runs something.
#[derive(Debug, Parser)]
#[command(
    name = "informer",
    version,
    max_term_width = 120,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start everything on this machine: an informer and sidecars; prints its URL
    Dev(dev::Args),
    /// Start an informer
    Serve(serve::Args),
    /// Copy the data of an informer on this machine, also while it runs
    Backup(backup::Args),
    /// Make what an informer needs to be reached from other machines: a CA, a certificate, a token
    Certificate(certificate::Args),
    /// Submit a task, follow its output, exit as it exits
    #[command(after_help = run::EXIT_STATUS)]
    Run(run::Args),
    /// Submit a task and print its id
    Submit(submit::Args),
    /// List tasks, newest first
    List(list::Args),
    /// Show everything about a task
    Show(show::Args),
    /// Print a task's output
    Logs(logs::Args),
    /// Wait until a task has ended, exit as it exited
    #[command(after_help = run::EXIT_STATUS)]
    Wait(wait::Args),
    /// Cancel tasks: by id, or all that filters name
    Cancel(cancel::Args),
    /// Start tasks that have ended again: by id, or all that filters name
    Retry(retry::Args),
    /// Say why a task is not running
    Why(why::Args),
    /// Tell what happened to a task
    History(history::Args),
    /// List sidecars
    Sidecars(sidecars::Args),
    /// Let a sidecar finish what it has, and give it nothing new
    Drain(drain::Args),
    /// Give a sidecar work again
    Undrain(drain::UndrainArgs),
    /// Register how tasks of a type are run
    Executor(executor::Args),
    /// Run users' scripts for the informer that started this
    #[command(hide = true)]
    ScriptHost(crate::scripts::HostArgs),
    /// Workflows: definitions in Conductor's JSON, and their runs
    Workflow(workflow::Args),
}

/// What a verb is given besides its own arguments.
struct Context {
    address: String,
    files: Files,
    verbose: bool,
}

impl Context {
    async fn connect(&self) -> Result<Client, Error> {
        let address: Address = self.address.parse()?;
        Client::connect(address, self.files.clone().of_client()).await
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    crate::scripts::is_informer();
    let args: Vec<OsString> = std::env::args_os().collect();
    let read = environment::read(Cli::command(), &args);
    let read = read.and_then(|line| Ok((Cli::from_arg_matches(&line.matches)?, line.faults)));
    ExitCode::from(match read {
        Ok((cli, wrong)) => match faults(&cli, wrong) {
            told if told.is_empty() => perform(cli),
            told => {
                tell(&told);
                exit::MISUSE
            }
        },
        Err(error) => usage(&error, &args),
    })
}

/// Everything that is wrong with a server's environment, given what its flags' variables have; and then with its file as well, since
/// whoever mends the one wants to mend the other, too.
fn faults(cli: &Cli, mut wrong: Vec<String>) -> Vec<String> {
    if matches!(cli.verb, Verb::Serve(_) | Verb::Dev(_)) {
        wrong.extend(place::variable_faults());
    }
    if let (Verb::Serve(args), false) = (&cli.verb, wrong.is_empty()) {
        wrong.extend(args.file_faults());
    }
    wrong
}

/// Lines for people. Nothing can be done about a stderr that is closed.
fn tell(lines: &[String]) {
    for line in lines {
        drop(writeln!(io::stderr(), "{}", error::one_line(line)));
    }
}

/// Whether these words, from the verb on, are a command line.
#[cfg(feature = "decoders")]
pub(crate) fn parsed(words: &[String]) -> Result<(), String> {
    let words = std::iter::once("informer").chain(words.iter().map(String::as_str));
    Cli::try_parse_from(words).map(drop).map_err(|error| error.to_string())
}

/// Does what was asked for; gives the exit status.
fn perform(cli: Cli) -> u8 {
    let ends_as_task = matches!(cli.verb, Verb::Run(_) | Verb::Wait(_));
    let result = dispatch(cli);
    let Err(error) = result else { return result.unwrap_or(exit::FAILURE) };
    if !error.is_broken_pipe() {
        tell(&error.lines());
    }
    match error {
        Error::Left { .. } | Error::Interrupted { .. } => exit::CANCELLED,
        _ if ends_as_task => exit::OURS,
        error => error.exit(),
    }
}

fn dispatch(cli: Cli) -> Result<u8, Error> {
    let Common { informer: address, files, verbose } = cli.common;
    let context = Context { address, files, verbose };
    match cli.verb {
        Verb::Dev(args) => server_runtime(dev::run(args)),
        Verb::Serve(args) => server_runtime(serve::run(args, context.files)),
        Verb::Backup(args) => backup::run(args),
        Verb::Certificate(args) => certificate::run(&args),
        Verb::Run(args) => client_runtime(run::run(args, &context)),
        Verb::Submit(args) => client_runtime(submit::run(args, &context)),
        Verb::List(args) => client_runtime(list::run(args, &context)),
        Verb::Show(args) => client_runtime(show::run(args, &context)),
        Verb::Logs(args) => client_runtime(logs::run(args, &context)),
        Verb::Wait(args) => client_runtime(wait::run(args, &context)),
        Verb::Cancel(args) => client_runtime(cancel::run(args, &context)),
        Verb::Retry(args) => client_runtime(retry::run(args, &context)),
        Verb::Why(args) => client_runtime(why::run(args, &context)),
        Verb::History(args) => client_runtime(history::run(args, &context)),
        Verb::Drain(args) => client_runtime(drain::run(args, &context)),
        Verb::Undrain(args) => client_runtime(drain::undrain(args, &context)),
        Verb::Executor(args) => client_runtime(executor::run(args, &context)),
        Verb::Workflow(args) => client_runtime(workflow::run(args, &context)),
        Verb::Sidecars(args) => client_runtime(sidecars::run(args, &context)),
        Verb::ScriptHost(args) => Ok(script_host::run(args)),
    }
}

/// A client verb needs one thread.
fn client_runtime(verb: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    block_on(tokio::runtime::Builder::new_current_thread(), verb)
}

/// A server takes all cores.
fn server_runtime(verb: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    block_on(tokio::runtime::Builder::new_multi_thread(), verb)
}

fn block_on(mut builder: tokio::runtime::Builder, verb: impl Future<Output = Result<u8, Error>>) -> Result<u8, Error> {
    let runtime = builder.enable_all().build().map_err(|source| Error::Local {
        attempted: "start the runtime".into(),
        source,
        remedy: "",
    })?;
    let result = runtime.block_on(verb);
    // A write to a reader that never reads must not hold the exit.
    runtime.shutdown_background();
    result
}

/// Help and version are answers; all else about the command line is misuse, told in one line.
fn usage(error: &clap::Error, args: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            drop(error.print());
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(error.print());
            exit::MISUSE
        }
        _ => {
            let line = usage_line(&error.to_string(), &verb(args));
            let line = missing_dashes(error, args).map_or_else(|| line.clone(), |hint| format!("{hint}; {line}"));
            drop(writeln!(io::stderr(), "error: {line}"));
            if ends_as_task(args) { exit::OURS } else { exit::MISUSE }
        }
    }
}

/// Clap's paragraphs on one line: the problem and its tips, and instead of the usage where to find it.
fn usage_line(text: &str, verb: &[&str]) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let problem = text.split("Usage: ").next().unwrap_or(text);
    let problem = problem.split("For more information").next().unwrap_or_default();
    let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ").replace(" tip: ", "; tip: ");
    format!("{problem}; see `{} --help`", [&["informer"][..], verb].concat().join(" "))
}

/// A command behind `run` or `submit` without the `--` that parts its words from ours.
fn missing_dashes(error: &clap::Error, args: &[OsString]) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let verb = *verb(args).first().filter(|verb| matches!(**verb, "run" | "submit"))?;
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument || word.starts_with('-') {
        return None;
    }
    // From the word that was not understood on: what stands before it was.
    let command = args.iter().skip_while(|arg| arg.to_str() != Some(word.as_str()));
    let command: Vec<String> = command.map(|word| word.to_string_lossy().into_owned()).collect();
    Some(format!("the command belongs after `--`, as in `informer {verb} -- {}`", show::quoted(&command)))
}

/// The verb of a command line, and that below it if there is one; empty where none is found.
fn verb(args: &[OsString]) -> Vec<&str> {
    let mut command = Cli::command();
    let mut found = Vec::new();
    let mut words = args.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        match word {
            "--informer" | "--tls-ca" | "--tls-cert" | "--tls-key" | "--token-file" => drop(words.next()),
            word if word.starts_with('-') => {}
            word => match command.find_subcommand(word).cloned() {
                Some(below) => {
                    found.push(word);
                    command = below;
                }
                None => break,
            },
        }
        if !command.has_subcommands() {
            break;
        }
    }
    found
}

/// The verb is one of those that exit with the task's code, where 2 would be taken for the task's.
fn ends_as_task(args: &[OsString]) -> bool {
    matches!(verb(args).first(), Some(&("run" | "wait")))
}

/// Prints a document or a table on stdout.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Prints one JSON document, indented for people.
fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{value:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn misuse_is_told_in_one_line() {
        let line = |words: &[&str]| {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            usage_line(&Cli::try_parse_from(words).expect_err("misuse").to_string(), &verb(&args))
        };
        let missing = line(&["informer", "show"]);
        assert!(
            missing.contains("required arguments were not provided: <ID>; see `informer show --help`"),
            "{missing}"
        );
        let unknown = line(&["informer", "lst"]);
        assert!(unknown.contains("unrecognized subcommand 'lst'") && unknown.contains("'list'"), "{unknown}");
        let flag = line(&["informer", "list", "--bogus"]);
        assert!(flag.contains("'--bogus'") && flag.contains("see `informer list --help`"), "{flag}");
        let value = line(&["informer", "submit", "--timeout", "soon", "--", "true"]);
        assert!(value.contains("\"soon\"") && value.ends_with("see `informer submit --help`"), "{value}");
        let below = line(&["informer", "executor", "put", "--bogus"]);
        assert!(below.ends_with("see `informer executor put --help`"), "{below}");
        assert!([missing, unknown, flag].iter().all(|line| !line.contains('\n')));
    }

    #[test]
    fn a_command_without_dashes_is_shown_with_them() {
        let hint = |line: &str| {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            missing_dashes(&Cli::try_parse_from(&args).expect_err("misuse"), &args)
        };
        let told = hint("informer run --cpu 5 echo hi").expect("a hint");
        assert_eq!(told, "the command belongs after `--`, as in `informer run -- echo hi`");
        assert_eq!((hint("informer run --bogus"), hint("informer list echo")), (None, None));
    }

    #[test]
    fn misuse_of_run_is_not_taken_for_the_tasks_code() {
        let of = |line: &str| ends_as_task(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert!(of("informer run --bogus") && of("informer --informer run wait") && of("informer -v wait"));
        assert!(!of("informer list run") && !of("informer") && !of("informer submit -- run"));
    }

    #[test]
    fn an_id_is_required_where_one_is_meant() {
        for verb in ["show", "logs", "wait", "why", "history", "drain", "undrain"] {
            assert!(Cli::try_parse_from(["informer", verb]).is_err(), "{verb}");
            assert!(Cli::try_parse_from(["informer", verb, "x"]).is_ok(), "{verb}");
        }
    }
}
