//! `informer why`: why is it not running?

use std::fmt::Write as _;

use proto::v1::{WhyRequest, WhyResponse};

use super::{Context, error, error::Error, json, short};

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let id = short::whole(&client, &args.id).await?;
    let answer = client.grpc().why(WhyRequest { id: id.clone() }).await;
    let why = answer.map_err(|status| client.failed(&format!("say why about task {id}"), &status))?.into_inner();
    if args.json {
        super::print_json(&json::why(&id, &why))?;
    } else {
        super::print(&answered(&why))?;
    }
    Ok(0)
}

/// The sentence, and its details below it.
fn answered(why: &WhyResponse) -> String {
    let mut text = format!("{}\n", error::one_line(&why.summary));
    for detail in &why.details {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", error::one_line(detail));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_comes_first() {
        let why = WhyResponse { summary: "no sidecar has a credit".into(), details: vec!["s1: full".into()], state: 2 };
        assert_eq!(answered(&why), "no sidecar has a credit\n  s1: full\n");
    }
}
