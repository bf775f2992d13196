//! `informer executor`: how tasks of a type are run is registered once; tasks then name the type and carry only their input.

use clap::Subcommand;
use proto::v1::{
    self, DeleteExecutorRequest, Executor, ExecutorsRequest, PutExecutorRequest, RemoteService, executor::Mode,
};
use serde_json::json;
use tonic::Code;

use super::{
    Context,
    error::Error,
    json,
    screen::{Form, Screen},
    show, text, units,
};

/// Arguments of `executor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Register how tasks of a type are run; prints the id of the registration
    Put(Put),
    /// List what is registered
    List(List),
    /// Forget a type; tasks that run go on
    Delete(Delete),
}

/// Exactly one of a command, a URL and `--embedded`.
#[derive(Debug, clap::Args)]
struct Put {
    /// The type that tasks name
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// A command: ARGV after --, in which {input} stands for the input; it is TASK_INPUT in the environment, too
    #[arg(long, requires = "argv", conflicts_with_all = ["url", "embedded"])]
    command: bool,
    /// A remote HTTP service, started there and then polled
    #[arg(long, conflicts_with_all = ["argv", "embedded"])]
    url: Option<String>,
    /// How often it is polled [default: 1s]
    #[arg(long, value_name = "D", value_parser = units::limit_ms, requires = "url", conflicts_with_all = ["argv", "embedded"])]
    poll: Option<u64>,
    /// The service may report by itself; it is told where
    #[arg(long, requires = "url", conflicts_with_all = ["argv", "embedded"])]
    callback: bool,
    /// Code within a sidecar that was built around our library
    #[arg(long, conflicts_with = "argv")]
    embedded: bool,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Replace another one of this type; otherwise that is refused
    #[arg(long)]
    replace: bool,
    /// Print the registration as a JSON document
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "ARGV")]
    argv: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// The type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// Print a JSON document that says whether there was one
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    match args.what {
        What::Put(args) => put(args, context).await,
        What::List(args) => list(args, context).await,
        What::Delete(args) => delete(args, context).await,
    }
}

impl Put {
    fn request(self) -> Result<PutExecutorRequest, Error> {
        let mode = match (self.url, self.embedded, self.argv.is_empty()) {
            (Some(url), ..) => {
                let poll_ms = self.poll.unwrap_or_default();
                Mode::Service(RemoteService { url, poll_ms, callback: self.callback })
            }
            (None, true, _) => Mode::Embedded(v1::Embedded {}),
            (None, false, false) => Mode::Command(v1::Command { argv: self.argv }),
            (None, false, true) => {
                let problem = "there is nothing to run; add --command -- ARGV, --url URL or --embedded";
                return Err(Error::Misuse(problem.into()));
            }
        };
        let executor =
            Executor { r#type: self.type_name, description: self.description, mode: Some(mode), ..Executor::default() };
        Ok(PutExecutorRequest { executor: Some(executor), replace: self.replace })
    }
}

/// Putting the same one again changes nothing, so a lost answer is asked for again.
async fn put(args: Put, context: &Context) -> Result<u8, Error> {
    let as_json = args.json;
    let attempted = format!("register an executor of type {}", args.type_name);
    let request = args.request()?;
    let client = context.connect().await?;
    let answer = client.persist(&attempted, async |mut grpc| grpc.put_executor(request.clone()).await).await?;
    let executor = answer.executor.unwrap_or_default();
    if as_json {
        let mut value = json::executor(&executor);
        value["existed"] = json!(answer.existed);
        super::print_json(&value)?;
        return Ok(0);
    }
    if answer.existed {
        Screen::new(context.verbose, Form::Bytes).note("the same one was registered already");
    }
    super::print(&executor.id)?;
    Ok(0)
}

async fn list(args: List, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let answer = client.grpc().executors(ExecutorsRequest {}).await;
    let executors = answer.map_err(|status| client.failed("list executors", &status))?.into_inner().executors;
    if args.json {
        super::print_json(&executors.iter().map(json::executor).collect())?;
        return Ok(0);
    }
    let now = text::now_unix_ms();
    let rows: Vec<_> = executors.iter().map(|executor| row(executor, now)).collect();
    super::print(&text::table(&["TYPE", "MODE", "AGE", "RUNS", "DESCRIPTION"], &rows))?;
    Ok(0)
}

fn row(executor: &Executor, now_unix_ms: u64) -> Vec<String> {
    let (mode, runs) = match &executor.mode {
        None => ("-", "-".to_owned()),
        Some(Mode::Command(command)) => ("command", show::quoted(&command.argv)),
        Some(Mode::Embedded(_)) => ("embedded", "-".to_owned()),
        Some(Mode::Service(service)) => {
            let back = if service.callback { ", or it calls back" } else { "" };
            ("service", format!("{}, polled every {}{back}", service.url, text::span(service.poll_ms)))
        }
    };
    vec![
        executor.r#type.clone(),
        mode.to_owned(),
        text::age(executor.registered_unix_ms, now_unix_ms),
        runs,
        text::or_dash(&executor.description),
    ]
}

async fn delete(args: Delete, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let attempted = format!("delete the executor of type {}", args.type_name);
    let request = DeleteExecutorRequest { r#type: args.type_name };
    let existed =
        client.persist(&attempted, async |mut grpc| grpc.delete_executor(request.clone()).await).await?.existed;
    if args.json {
        super::print_json(&json!({"type": request.r#type, "existed": existed}))?;
        return Ok(0);
    }
    if !existed {
        let message = "there is none; `informer executor list` shows what there is".to_owned();
        return Err(Error::Refused { attempted, code: Code::NotFound, message });
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Result<Put, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        match Line::try_parse_from(words).map_err(|error| error.to_string())?.args.what {
            What::Put(put) => Ok(put),
            What::List(_) | What::Delete(_) => Err("not a put".into()),
        }
    }

    fn mode(line: &str) -> Mode {
        parsed(line).expect("a put").request().expect("a request").executor.and_then(|it| it.mode).expect("a mode")
    }

    #[test]
    fn each_mode_reaches_its_field() {
        let argv = ["resize", "{input}"].map(String::from).to_vec();
        assert_eq!(mode("put t --command -- resize {input}"), Mode::Command(v1::Command { argv: argv.clone() }));
        assert_eq!(mode("put t -- resize {input}"), Mode::Command(v1::Command { argv }));
        let service = RemoteService { url: "http://h:1/x".into(), poll_ms: 5_000, callback: true };
        assert_eq!(mode("put t --url http://h:1/x --poll 5s --callback"), Mode::Service(service));
        assert_eq!(mode("put t --embedded"), Mode::Embedded(v1::Embedded {}));
        let request =
            parsed("put t --embedded --replace --description d").expect("a put").request().expect("a request");
        let executor = request.executor.expect("an executor");
        assert_eq!((executor.r#type.as_str(), executor.description.as_str(), request.replace), ("t", "d", true));
    }

    #[test]
    fn modes_exclude_each_other() {
        for line in [
            "put",
            "put t --command",
            "put t --url u -- a",
            "put t --embedded -- a",
            "put t --url u --embedded",
            "put t --poll 1s --embedded",
            "put t --callback -- a",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("put t").expect("a put").request().expect_err("nothing").exit(), 2);
    }

    #[test]
    fn a_row_says_what_runs() {
        let executor = |mode| Executor { r#type: "t".into(), mode: Some(mode), ..Executor::default() };
        let command = executor(Mode::Command(v1::Command { argv: vec!["sh".into(), "a b".into()] }));
        assert_eq!(row(&command, 0), ["t", "command", "-", "sh 'a b'", "-"]);
        let service = RemoteService { url: "http://h/x".into(), poll_ms: 1_000, callback: true };
        assert_eq!(row(&executor(Mode::Service(service)), 0)[3], "http://h/x, polled every 1s, or it calls back");
    }
}
