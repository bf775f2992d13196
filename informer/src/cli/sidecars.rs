//! `informer sidecars`: who is there to run tasks.

use proto::v1::{Sidecar, SidecarsRequest};

use super::{Context, drain, error::Error, json, text};

/// Arguments of `sidecars`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Lost ones too
    #[arg(long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Error> {
    let client = context.connect().await?;
    let answer = client.grpc().sidecars(SidecarsRequest { all: args.all }).await;
    let sidecars = answer.map_err(|status| client.failed("list sidecars", &status))?.into_inner().sidecars;
    if args.json {
        super::print_json(&sidecars.iter().map(json::sidecar).collect())?;
        return Ok(0);
    }
    let rows: Vec<_> = sidecars.iter().map(row).collect();
    let header =
        ["ID", "STATE", "HOST", "RUNNING", "ASIDE", "WINDOW", "CPU", "MEMORY", "LOAD", "BEAT", "FENCING", "LABELS"];
    super::print(&text::table(&header, &rows))?;
    Ok(0)
}

fn row(sidecar: &Sidecar) -> Vec<String> {
    let total = sidecar.total.unwrap_or_default();
    let allocated = sidecar.allocated.unwrap_or_default();
    let load = sidecar.load.unwrap_or_default();
    let labels: Vec<String> = sidecar.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        sidecar.id.clone(),
        drain::state(sidecar),
        text::or_dash(&sidecar.host),
        format!("{}/{}", sidecar.running, sidecar.slots),
        aside(sidecar),
        sidecar.window.to_string(),
        format!("{}/{}m", allocated.cpu_millis, total.cpu_millis),
        format!("{}/{}", text::size(allocated.memory_bytes), text::size(total.memory_bytes)),
        format!("{}%", load.cpu_permille / 10),
        format!("{} ago", text::span(sidecar.last_beat_age_ms)),
        text::or_dash(&sidecar.fencing),
        text::or_dash(&labels.join(",")),
    ]
}

/// How many attempts run there that the informer does not know, and what they take.
fn aside(sidecar: &Sidecar) -> String {
    if !drain::has_set_aside(sidecar) {
        return "-".to_owned();
    }
    let taken = sidecar.set_aside.unwrap_or_default();
    let count = match sidecar.set_aside_count {
        // A sidecar of an earlier version tells only what they take.
        0 => "?".to_owned(),
        count => count.to_string(),
    };
    format!("{count} ({}m, {})", taken.cpu_millis, text::size(taken.memory_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Resources, SidecarState};

    #[test]
    fn a_row_shows_books_and_beat() {
        let sidecar = Sidecar {
            id: "s1".into(),
            state: SidecarState::Suspect.into(),
            host: "box".into(),
            labels: [("gpu".to_owned(), "yes".to_owned())].into(),
            total: Some(Resources { cpu_millis: 2000, memory_bytes: 1 << 30 }),
            allocated: Some(Resources { cpu_millis: 1000, memory_bytes: 0 }),
            slots: 2,
            running: 1,
            window: 4,
            last_beat_age_ms: 1_200,
            fencing: "strong".into(),
            ..Sidecar::default()
        };
        let books = ["4", "1000/2000m", "0B/1.0GiB", "0%", "1s ago", "strong", "gpu=yes"];
        assert_eq!(row(&sidecar), [&["s1", "suspect", "box", "1/2", "-"][..], &books].concat());
        let set_aside = Some(Resources { cpu_millis: 500, memory_bytes: 1 << 20 });
        let sidecar = Sidecar { set_aside, set_aside_count: 3, ..sidecar };
        assert_eq!(row(&sidecar)[4], "3 (500m, 1.0MiB)");
        assert_eq!(row(&Sidecar { set_aside_count: 0, ..sidecar })[4], "? (500m, 1.0MiB)");
    }
}
