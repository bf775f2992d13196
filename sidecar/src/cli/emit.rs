//! `sidecar emit`: a task gives itself children.

use super::talk::{self, variable};
use crate::agent::clock;
use crate::agent::socket::Request;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde_json::{Map, Value};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Exit status where the child may be taken yet: EX_TEMPFAIL of sysexits.h.
const EXIT_LATER: u8 = 75;
/// Between two tries where there was no room, or no sidecar, ms: one that is being replaced is back in a second or so.
const AGAIN_MS: u64 = 250;

/// Arguments of `sidecar emit`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The child's key: the same one with the same name and input is the same child, however often it is emitted
    #[arg(long, value_name = "K", required_unless_present = "seal", conflicts_with = "seal")]
    key: Option<String>,
    /// The task that the child is, where the workflow leaves that to its parent
    #[arg(long, value_name = "TASK", conflicts_with = "seal")]
    name: Option<String>,
    /// The child's input, a JSON object, or @FILE with one
    #[arg(long, value_name = "JSON|@FILE", conflicts_with = "seal")]
    input: Option<String>,
    /// There will be no more children; the end of the task says so, too
    #[arg(long)]
    seal: bool,
    /// Wait this many seconds for the informer's acknowledgement
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,
}

/// Emits one child, or the seal, of the task that this process is part of. Returns once it is durable with the informer.
pub(super) fn emit(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let request = request(arguments)?;
    let deadline_ms = clock::boot_ms().saturating_add(arguments.timeout.saturating_mul(1000));
    let why = loop {
        let left_ms = deadline_ms.saturating_sub(clock::boot_ms());
        let patience = Duration::from_millis(left_ms).saturating_add(talk::PATIENCE);
        let why = match talk::ask(&with_patience(&request, left_ms), patience) {
            Ok(answer) if answer.ok => return Ok(ExitCode::SUCCESS),
            Ok(answer) if !answer.again => bail!("the child was refused: {}", answer.error),
            Ok(answer) => answer.error,
            // The sidecar is being replaced; what it had stored it has still.
            Err(error) => format!("{error:#}"),
        };
        if clock::boot_ms() + AGAIN_MS >= deadline_ms {
            break why;
        }
        std::thread::sleep(Duration::from_millis(AGAIN_MS));
    };
    eprintln!(
        "sidecar: the child is not acknowledged yet: {why}. Emit it again to learn of it: that makes no second one"
    );
    Ok(ExitCode::from(EXIT_LATER))
}

fn request(arguments: &Arguments) -> anyhow::Result<Request> {
    let (task, fence) = (variable("INFORMER_TASK_ID")?, variable("INFORMER_FENCE")?);
    let attempt = variable("INFORMER_ATTEMPT")?.parse().context("INFORMER_ATTEMPT is no number")?;
    let Some(key) = &arguments.key else { return Ok(Request::Seal { task, attempt, fence, wait_ms: None }) };
    ensure!(!key.is_empty(), "--key is empty; give the child a name of its own within this task");
    let input = arguments.input.as_deref().map(input).transpose()?;
    Ok(Request::Emit { task, attempt, fence, key: key.clone(), name: arguments.name.clone(), input, wait_ms: None })
}

fn input(argument: &str) -> anyhow::Result<Map<String, Value>> {
    let text = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))?,
        None => argument.to_owned(),
    };
    serde_json::from_str(&text).context("--input is no JSON object")
}

fn with_patience(request: &Request, left_ms: u64) -> Request {
    let mut request = request.clone();
    if let Request::Emit { wait_ms, .. } | Request::Seal { wait_ms, .. } = &mut request {
        *wait_ms = Some(left_ms);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::input;

    #[test]
    fn an_input_is_an_object_told_or_in_a_file() {
        assert_eq!(input(r#"{"n":1}"#).expect("told")["n"], 1);
        let path = std::env::temp_dir().join(format!("emit-{}.json", std::process::id()));
        std::fs::write(&path, r#"{"n":2}"#).expect("written");
        assert_eq!(input(&format!("@{}", path.display())).expect("in a file")["n"], 2);
        std::fs::remove_file(&path).expect("removed");
        for wrong in ["", "[1]", "3", "@/nowhere/at/all"] {
            assert!(input(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
