//! What a task takes in and leaves: declared inputs and outputs.

use super::kind::components;
use super::{Faults, Kind, base_name, shown};
use crate::{bounds, v1};
use std::collections::BTreeSet;

/// Checks inputs and outputs, and names the inputs that name themselves nothing.
pub(super) fn check(spec: &mut v1::TaskSpec, kind: Option<Kind>, faults: &mut Faults) {
    inputs(&mut spec.inputs, faults);
    outputs(&spec.outputs, faults);
    if matches!(kind, Some(Kind::Service | Kind::Transcode)) && !spec.outputs.is_empty() {
        let remedy = "leave them out: a service has no end, and a transcode publishes its own output";
        faults.add("outputs", "this kind has no declared outputs", remedy);
    }
}

fn inputs(inputs: &mut [v1::Input], faults: &mut Faults) {
    faults.count("inputs", inputs.len(), bounds::FILES);
    let mut seen = BTreeSet::new();
    for (index, input) in inputs.iter_mut().take(bounds::FILES).enumerate() {
        let field = |name: &str| format!("inputs[{index}].{name}");
        let url = is_url(&input.source);
        if !url && input.source.contains("://") {
            let problem = format!("{} is neither a path nor a URL that can be fetched", shown(&input.source));
            faults.add(field("source"), problem, "use http:// or https://, or an absolute path");
            continue;
        }
        if url {
            faults.argument(&field("source"), &input.source);
            if input.sha256.is_empty() {
                faults.add(field("sha256"), "a URL needs it", "give the SHA-256 of the file, 64 hex digits");
            }
        } else {
            faults.absolute(&field("source"), &input.source);
        }
        input.sha256.make_ascii_lowercase();
        if !input.sha256.is_empty() && !is_sha256(&input.sha256) {
            let problem = format!("{} is no SHA-256", shown(&input.sha256));
            faults.add(field("sha256"), problem, "give 64 hex digits");
        }
        if input.path.is_empty() {
            let path = if url { input.source.split(['?', '#']).next().unwrap_or_default() } else { &input.source };
            input.path = base_name(path).unwrap_or_default();
        }
        below(&field("path"), &input.path, faults);
        if !seen.insert(components(&input.path).map(str::to_owned).collect::<Vec<_>>()) {
            faults.add(
                field("path"),
                format!("{} is another input's too", shown(&input.path)),
                "give each a path of its own",
            );
        }
    }
}

fn outputs(outputs: &[v1::Output], faults: &mut Faults) {
    faults.count("outputs", outputs.len(), bounds::FILES);
    let mut seen = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for (index, output) in outputs.iter().take(bounds::FILES).enumerate() {
        below(&format!("outputs[{index}].path"), &output.path, faults);
        if !paths.insert(components(&output.path).collect::<Vec<_>>()) {
            let problem = format!("{} is another output's too", shown(&output.path));
            faults.add(format!("outputs[{index}].path"), problem, "publish each file once, and copy it in the task");
        }
        let field = format!("outputs[{index}].destination");
        let name = components(&output.destination).last().unwrap_or_default();
        if name.starts_with('.') && (name.ends_with(".fence") || name.ends_with(".part")) {
            let problem = format!("{} is a name that publishing needs for itself", shown(name));
            faults.add(field.as_str(), problem, "use another");
        }
        faults.absolute(&field, &output.destination);
        if output.destination.ends_with('/') || components(&output.destination).next().is_none() {
            faults.add(
                field,
                format!("{} is a directory", shown(&output.destination)),
                "give the absolute path of a file",
            );
        } else if !seen.insert(components(&output.destination).collect::<Vec<_>>()) {
            faults.add(field, "it is another output's too", "give each a destination of its own");
        }
    }
}

/// A relative path that stays below the directory it starts in.
fn below(field: &str, path: &str, faults: &mut Faults) {
    faults.argument(field, path);
    let leaves =
        path.is_empty() || path.starts_with('/') || path.ends_with('/') || path.split('/').any(|part| part == "..");
    if leaves || components(path).next().is_none() {
        let problem = format!("{} is no path of a file below the task's directory", shown(path));
        faults.add(field, problem, "use a relative path without ..");
    }
}

/// Whether a source is fetched, not copied.
#[must_use]
pub fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
