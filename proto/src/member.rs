//! What tells one member of an array from another in its files: `{index}` in the paths of the template.

use crate::v1;

/// Stands for a member's index in the paths of an array's files.
pub const PLACE: &str = "{index}";

/// The template with the member's index in its paths: where inputs come from, where outputs go, both of a transcode.
pub fn fill(spec: &mut v1::TaskSpec, index: u32) {
    let index = index.to_string();
    let fill = |path: &mut String| {
        if path.contains(PLACE) {
            *path = path.replace(PLACE, &index);
        }
    };
    spec.inputs.iter_mut().for_each(|input| fill(&mut input.source));
    spec.outputs.iter_mut().for_each(|output| fill(&mut output.destination));
    if let Some(v1::task_spec::Kind::Transcode(transcode)) = &mut spec.kind {
        fill(&mut transcode.input);
        fill(&mut transcode.output);
    }
}

/// A path of a single task in which [`PLACE`] stands as if the task were the template of an array. Nobody would fill it in, and the task
/// would leave a file of that very name, or look for one.
#[must_use]
pub fn unfilled(spec: &v1::TaskSpec) -> Option<&str> {
    let transcode = match &spec.kind {
        Some(v1::task_spec::Kind::Transcode(transcode)) => [transcode.input.as_str(), transcode.output.as_str()],
        _ => [""; 2],
    };
    let sources = spec.inputs.iter().map(|input| input.source.as_str());
    let destinations = spec.outputs.iter().map(|output| output.destination.as_str());
    sources.chain(destinations).chain(transcode).find(|path| path.contains(PLACE))
}

/// A place to which two members of an array of this template might put a file: one without the index, or two that differ in digits
/// beside it only, like `a{index}` and `a1{index}`.
#[must_use]
pub fn shared_destination(spec: &v1::TaskSpec) -> Option<&str> {
    let transcoded = match &spec.kind {
        Some(v1::task_spec::Kind::Transcode(transcode)) => Some(transcode.output.as_str()),
        _ => None,
    };
    let mut shapes = std::collections::BTreeSet::new();
    let mut places = spec.outputs.iter().map(|output| output.destination.as_str()).chain(transcoded);
    places.find(|place| !place.contains(PLACE) || !shapes.insert(shape(place)))
}

/// The place with every run of digits and indices as one `#`: two that can be equal for any indices have one shape.
fn shape(place: &str) -> String {
    let mut shape = String::new();
    for c in place.replace(PLACE, "0").chars() {
        match c {
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            other => shape.push(other),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::task_spec::Kind;

    #[test]
    fn each_member_has_files_of_its_own() {
        let mut spec = v1::TaskSpec {
            inputs: vec![v1::Input { source: "/in/{index}.csv".into(), path: "in.csv".into(), ..Default::default() }],
            outputs: vec![v1::Output {
                path: "{index}".into(),
                destination: "/out/{index}/a-{index}".into(),
                optional: false,
            }],
            ..Default::default()
        };
        assert_eq!(shared_destination(&spec), None);
        fill(&mut spec, 7);
        assert_eq!((&*spec.inputs[0].source, &*spec.outputs[0].destination), ("/in/7.csv", "/out/7/a-7"));
        assert_eq!(spec.outputs[0].path, "{index}", "what a task writes below TASK_OUTPUTS is its own affair");
        assert_eq!(shared_destination(&spec), Some("/out/7/a-7"));
    }

    #[test]
    fn a_single_task_has_no_index_to_fill_in() {
        let output = |path: &str, destination: &str| v1::TaskSpec {
            outputs: vec![v1::Output { path: path.into(), destination: destination.into(), optional: false }],
            ..Default::default()
        };
        assert_eq!(unfilled(&output("a", "/out/{index}.txt")), Some("/out/{index}.txt"));
        assert_eq!(unfilled(&output("{index}", "/out/a")), None, "what it writes below TASK_OUTPUTS is its own affair");
        let input = v1::Input { source: "/in/{index}.csv".into(), ..Default::default() };
        assert!(unfilled(&v1::TaskSpec { inputs: vec![input], ..Default::default() }).is_some());
        let film = v1::Transcode { input: "/in/a.mp4".into(), output: "/out/{index}.mp4".into(), ..Default::default() };
        let kind = Some(v1::task_spec::Kind::Transcode(film));
        assert_eq!(unfilled(&v1::TaskSpec { kind, ..Default::default() }), Some("/out/{index}.mp4"));
    }

    #[test]
    fn no_two_members_meet_through_two_outputs() {
        let of = |destinations: [&str; 2]| {
            let output = |place: &str| v1::Output { destination: place.into(), ..Default::default() };
            let spec = v1::TaskSpec { outputs: destinations.map(output).into(), ..Default::default() };
            shared_destination(&spec).map(str::to_owned)
        };
        assert_eq!(of(["/d/z{index}.txt", "/d/z1{index}.txt"]).as_deref(), Some("/d/z1{index}.txt"));
        assert_eq!(of(["/d/1/{index}", "/d/{index}/1"]).as_deref(), Some("/d/{index}/1"));
        assert_eq!(of(["/d/{index}.txt", "/d/{index}.log"]), None);
    }

    #[test]
    fn so_has_each_transcode() {
        let transcode =
            v1::Transcode { input: "/in/{index}.mp4".into(), output: "/out/x.mp4".into(), ..Default::default() };
        let mut spec = v1::TaskSpec { kind: Some(Kind::Transcode(transcode)), ..Default::default() };
        assert_eq!(shared_destination(&spec), Some("/out/x.mp4"));
        fill(&mut spec, 3);
        assert!(matches!(&spec.kind, Some(Kind::Transcode(transcode)) if transcode.input == "/in/3.mp4"), "{spec:?}");
    }
}
