//! What is to be run: a command, a script, a fetched executable, a registered type, or a command in a container.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use proto::v1::{self, TaskSpec, task_spec::Kind};

use super::files::{self, Source};
use crate::cli::{error::Error, file};

/// Longest script, or input of a type, taken from a file, in bytes: the informer refuses larger payloads; reading stops there rather
/// than at the end of somebody's disk image.
const TEXT_BYTES: u64 = proto::bounds::PAYLOAD_BYTES as u64;

/// The options that say what runs.
#[derive(Debug, Default, Args)]
pub(crate) struct WorkOptions {
    /// Run this file as a script; ARGs after -- are its arguments
    #[arg(long, value_name = "FILE", conflicts_with_all = ["type_name", "image", "executable"])]
    pub(crate) script: Option<PathBuf>,
    /// What runs the script [default: /bin/sh]
    #[arg(long, value_name = "PROGRAM", requires = "script")]
    pub(crate) interpreter: Option<String>,
    /// Run this file: it is brought into the task's directory, as with --in, and started there; ARGs after -- are its arguments
    #[arg(long, value_name = "SOURCE[#sha256:HEX][=PATH]", value_parser = files::source, conflicts_with_all = ["type_name", "image"])]
    pub(crate) executable: Option<Source>,
    /// Run what is registered under this type (`informer executor list`)
    #[arg(long = "type", id = "type_name", value_name = "TYPE", conflicts_with_all = ["image", "command"])]
    pub(crate) type_name: Option<String>,
    /// What the task of a type is given
    #[arg(long, value_name = "TEXT", conflicts_with = "input_file")]
    pub(crate) input: Option<String>,
    /// The same from a file ("-": standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) input_file: Option<PathBuf>,
    /// Run the command in a container whose root is this directory, an unpacked image; it is not written
    #[arg(long, value_name = "DIR")]
    pub(crate) image: Option<PathBuf>,
    /// Show the container a file or directory of the sidecar's machine, read-only unless :rw (repeat for more)
    #[arg(long = "mount", value_name = "SRC:DST[:rw]", value_parser = mount, requires = "image")]
    pub(crate) mounts: Vec<v1::container::Mount>,
    /// The container's network [default: none]
    #[arg(long, requires = "image")]
    pub(crate) network: Option<Network>,
    /// Who the command is in the container, in numbers [default: 0:0]
    #[arg(long, value_name = "UID[:GID]", requires = "image")]
    pub(crate) user: Option<String>,
    /// The program and its arguments
    #[arg(last = true, value_name = "CMD ARG")]
    pub(crate) command: Vec<String>,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Loopback only
    None,
    /// The machine's own
    Host,
}

impl WorkOptions {
    pub(super) fn has_executable(&self) -> bool {
        self.executable.is_some()
    }

    /// Refuses what is only of use beside an option that is not there. The parser lets it pass where that option would contradict
    /// another one.
    ///
    /// # Errors
    /// [`Error::Misuse`] names the option that is missing.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.image.is_none() && (!self.mounts.is_empty() || self.network.is_some() || self.user.is_some()) {
            return Err(Error::Misuse("--mount, --network and --user are for containers; add --image DIR".into()));
        }
        if self.script.is_none() && self.interpreter.is_some() {
            return Err(Error::Misuse("--interpreter is for scripts; add --script FILE".into()));
        }
        Ok(())
    }

    /// What is to be run, and the executable that must be there for it.
    ///
    /// # Errors
    /// Nothing to run, or a file that cannot be read.
    pub(super) fn kind(&self) -> Result<(Kind, Option<v1::Input>), Error> {
        if self.type_name.is_none() && (self.input.is_some() || self.input_file.is_some()) {
            return Err(Error::Misuse("an input is for a type; add --type TYPE, or use --in for a file".into()));
        }
        if let Some(path) = &self.script {
            let interpreter = self.interpreter.clone().unwrap_or_default();
            let body = file::read_bounded(path, TEXT_BYTES)?;
            return Ok((Kind::Script(v1::Script { interpreter, body, args: self.command.clone() }), None));
        }
        if let Some(source) = &self.executable {
            let program = std::iter::once(format!("./{}", source.place()));
            let argv = program.chain(self.command.iter().cloned()).collect();
            return Ok((Kind::Command(v1::Command { argv }), Some(source.wire(true)?)));
        }
        if let Some(name) = &self.type_name {
            let input = self.typed_input()?.unwrap_or_default();
            return Ok((Kind::Typed(v1::Typed { r#type: name.clone(), input }), None));
        }
        if self.command.is_empty() {
            return Err(Error::Misuse(
                "there is nothing to run; give a program after --, as in `informer run -- echo hello`, or --script FILE, --type TYPE or -f FILE"
                    .into(),
            ));
        }
        let argv = self.command.clone();
        match &self.image {
            Some(image) => self.container(image, argv).map(|container| (Kind::Container(container), None)),
            None => Ok((Kind::Command(v1::Command { argv }), None)),
        }
    }

    /// An input given beside a task file overrides that of the file.
    ///
    /// # Errors
    /// The file's task takes none, or the input cannot be read.
    pub(super) fn override_input(&self, spec: &mut TaskSpec) -> Result<(), Error> {
        let Some(input) = self.typed_input()? else { return Ok(()) };
        match &mut spec.kind {
            Some(Kind::Typed(typed)) => {
                typed.input = input;
                Ok(())
            }
            _ => Err(Error::Misuse(
                "the file's task is of no registered type, so it takes no input; use --in for a file".into(),
            )),
        }
    }

    fn typed_input(&self) -> Result<Option<String>, Error> {
        match (&self.input, &self.input_file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => file::read_bounded(path, TEXT_BYTES).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn container(&self, image: &Path, argv: Vec<String>) -> Result<v1::Container, Error> {
        let mount = |mount: &v1::container::Mount| {
            let source = file::absolute(Path::new(&mount.source))?;
            Ok(v1::container::Mount { source, ..mount.clone() })
        };
        let network = match self.network {
            None => v1::container::Network::Unspecified,
            Some(Network::None) => v1::container::Network::None,
            Some(Network::Host) => v1::container::Network::Host,
        };
        Ok(v1::Container {
            image: file::absolute(image)?,
            argv,
            mounts: self.mounts.iter().map(mount).collect::<Result<_, Error>>()?,
            network: network.into(),
            user: self.user.clone().unwrap_or_default(),
        })
    }
}

/// `SRC:DST[:rw]`; `:ro` says what holds anyhow.
fn mount(text: &str) -> Result<v1::container::Mount, String> {
    let (paths, writable) = match text.rsplit_once(':') {
        Some((paths, "rw")) => (paths, true),
        Some((paths, "ro")) => (paths, false),
        _ => (text, false),
    };
    match paths.split_once(':') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') && !target.contains(':') => {
            Ok(v1::container::Mount { source: source.to_owned(), target: target.to_owned(), writable })
        }
        _ => Err("write SRC:DST or SRC:DST:rw, where DST is an absolute path in the container".to_owned()),
    }
}
