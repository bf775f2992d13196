//! `sidecar run`.

use crate::agent::{self, Options};
use crate::load;
use anyhow::Context as _;
use clap::Args;
use proto::bounds;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Arguments of `sidecar run`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the informer listens.
    #[arg(long, value_name = "URL", env = "INFORMER_URL", default_value = "http://127.0.0.1:7070")]
    informer: String,
    /// Data directory, one for each sidecar [default: $XDG_STATE_HOME/sidecar or ~/.local/state/sidecar].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Tasks at once [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(bounds::SLOTS)))]
    slots: Option<u32>,
    /// Offered CPU in thousandths of a core [default: all cores].
    #[arg(long, value_name = "MILLIS", value_parser = clap::value_parser!(u64).range(1..=bounds::CPU_MILLIS))]
    cpu: Option<u64>,
    /// Offered memory in bytes [default: all of it].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=bounds::MEMORY_BYTES))]
    memory: Option<u64>,
    /// A label that tasks can require; may be repeated.
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// On SIGTERM end the tasks and the keeper, too, and wait for that.
    #[arg(long)]
    stop_tasks_on_exit: bool,
    /// Serve metrics on this address of loopback [default: nowhere].
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// End as on SIGTERM when the process that started this one, of this id, dies.
    #[arg(long, value_name = "PID", hide = true)]
    end_with_parent: Option<i32>,
    /// The keeper binary [default: `keeper` beside this binary].
    #[arg(long, value_name = "FILE", hide = true)]
    keeper: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    super::log_to_stderr();
    if let Some(parent) = arguments.end_with_parent {
        end_with(parent)?;
    }
    let data = arguments.data.map_or_else(super::default_data, Ok)?;
    anyhow::ensure!(
        arguments.labels.len() <= bounds::LABELS,
        "{} labels are too many; at most {} are taken",
        arguments.labels.len(),
        bounds::LABELS
    );
    let options = Options {
        informer: arguments.informer,
        data,
        slots: arguments.slots.unwrap_or_else(|| load::machine().cores.min(bounds::SLOTS)),
        cpu_millis: arguments.cpu,
        memory_bytes: arguments.memory,
        labels: arguments.labels.into_iter().collect(),
        stop_tasks_on_exit: arguments.stop_tasks_on_exit,
        keeper: arguments.keeper,
        metrics: arguments.metrics,
    };
    Ok(agent::run(options)?)
}

/// Asks the kernel for SIGTERM at the parent's death. A parent that died before is seen by its number, which is another one then.
fn end_with(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .context("cannot ask to be ended with the process that started this one")?;
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(now == parent, "process {parent}, which started this sidecar, is gone");
    Ok(())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE, for example gpu=yes")?;
    let fits = |part: &str| part.len() <= bounds::NAME_BYTES && !part.chars().any(char::is_control);
    if key.is_empty() || !fits(key) || !fits(value) {
        return Err(format!("key and value have 1 to {} bytes and no control characters", bounds::NAME_BYTES));
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(label("gpu=a=b"), Ok(("gpu".into(), "a=b".into())));
        for text in ["", "gpu", "=x", "a\u{7}=b"] {
            assert!(label(text).is_err(), "{text:?} was taken");
        }
    }
}
