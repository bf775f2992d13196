//! `sidecar run`.

use crate::agent::{self, Options};
use crate::config::{self, Config};
use crate::load;
use anyhow::Context as _;
use clap::Args;
use proto::bounds;
use proto::dial::Access;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Labels of the environment, as K=V,K=V.
const LABELS: &str = "SIDECAR_LABELS";

/// Arguments of `sidecar run`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Read settings from this TOML file; environment and flags override it. examples/config/sidecar.toml has them all.
    #[arg(long, value_name = "FILE", env = "SIDECAR_CONFIG")]
    config: Option<PathBuf>,
    /// Where the informer listens [default: http://127.0.0.1:7070].
    #[arg(long, value_name = "URL", env = "INFORMER_URL", value_parser = config::informer)]
    informer: Option<String>,
    #[command(flatten)]
    files: Files,
    /// Data directory, one for each sidecar [default: $XDG_STATE_HOME/sidecar or ~/.local/state/sidecar].
    #[arg(long, value_name = "DIR", env = "SIDECAR_DATA")]
    data: Option<PathBuf>,
    /// Tasks at once [default: one for each core].
    #[arg(long, value_name = "N", env = "SIDECAR_SLOTS", value_parser = clap::value_parser!(u32).range(1..=i64::from(bounds::SLOTS)))]
    slots: Option<u32>,
    /// Offered CPU in thousandths of a core [default: all cores].
    #[arg(long, value_name = "MILLIS", env = "SIDECAR_CPU", value_parser = clap::value_parser!(u64).range(1..=bounds::CPU_MILLIS))]
    cpu: Option<u64>,
    /// Offered memory in bytes [default: all of it].
    #[arg(long, value_name = "BYTES", env = "SIDECAR_MEMORY", value_parser = clap::value_parser!(u64).range(1..=bounds::MEMORY_BYTES))]
    memory: Option<u64>,
    /// A label that tasks can require; may be repeated [env: SIDECAR_LABELS, as K=V,K=V].
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// On SIGTERM end the tasks and the keeper, too, and wait for that.
    #[arg(
        long,
        env = "SIDECAR_STOP_TASKS_ON_EXIT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "true|false"
    )]
    stop_tasks_on_exit: Option<bool>,
    /// Serve metrics on this address of loopback [default: nowhere].
    #[arg(long, env = "SIDECAR_METRICS", value_name = "ADDR:PORT", value_parser = config::metrics)]
    metrics: Option<SocketAddr>,
    /// End as on SIGTERM when the process that started this one, of this id, dies.
    #[arg(long, value_name = "PID", hide = true)]
    end_with_parent: Option<i32>,
    /// The keeper binary [default: `keeper` beside this binary].
    #[arg(long, value_name = "FILE", hide = true)]
    keeper: Option<PathBuf>,
}

/// What is shown to the informer, and demanded of it.
#[derive(Debug, Default, Args)]
struct Files {
    /// Trust an informer whose certificate this CA signed [default: the CAs of this machine].
    #[arg(long, value_name = "FILE", env = "INFORMER_TLS_CA", help_heading = "TLS and token")]
    tls_ca: Option<PathBuf>,
    /// Show this certificate to an informer that demands one.
    #[arg(long, value_name = "FILE", env = "INFORMER_TLS_CERT", help_heading = "TLS and token")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, value_name = "FILE", env = "INFORMER_TLS_KEY", help_heading = "TLS and token")]
    tls_key: Option<PathBuf>,
    /// The informer's token.
    #[arg(long, value_name = "FILE", env = "INFORMER_TOKEN_FILE", help_heading = "TLS and token")]
    token_file: Option<PathBuf>,
}

impl Files {
    fn or(self, configured: Access) -> Access {
        // An empty variable is how a unit or a manifest says "none".
        let or = |given: Option<PathBuf>, configured| given.filter(|path| !path.as_os_str().is_empty()).or(configured);
        Access {
            tls_ca: or(self.tls_ca, configured.tls_ca),
            tls_cert: or(self.tls_cert, configured.tls_cert),
            tls_key: or(self.tls_key, configured.tls_key),
            token_file: or(self.token_file, configured.token_file),
        }
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    super::log_to_stderr(config.log.as_deref())?;
    if let Some(parent) = arguments.end_with_parent {
        end_with(parent)?;
    }
    Ok(agent::run(options(arguments, config)?)?)
}

/// The labels of the environment, each of them read or told.
fn variable_labels() -> Vec<Result<(String, String), String>> {
    let labels = std::env::var(LABELS).unwrap_or_default();
    let pairs = labels.split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| label(pair).map_err(|problem| format!("{LABELS}: {pair:?}: {problem}"))).collect()
}

/// What is wrong with the labels of the environment.
pub(super) fn label_faults() -> Vec<String> {
    variable_labels().into_iter().filter_map(Result::err).collect()
}

impl Arguments {
    /// What is wrong with the file of settings, if one is named; of several faults each on a line.
    pub(super) fn file_fault(&self) -> Option<String> {
        self.config.as_deref().and_then(|path| config::read(path).err()).map(|error| error.to_string())
    }
}

/// Flags over environment over what the file says.
fn options(arguments: Arguments, config: Config) -> anyhow::Result<Options> {
    let mut labels = config.labels;
    for label in variable_labels() {
        labels.extend([label.map_err(anyhow::Error::msg)?]);
    }
    labels.extend(arguments.labels);
    anyhow::ensure!(
        labels.len() <= bounds::LABELS,
        "{} labels are too many; at most {} are taken",
        labels.len(),
        bounds::LABELS
    );
    let data = arguments.data.or(config.data).map_or_else(super::default_data, Ok)?;
    let slots = arguments.slots.or(config.slots);
    Ok(Options {
        informer: arguments.informer.or(config.informer).unwrap_or_else(|| config::INFORMER.to_owned()),
        access: arguments.files.or(config.access),
        data,
        slots: slots.unwrap_or_else(|| load::machine().cores.min(bounds::SLOTS)),
        cpu_millis: arguments.cpu.or(config.cpu_millis),
        memory_bytes: arguments.memory.or(config.memory_bytes),
        labels,
        stop_tasks_on_exit: arguments.stop_tasks_on_exit.or(config.stop_tasks_on_exit).unwrap_or(false),
        keeper: arguments.keeper,
        metrics: arguments.metrics.or(config.metrics),
    })
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
    config::label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn flags_override_the_file_and_the_file_the_defaults() {
        let line = ["run", "--data", "/d", "--slots", "3", "--label", "gpu=no", "--stop-tasks-on-exit=false"];
        let arguments = Line::try_parse_from(line).expect("arguments").arguments;
        let config = Config {
            slots: Some(5),
            cpu_millis: Some(500),
            labels: [("gpu", "yes"), ("zone", "a")].map(|(key, value)| (key.into(), value.into())).into(),
            stop_tasks_on_exit: Some(true),
            ..Config::default()
        };
        let options = options(arguments, config).expect("options");
        assert_eq!((options.slots, options.cpu_millis, options.stop_tasks_on_exit), (3, Some(500), false));
        assert_eq!((options.labels["gpu"].as_str(), options.labels["zone"].as_str()), ("no", "a"));
        let bare = Line::try_parse_from(["run", "--stop-tasks-on-exit", "--data", "/d"]).expect("arguments").arguments;
        assert_eq!(bare.stop_tasks_on_exit, Some(true));
    }

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(label("gpu=a=b"), Ok(("gpu".into(), "a=b".into())));
        for text in ["", "gpu", "=x", "a\u{7}=b"] {
            assert!(label(text).is_err(), "{text:?} was taken");
        }
    }
}
