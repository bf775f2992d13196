//! Putting the directories of attempts together before they start, each in a thread of its own: a slow server or a large file
//! delays nobody but the task that wants it.
//!
//! ```text
//! StartAttempt ─ nothing to prepare? ─▶ order of the keeper
//!       └─ prepare ─▶ prepared/.<attempt> ─ inputs, outputs/, bundle/ ─ rename ─▶ prepared/<attempt> ─ Prepared ─▶ StartAttempt again
//! ```
//!
//! Bounded by the slots: an attempt that is being prepared has one.

use super::cache::{self, Cache};
use super::fetch::{self, Stop};
use super::shell::Input;
use super::{Dirs, clock, failpoint};
use crate::exec::inputs::{self, InputError};
use crate::exec::{self, Plan};
use crate::machine::{Event, Notice, Refusal};
use proto::id::{AttemptId, Fence};
use proto::v1;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};
use tokio::sync::mpsc;

/// Which boot what lies below `prepared/` is of: after a power loss its files may be torn.
const BOOT: &str = ".boot";

/// Least time between two words on how far a fetch is: a beat carries only the last of them.
const TELL_MS: u64 = 1000;
const MIB: u64 = 1 << 20;

#[derive(Debug)]
enum State {
    Working(Stop),
    Ready,
}

/// Everything a thread needs.
struct Shared {
    dirs: Dirs,
    crun: Option<PathBuf>,
    base_env: Vec<(String, String)>,
    cache: Cache,
    inbox: mpsc::Sender<Input>,
    states: Mutex<BTreeMap<AttemptId, State>>,
}

/// The preparations of all attempts.
pub(super) struct Inputs(Arc<Shared>);

/// Removes what an earlier agent prepared for attempts that will not start, and everything of an earlier boot.
pub(super) fn clean(dirs: &Dirs, boot_id: &str, wanted: impl Fn(AttemptId) -> bool) -> io::Result<()> {
    let root = dirs.data.join(keeper::record::PREPARED);
    let same_boot = fs::read_to_string(root.join(BOOT)).is_ok_and(|found| found == boot_id);
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        let attempt = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if !(same_boot && attempt.is_some_and(&wanted)) {
            // The marker is a file, which this leaves alone.
            let _file = fs::remove_dir_all(entry.path());
        }
    }
    Cache::new(&dirs.data).clean();
    if same_boot {
        return Ok(());
    }
    fs::create_dir_all(&root)?;
    fs::write(root.join(BOOT), boot_id)
}

impl Inputs {
    pub(super) fn new(dirs: Dirs, crun: Option<PathBuf>, inbox: mpsc::Sender<Input>) -> Self {
        let cache = Cache::new(&dirs.data);
        let base_env = exec::base_env();
        Self(Arc::new(Shared { dirs, crun, base_env, cache, inbox, states: Mutex::default() }))
    }

    /// The `crun` that works here.
    pub(super) fn crun(&self) -> Option<&Path> {
        self.0.crun.as_deref()
    }

    /// Whether the attempt may be ordered to start now. True once after each preparation: the order takes what was prepared.
    pub(super) fn take_ready(&self, attempt: AttemptId) -> bool {
        let mut states = self.0.states();
        let ready = matches!(states.get(&attempt), Some(State::Ready));
        if ready {
            states.remove(&attempt);
        }
        ready
    }

    /// Begins, unless it has begun; answered by [`Notice::Prepared`] or a refusal.
    pub(super) fn prepare(&self, attempt: AttemptId, fence: Fence, assign: Arc<v1::Assign>) -> io::Result<()> {
        let stop = Stop::new();
        let mut states = self.0.states();
        if states.contains_key(&attempt) {
            return Ok(());
        }
        let (shared, stopped) = (self.0.clone(), stop.clone());
        let work = move || shared.run(attempt, fence, &assign, &stopped);
        std::thread::Builder::new().name("inputs".into()).spawn(work)?;
        states.insert(attempt, State::Working(stop));
        Ok(())
    }

    /// Nobody wants it any more; it is answered like one that failed.
    pub(super) fn stop(&self, attempt: AttemptId) {
        if let Some(State::Working(stop)) = self.0.states().get(&attempt) {
            stop.stop();
        }
        self.0.cache.wake();
    }

    /// The attempt is over.
    pub(super) fn forget(&self, attempt: AttemptId) {
        self.stop(attempt);
        self.0.states().remove(&attempt);
    }
}

impl Shared {
    fn states(&self) -> MutexGuard<'_, BTreeMap<AttemptId, State>> {
        // No code panics while it holds the lock, and a map of finished inserts is whole anyway.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, attempt: AttemptId, fence: Fence, assign: &v1::Assign, stop: &Stop) {
        failpoint::reach("before-prepare");
        let prepared = self.prepare(attempt, fence, assign, stop);
        failpoint::reach("after-prepare");
        let notice = match prepared {
            Ok(()) => Notice::Prepared,
            Err(error) => {
                let message = error.to_string();
                let refusal = match error {
                    InputError::Output(_) => Refusal::Task,
                    // No input would come in here now, whoever's it is.
                    _ if exec::tells_of_lack(&message) => Refusal::Failed,
                    _ => Refusal::Input,
                };
                Notice::Refused { refusal, message }
            }
        };
        {
            let mut states = self.states();
            match notice {
                Notice::Prepared if states.contains_key(&attempt) => states.insert(attempt, State::Ready),
                _ => states.remove(&attempt),
            };
        }
        // Without a loop there is nobody to tell, and the agent is ending.
        let _gone = self.inbox.blocking_send(Input::Event(Event::Noticed { attempt, notice }));
    }

    fn prepare(&self, attempt: AttemptId, fence: Fence, assign: &v1::Assign, stop: &Stop) -> Result<(), InputError> {
        let Some(spec) = &assign.spec else { return Ok(()) };
        let root = self.dirs.data.join(keeper::record::PREPARED);
        let (ready, dir) = (root.join(attempt.dir_name()), root.join(format!(".{}", attempt.dir_name())));
        if ready.exists() {
            // Of an order that never reached the keeper.
            return Ok(());
        }
        let failed = |error| InputError::Directory { dir: dir.clone(), error };
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let plan = Plan {
            attempt,
            fence,
            task_name: &assign.task_name,
            spec,
            item: assign.has_item.then_some(&assign.item),
            data_dir: &self.dirs.data,
            exe: &self.dirs.exe,
            crun: self.crun.as_deref(),
            base_env: &self.base_env,
            fence_grace_ms: 0,
        };
        inputs::check_outputs(spec)?;
        let done = fs::create_dir_all(&root).map_err(failed).and_then(|()| {
            inputs::make_dirs(spec, &dir)?;
            for (index, input) in spec.inputs.iter().enumerate() {
                let place = if spec.inputs.len() > 1 {
                    format!(" ({} of {})", index + 1, spec.inputs.len())
                } else {
                    String::new()
                };
                let telling = Telling { shared: self, attempt, place, told_ms: Cell::new(None) };
                self.bring(input, &dir.join("work"), stop, &telling)?;
            }
            inputs::finish(&plan, &dir)?;
            fs::rename(&dir, &ready).map_err(failed)
        });
        if done.is_err() {
            // What is left is removed with the next try or at the next start.
            let _gone = fs::remove_dir_all(&dir);
        }
        done
    }

    fn bring(&self, input: &v1::Input, work: &Path, stop: &Stop, telling: &Telling<'_>) -> Result<(), InputError> {
        let place = |from: &Path| {
            let copied = |bytes, total| telling.tell("copying", bytes, total);
            inputs::place(input, from, work, &|| stop.is_stopped(), &copied)
        };
        if !proto::check::is_url(&input.source) {
            return place(Path::new(&input.source));
        }
        let obtain = || {
            let fetched = |bytes, total| telling.tell("fetching", bytes, total);
            self.cache.obtain(&input.sha256, &input.source, stop, &fetched).map_err(|error| match error {
                cache::Error::Fetch(fetch::Error::Stopped) => InputError::Stopped,
                error => InputError::Fetch { source_name: input.source.clone(), why: error.to_string() },
            })
        };
        let pinned = obtain()?;
        match place(&pinned.path()) {
            // Somebody wrote to the cached file: it is fetched again, once.
            Err(InputError::Hash { .. }) => {
                self.cache.reject(pinned);
                let _wrong = fs::remove_file(work.join(&input.path));
                place(&obtain()?.path())
            }
            placed => placed,
        }
    }
}

/// Says how far one input of an attempt is, as the attempt's progress.
struct Telling<'a> {
    shared: &'a Shared,
    attempt: AttemptId,
    /// Which of the inputs it is, if there are several.
    place: String,
    told_ms: Cell<Option<u64>>,
}

impl Telling<'_> {
    /// What is done with it, how many of its bytes have come, and how many there are where that is known.
    fn tell(&self, doing: &str, bytes: u64, total: Option<u64>) {
        let now_ms = clock::boot_ms();
        if self.told_ms.get().is_some_and(|told| now_ms.saturating_sub(told) < TELL_MS) {
            return;
        }
        self.told_ms.set(Some(now_ms));
        let progress = v1::Progress { note: far(doing, &self.place, bytes, total), ..v1::Progress::default() };
        let event = Event::Progressed { attempt: self.attempt, progress };
        // A full inbox has more important things to do; the next word comes in a second.
        let _told = self.shared.inbox.try_send(Input::Event(event));
    }
}

/// How far a fetch or a copy is, for people.
fn far(doing: &str, place: &str, bytes: u64, total: Option<u64>) -> String {
    match (bytes, total) {
        (0, None) => format!("{doing} inputs{place}"),
        (bytes, Some(total)) => format!("{doing} inputs{place}: {} of {} MiB", bytes / MIB, total.div_ceil(MIB)),
        (bytes, None) => format!("{doing} inputs{place}: {} MiB", bytes / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::digest::pour;

    #[test]
    fn how_far_an_input_is_reads_well() {
        assert_eq!(far("fetching", "", 0, None), "fetching inputs");
        assert_eq!(far("fetching", " (2 of 3)", 5 * MIB, None), "fetching inputs (2 of 3): 5 MiB");
        assert_eq!(far("copying", "", 0, Some(1)), "copying inputs: 0 of 1 MiB");
        assert_eq!(far("copying", "", 3 * MIB + 1, Some(7 * MIB)), "copying inputs: 3 of 7 MiB");
    }

    /// A copy, told to an agent's loop.
    fn copied(bytes: u64) -> Vec<v1::Progress> {
        let data = std::env::temp_dir().join(format!("sidecar-inputs-{}-{bytes}", std::process::id()));
        fs::create_dir_all(data.join("work")).expect("a directory");
        let source = data.join("source");
        fs::File::create(&source).and_then(|file| file.set_len(bytes)).expect("a file");
        let (inbox, mut told) = mpsc::channel(64);
        let dirs = Dirs { data: data.clone(), exe: PathBuf::new(), keeper_exe: PathBuf::new() };
        let inputs = Inputs::new(dirs, None, inbox);
        let attempt = AttemptId { task: proto::id::TaskId::from_u128(1), number: 1 };
        let telling = Telling { shared: &inputs.0, attempt, place: String::new(), told_ms: Cell::new(None) };
        // With a hash, the bytes are read also where the file system shares blocks.
        let mut bytes = fs::File::open(&source).expect("the file");
        let sha256 = pour(&mut bytes, &mut io::sink(), &|| false).expect("it is read").sha256;
        let source = source.to_string_lossy().into_owned();
        let input = v1::Input { source, sha256, path: "f".into(), executable: false };
        inputs.0.bring(&input, &data.join("work"), &Stop::new(), &telling).expect("a copy");
        fs::remove_dir_all(&data).expect("removed");
        let mut progress = Vec::new();
        while let Ok(Input::Event(Event::Progressed { attempt: of, progress: told })) = told.try_recv() {
            assert_eq!(of, attempt);
            progress.push(told);
        }
        progress
    }

    #[test]
    fn a_copy_on_this_machine_tells_how_far_it_is_as_a_fetch_does() {
        let told = copied(3 * MIB);
        assert_eq!(told.first().map(|first| first.note.as_str()), Some("copying inputs: 0 of 3 MiB"));
    }
}
