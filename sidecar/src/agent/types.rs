//! Which types of task this sidecar can run, and how: what the informer has registered, and what this process brings along.

use crate::exec;
use crate::executor::{Executor, RemoteService};
use crate::http::Client;
use prost::Message as _;
use proto::v1::executor::Mode;
use proto::{bounds, v1};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Name of the file inside the data directory that keeps the registered executors, so that the next agent has them from its start.
const FILE: &str = "executors";

/// Most executors that one process may bring along: each is a word of the hello, which has room for 32, some of them ours.
const EMBEDDED: usize = 16;

/// How a task of some type is run.
pub(super) enum Way {
    /// As a process.
    Command(v1::Command),
    /// Within this process.
    Within(Arc<dyn Executor>),
}

/// All types that are known here.
#[derive(Default)]
pub(super) struct Types {
    own: BTreeMap<String, Arc<dyn Executor>>,
    registered: BTreeMap<String, v1::Executor>,
    /// Parts of a set that is not whole yet.
    coming: Vec<v1::Executor>,
    client: Client,
}

impl Types {
    /// What this process brings along, and what the last agent was told. A file that cannot be read costs nothing: the informer tells
    /// all of it again.
    pub(super) fn open(data: &Path, own: Vec<Arc<dyn Executor>>) -> Self {
        let own = own.into_iter().map(|executor| (executor.kind().to_owned(), executor)).collect();
        let mut types = Self { own, ..Self::default() };
        match std::fs::read(data.join(FILE)) {
            Ok(bytes) => match v1::Executors::decode(&*bytes) {
                Ok(set) => types.take(set.executors),
                Err(error) => {
                    tracing::warn!(%error, file = FILE, "the kept executors cannot be read; waiting for the informer's word")
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, file = FILE, "the kept executors cannot be read; waiting for the informer's word")
            }
        }
        types
    }

    fn take(&mut self, executors: Vec<v1::Executor>) {
        self.registered = executors.into_iter().map(|executor| (executor.r#type.clone(), executor)).collect();
    }

    /// A part of the registered set. Once it is whole it counts, and is to be kept: see [`keep`].
    pub(super) fn on_executors(&mut self, part: v1::Executors) -> Option<v1::Executors> {
        self.coming.extend(part.executors);
        // More than there can be is a peer that does not know when to stop.
        self.coming.truncate(bounds::EXECUTORS);
        if part.more {
            return None;
        }
        let executors = std::mem::take(&mut self.coming);
        self.take(executors.clone());
        Some(v1::Executors { executors, more: false })
    }

    /// A new link begins a new set.
    pub(super) fn on_welcome(&mut self) {
        self.coming.clear();
    }

    /// How a task of this type is run here; the error is one line for people.
    pub(super) fn way(&self, kind: &str) -> Result<Way, String> {
        match self.registered.get(kind).and_then(|executor| executor.mode.as_ref()) {
            Some(Mode::Command(command)) => Ok(Way::Command(command.clone())),
            Some(Mode::Service(service)) => {
                let poll = Duration::from_millis(service.poll_ms.max(1));
                let client = self.client.clone();
                let service = RemoteService::with_client(kind.to_owned(), &service.url, poll, service.callback, client);
                Ok(Way::Within(Arc::new(service)))
            }
            // Registered as embedded, or not heard of yet: what this process brings along needs nobody's word.
            Some(Mode::Embedded(_)) | None => match self.own.get(kind) {
                Some(executor) => Ok(Way::Within(executor.clone())),
                None => Err(format!("this sidecar has no executor of type {kind:?}")),
            },
        }
    }

    /// The kinds of task to announce; without a keeper only what runs within this process.
    pub(super) fn kinds(&self, keeperless: bool) -> Vec<String> {
        let of_processes = exec::KINDS.into_iter().chain(["typed"]).filter(|_| !keeperless).map(str::to_owned);
        of_processes.chain(self.own.keys().map(|kind| format!("type:{kind}"))).collect()
    }
}

/// Keeps the registered set for the next agent: written beside and renamed, so that it is whole or the last one.
pub(super) fn keep(data: &Path, set: &v1::Executors) -> io::Result<()> {
    let (path, fresh) = (data.join(FILE), data.join(format!("{FILE}.new")));
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&set.encode_to_vec())?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    std::fs::File::open(data)?.sync_all()
}

/// Whether executors can be brought along; the error names what is wrong with them.
pub(super) fn check(own: &[Arc<dyn Executor>]) -> Result<(), String> {
    if own.len() > EMBEDDED {
        return Err(format!("{} executors are too many; one sidecar takes {EMBEDDED}", own.len()));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let mut seen = std::collections::BTreeSet::new();
    for kind in own.iter().map(|executor| executor.kind()) {
        // With "type:" before it, it is a word of the hello.
        if kind.is_empty() || kind.len() > bounds::NAME_BYTES - "type:".len() || !kind.bytes().all(fits) {
            return Err(format!("{kind:?} is no name of a type; use 1 to 250 of the characters A-Z a-z 0-9 . _ -"));
        }
        if !seen.insert(kind) {
            return Err(format!("there are two executors of type {kind:?}; keep one"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Function;

    fn command(kind: &str) -> v1::Executor {
        let mode = Some(Mode::Command(v1::Command { argv: vec!["true".into()] }));
        v1::Executor { r#type: kind.into(), mode, ..Default::default() }
    }

    fn own(kind: &str) -> Arc<dyn Executor> {
        Arc::new(Function::new(kind, |(): ()| async { Ok(()) }))
    }

    #[test]
    fn a_set_counts_when_it_is_whole_and_is_there_at_the_next_start() {
        let data = std::env::temp_dir().join(format!("sidecar-types-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("a directory");
        let mut types = Types::open(&data, Vec::new());
        let part = |kind, more| v1::Executors { executors: vec![command(kind)], more };
        assert_eq!(types.on_executors(part("cut-off", true)), None);
        types.on_welcome();
        assert_eq!(types.on_executors(part("a", true)), None);
        assert!(types.way("a").is_err());
        let set = types.on_executors(part("b", false)).expect("a whole set");
        keep(&data, &set).expect("kept");
        let types = Types::open(&data, Vec::new());
        assert!(matches!(types.way("a"), Ok(Way::Command(_))) && matches!(types.way("b"), Ok(Way::Command(_))));
        assert!(types.way("cut-off").is_err());
        std::fs::write(data.join(FILE), "no set").expect("damaged");
        assert!(Types::open(&data, Vec::new()).way("a").is_err());
        std::fs::remove_dir_all(&data).expect("removed");
    }

    #[test]
    fn a_registered_command_goes_before_an_executor_brought_along() {
        let mut types = Types::open(Path::new("/nowhere"), vec![own("a")]);
        assert!(matches!(types.way("a"), Ok(Way::Within(_))));
        types.on_executors(v1::Executors { executors: vec![command("a")], more: false });
        assert!(matches!(types.way("a"), Ok(Way::Command(_))));
        assert_eq!(types.kinds(true), ["type:a"]);
        assert!(types.kinds(false).contains(&"typed".to_owned()));
    }

    #[test]
    fn executors_have_names_of_their_own() {
        assert!(check(&[own("a"), own("b.c-d_1")]).is_ok());
        assert!(check(&[own("a"), own("a")]).is_err());
        assert!(check(&[own("a b")]).is_err() && check(&[own("")]).is_err());
    }
}
