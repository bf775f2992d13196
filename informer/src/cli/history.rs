//! `informer history`: what happened to a task, oldest first.

use proto::v1::{HistoryEvent, HistoryRequest};

use super::{Context, client::Client, error::Error, json, short, text};

/// Events asked for at once.
const PAGE: u32 = 500;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The task, array or member
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let id = short::whole(&client, &args.id).await?;
    let events = read(&client, &id).await?;
    if args.json {
        super::print_json(&events.iter().map(json::event).collect())?;
    } else {
        super::print(&table(&events))?;
    }
    Ok(0)
}

/// All events of a task, page by page.
pub(crate) async fn read(client: &Client, id: &str) -> Result<Vec<HistoryEvent>, Error> {
    let mut events = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = HistoryRequest { id: id.to_owned(), page_size: PAGE, page_token };
        let answer = client.grpc().history(request).await;
        let answer =
            answer.map_err(|status| client.failed(&format!("show the history of task {id}"), &status))?.into_inner();
        events.extend(answer.events);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(events);
        }
    }
}

pub(crate) fn table(events: &[HistoryEvent]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let attempt = if event.attempt == 0 { "-".to_owned() } else { event.attempt.to_string() };
            vec![text::time(event.unix_ms), attempt, event.kind.clone(), event.detail.clone()]
        })
        .collect();
    text::table(&["TIME", "ATTEMPT", "WHAT", "DETAIL"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_a_table() {
        let event =
            HistoryEvent { seq: 1, unix_ms: 1_000, kind: "submitted".into(), attempt: 0, detail: "by ops".into() };
        let expected =
            "TIME                  ATTEMPT  WHAT       DETAIL\n1970-01-01T00:00:01Z  -        submitted  by ops\n";
        assert_eq!(table(&[event]), expected);
    }
}
