//! What a task finds when it starts: declared inputs, the directory of its outputs, the bundle of its container.
//!
//! The agent puts the attempt's directory together before the start is ordered, below `prepared/`; the monitor takes it by a
//! rename. So there is never a process that sees half of its inputs, and a repeated start finds the directory taken.
//!
//! An input is always the task's own copy (a reflink where the file system has them). Never a hard link: the task runs as the
//! user that owns the original, or the cached file, and could change it through a link whatever its mode says.

use super::digest::{Cut, Seen, pour_seen};
use super::{Error, Plan, container, outputs, utf8};
use proto::v1::{self, task_spec::Kind};
use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::unix::fs::{OpenOptionsExt as _, lchown};
use std::path::{Component, Path, PathBuf};

/// Whether something must be there before the process starts.
pub(crate) fn needs_preparation(spec: &v1::TaskSpec) -> bool {
    !spec.inputs.is_empty() || !spec.outputs.is_empty() || matches!(spec.kind, Some(Kind::Container(_)))
}

/// A program that is named like a declared input (`./tool`) is that input, also when the task has another working directory.
pub(super) fn resolve(plan: &Plan<'_>, mut argv: Vec<String>) -> Result<Vec<String>, Error> {
    let parts = |path: &str| -> Vec<String> {
        let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
        parts.map(str::to_owned).collect()
    };
    let is_command = matches!(plan.spec.kind, Some(Kind::Command(_) | Kind::Service(_)));
    if let Some(program) = argv.first_mut().filter(|program| is_command && !program.starts_with('/'))
        && program.contains('/')
        && let Some(input) = plan.spec.inputs.iter().find(|input| parts(&input.path) == parts(program))
    {
        *program = utf8(&plan.work_dir()?.join(&input.path))?;
    }
    Ok(argv)
}

/// Why an input is not where the task expects it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// Nobody wants it any more.
    #[error("stopped while its inputs were being fetched")]
    Stopped,
    /// The bytes are others than those that were declared.
    #[error("input {source_name}: its SHA-256 is {found}, not {expected} as declared")]
    Hash { source_name: String, found: String, expected: String },
    /// It is no plain file.
    #[error("input {source_name}: it is no regular file")]
    NotAFile { source_name: String },
    /// It cannot be fetched.
    #[error("input {source_name}: {why}")]
    Fetch { source_name: String, why: String },
    /// Its place is taken.
    #[error("input {source_name}: its path {path} is taken by another input or by what the task's kind puts there")]
    Taken { source_name: String, path: String },
    /// The system's answer.
    #[error("input {source_name}: cannot {what} {}: {error}", file.display())]
    Io { source_name: String, what: &'static str, file: PathBuf, error: io::Error },
    /// A declared output has no place to go.
    #[error(transparent)]
    Output(outputs::Error),
    /// The container's bundle.
    #[error("{0}")]
    Bundle(String),
    /// The directory itself.
    #[error("cannot prepare the directory {}: {error}", dir.display())]
    Directory { dir: PathBuf, error: io::Error },
}

/// Looks whether declared outputs could be published as this machine is now: hours of work are not begun for a directory that was
/// forgotten. It is looked again before they are staged.
pub(crate) fn check_outputs(spec: &v1::TaskSpec) -> Result<(), InputError> {
    outputs::check_destinations(&spec.outputs).map_err(InputError::Output)
}

/// Makes the directories of an attempt, empty, below `dir`.
pub(crate) fn make_dirs(spec: &v1::TaskSpec, dir: &Path) -> Result<(), InputError> {
    let failed = |error| InputError::Directory { dir: dir.to_owned(), error };
    let private = |path: &Path| std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(path);
    private(dir).and_then(|()| private(&dir.join("work"))).map_err(failed)?;
    if !spec.outputs.is_empty() || matches!(spec.kind, Some(Kind::Container(_))) {
        private(&dir.join(outputs::DIR)).map_err(failed)?;
    }
    Ok(())
}

/// What a kind needs besides inputs, and who owns what the task may write.
pub(crate) fn finish(plan: &Plan<'_>, dir: &Path) -> Result<(), InputError> {
    let Some(Kind::Container(kind)) = &plan.spec.kind else { return Ok(()) };
    container::write_bundle(plan, kind, dir).map_err(InputError::Bundle)?;
    let owner = container::user(kind);
    if owner != (0, 0) {
        for path in container::writable(dir) {
            own(&path, owner).map_err(|error| InputError::Directory { dir: path, error })?;
        }
    }
    Ok(())
}

/// Gives a tree of our own making away.
fn own(path: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    lchown(path, Some(user), Some(group))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), (user, group))?;
        }
    }
    Ok(())
}

/// Copies a file to the input's place below `work`. The bytes are compared with the declared hash as they pass, and told as they do.
pub(crate) fn place(
    input: &v1::Input,
    from: &Path,
    work: &Path,
    stopped: &dyn Fn() -> bool,
    seen: Seen<'_>,
) -> Result<(), InputError> {
    let source_name = || input.source.clone();
    let io =
        |what, file: &Path, error| InputError::Io { source_name: source_name(), what, file: file.to_owned(), error };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let found = fs::metadata(from).map_err(|error| io("find", from, error))?;
    if !found.is_file() {
        return Err(InputError::NotAFile { source_name: source_name() });
    }
    let seen = |bytes| seen(bytes, Some(found.len()));
    let mut source = File::open(from).map_err(|error| io("open", from, error))?;
    let (target, mut file) = create(input, work)?;
    // A copy that shares its blocks until one of them is written; where there is none, the bytes are moved.
    let cloned = rustix::fs::ioctl_ficlone(&file, &source).is_ok();
    let passed = match (cloned, input.sha256.is_empty()) {
        (true, true) => return Ok(()),
        (true, false) => pour_seen(&mut source, &mut io::sink(), stopped, &seen),
        (false, _) => {
            file.rewind().map_err(Cut::Write).and_then(|()| pour_seen(&mut source, &mut file, stopped, &seen))
        }
    };
    let passed = passed.map_err(|cut| match cut {
        Cut::Stopped => InputError::Stopped,
        Cut::Read(error) => io("read", from, error),
        Cut::Write(error) => io("write", &target, error),
    })?;
    if !input.sha256.is_empty() && passed.sha256 != input.sha256 {
        let (found, expected) = (passed.sha256, input.sha256.clone());
        return Err(InputError::Hash { source_name: source_name(), found, expected });
    }
    Ok(())
}

/// The input's file, new, and the directories above it.
fn create(input: &v1::Input, work: &Path) -> Result<(PathBuf, File), InputError> {
    let target = work.join(&input.path);
    let taken = || InputError::Taken { source_name: input.source.clone(), path: input.path.clone() };
    // The edge has checked it; an assignment of an older informer may not have been.
    if Path::new(&input.path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(taken());
    }
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => taken(),
        _ => InputError::Io { source_name: input.source.clone(), what: "create", file: target.clone(), error },
    };
    fs::create_dir_all(target.parent().unwrap_or(work)).map_err(failed)?;
    let mode = if input.executable { 0o755 } else { 0o644 };
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target).map_err(failed)?;
    Ok((target, file))
}
