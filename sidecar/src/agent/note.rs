//! What an agent writes into an attempt's record at its start, for a later agent whose ledger does not know the attempt.

use crate::machine::{Facts, Note};
use prost::Message as _;
use proto::v1;
use proto::v1::task_spec::Kind;

/// The keeper's bound on a note.
const NOTE_BYTES: usize = 4096;

/// The assignment without what only the start needs.
pub(super) fn write(assign: &v1::Assign) -> Vec<u8> {
    let full = assign.spec.clone().unwrap_or_default();
    // Where outputs go, how health is checked and how the end is classified is needed again; what was run is in the record itself.
    let kind = full.kind.map(|kind| match kind {
        Kind::Command(_) => Kind::Command(v1::Command::default()),
        Kind::Script(_) => Kind::Script(v1::Script::default()),
        Kind::Service(service) => Kind::Service(v1::Service { argv: Vec::new(), ..service }),
        Kind::Transcode(transcode) => Kind::Transcode(v1::Transcode { args: Vec::new(), ..transcode }),
        Kind::Typed(typed) => Kind::Typed(v1::Typed { input: String::new(), ..typed }),
        Kind::Container(_) => Kind::Container(v1::Container::default()),
        Kind::Http(_) => Kind::Http(v1::Http::default()),
    });
    let spec = v1::TaskSpec {
        on_disconnect: full.on_disconnect,
        exclusive: full.exclusive,
        timeouts: full.timeouts,
        cwd: full.cwd,
        // While the informer has set it aside, it must not give away what it takes.
        resources: full.resources,
        outputs: full.outputs,
        kind,
        ..Default::default()
    };
    let has_outputs = !spec.outputs.is_empty();
    let mut note = v1::Assign { spec: Some(spec), item: String::new(), input: String::new(), ..assign.clone() };
    if note.encoded_len() > NOTE_BYTES {
        // Its end is then told without the kind's own words. That there were outputs stays known: without them it is no success.
        let outputs = if has_outputs { vec![v1::Output::default()] } else { Vec::new() };
        note.spec = Some(v1::TaskSpec {
            on_disconnect: full.on_disconnect,
            resources: full.resources,
            outputs,
            ..Default::default()
        });
    }
    note.encode_to_vec()
}

/// Reads a note; `None` if it is none of ours.
pub(super) fn read(note: &[u8]) -> Option<v1::Assign> {
    v1::Assign::decode(note).ok().filter(|assign| assign.attempt.is_some())
}

/// What the machine needs of it.
pub(super) fn facts(assign: &v1::Assign) -> Option<Note> {
    let spec = assign.spec.as_ref()?;
    Some(Note { fence: assign.fence?.into(), facts: facts_of(spec) })
}

/// What decisions need of a spec.
pub(super) fn facts_of(spec: &v1::TaskSpec) -> Facts {
    Facts { stop_on_disconnect: spec.on_disconnect() == v1::OnDisconnect::Stop }
}
