//! A run looked at: what it waits for, and its flow chart.

use std::path::PathBuf;

use proto::v1;
use serde_json::{Value, json};

use super::super::{Context, error, error::Error, text};

/// Arguments of `workflow why`.
#[derive(Debug, clap::Args)]
pub(super) struct Why {
    /// The run
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// Arguments of `workflow chart`.
#[derive(Debug, clap::Args)]
pub(super) struct Chart {
    /// The run
    #[arg(value_name = "ID", required_unless_present = "definition", conflicts_with = "definition")]
    id: Option<String>,
    /// A definition instead of a run
    #[arg(long, value_name = "NAME")]
    definition: Option<String>,
    /// Its version [default: the latest]
    #[arg(long, value_name = "N", requires = "definition")]
    version: Option<u32>,
    /// Make JSON, as docs/charts.md has it
    #[arg(long, conflicts_with = "svg")]
    json: bool,
    /// Make a picture, SVG; so it is unless `--json` is given
    #[arg(long)]
    svg: bool,
    /// Write it here [default: to standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn why(args: Why, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let attempted = format!("say why about workflow run {}", args.id);
    let request = v1::WhyRunRequest { id: args.id };
    let why =
        client.again(&attempted, client.workflows(), async |mut grpc| grpc.why_run(request.clone()).await).await?;
    if args.json {
        let task = |task: &v1::WhyTask| json!({"id": task.id, "reference": task.reference, "status": task.status, "why": task.why});
        let tasks: Value = why.tasks.iter().map(task).collect();
        super::super::print_json(&json!({"summary": why.summary, "tasks": tasks, "more": why.more}))?;
    } else {
        super::super::print(&answered(&why))?;
    }
    Ok(0)
}

/// The sentence, and its tasks below it.
fn answered(why: &v1::WhyRunResponse) -> String {
    let mut shown = error::one_line(&why.summary);
    if why.tasks.is_empty() {
        return shown;
    }
    let row = |task: &v1::WhyTask| vec![task.reference.clone(), task.status.clone(), error::one_line(&task.why)];
    let rows: Vec<_> = why.tasks.iter().map(row).collect();
    shown.push_str("\n\n");
    shown.push_str(&text::table(&["TASK", "STATUS", "WHY"], &rows));
    if why.more > 0 {
        shown.push_str(&format!("... and {} more\n", why.more));
    }
    shown
}

pub(super) async fn chart(args: Chart, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let what = match (&args.id, &args.definition) {
        (Some(id), _) => format!("workflow run {id}"),
        (None, name) => format!("workflow {}", name.as_deref().unwrap_or_default()),
    };
    let attempted = format!("draw {what}");
    let request = v1::ChartRequest {
        id: args.id.unwrap_or_default(),
        name: args.definition.unwrap_or_default(),
        version: args.version.unwrap_or(0),
        svg: !args.json,
    };
    let answer =
        client.again(&attempted, client.workflows(), async |mut grpc| grpc.chart(request.clone()).await).await?;
    match args.output {
        None => super::super::print(&answer.chart)?,
        Some(path) => std::fs::write(&path, answer.chart)
            .map_err(|error| Error::Misuse(format!("cannot write {}: {error}", path.display())))?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_comes_first_and_tasks_below() {
        let task = v1::WhyTask {
            reference: "a".into(),
            status: "SCHEDULED".into(),
            why: "no worker".into(),
            ..Default::default()
        };
        let why = v1::WhyRunResponse { summary: "2 tasks are not over".into(), tasks: vec![task], more: 1 };
        assert_eq!(
            answered(&why),
            "2 tasks are not over\n\nTASK  STATUS     WHY\na     SCHEDULED  no worker\n... and 1 more\n"
        );
        let over = v1::WhyRunResponse { summary: "it is over".into(), ..Default::default() };
        assert_eq!(answered(&over), "it is over");
    }
}
