//! `--in`, `--out`: files that an attempt finds, and files that it leaves.

use std::path::Path;

use clap::Args;
use proto::{check, v1};

use crate::cli::{error::Error, file};

/// What stands before the hash of a source.
const HASH: &str = "#sha256:";
/// Hex digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// The options about files.
#[derive(Debug, Default, Args)]
pub(crate) struct FileOptions {
    /// File that the task finds in its directory: a path, or a URL with the hash of its bytes; at PATH there [default: its base
    /// name] (repeat for more)
    #[arg(long = "in", value_name = "SOURCE[#sha256:HEX][=PATH]", value_parser = source)]
    inputs: Vec<Source>,
    /// File that the task leaves at PATH below TASK_OUTPUTS, put to DESTINATION once it has succeeded (repeat for more)
    #[arg(long = "out", value_name = "PATH=DESTINATION", value_parser = output)]
    outputs: Vec<(String, String)>,
}

/// Where a file comes from, and where the task finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    source: String,
    sha256: String,
    path: String,
}

impl FileOptions {
    pub(super) fn inputs(&self) -> Result<Vec<v1::Input>, Error> {
        self.inputs.iter().map(|input| input.wire(false)).collect()
    }

    pub(super) fn outputs(&self) -> Result<Vec<v1::Output>, Error> {
        let wire = |(path, destination): &(String, String)| {
            let mut absolute = file::absolute(Path::new(destination))?;
            // Kept, so that the informer refuses a directory with the reason.
            if destination.ends_with('/') && !absolute.ends_with('/') {
                absolute.push('/');
            }
            Ok(v1::Output { path: path.clone(), destination: absolute, optional: false })
        };
        self.outputs.iter().map(wire).collect()
    }
}

impl Source {
    /// As the informer takes it; a path is relative to where the user stands.
    pub(super) fn wire(&self, executable: bool) -> Result<v1::Input, Error> {
        let source = match check::is_url(&self.source) {
            true => self.source.clone(),
            false => file::absolute(Path::new(&self.source))?,
        };
        Ok(v1::Input { source, sha256: self.sha256.clone(), path: self.path.clone(), executable })
    }

    /// Where the task finds it.
    pub(super) fn place(&self) -> &str {
        if !self.path.is_empty() {
            return &self.path;
        }
        let source = match check::is_url(&self.source) {
            true => self.source.split(['?', '#']).next().unwrap_or_default(),
            false => &self.source,
        };
        source.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

/// `SOURCE[#sha256:HEX][=PATH]`. The hash parts the two without doubt; without it, or with PATH before it, the last `=` does,
/// unless SOURCE is a URL with a query, in which `=` is nothing special.
pub(super) fn source(text: &str) -> Result<Source, String> {
    let (before, after) = match text.rsplit_once(HASH) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    let split = |text: &str| match text.rsplit_once('=') {
        Some((source, path)) if !(check::is_url(text) && text.contains('?')) => {
            (source.to_owned(), Some(path.to_owned()))
        }
        _ => (text.to_owned(), None),
    };
    let (source, sha256, path) = match after {
        None => {
            let (source, path) = split(before);
            (source, String::new(), path)
        }
        Some(after) => match after.split_once('=') {
            Some((hash, path)) => (before.to_owned(), hash.to_owned(), Some(path.to_owned())),
            None => {
                let (source, path) = split(before);
                (source, after.to_owned(), path)
            }
        },
    };
    if after.is_some() && (sha256.len() != HASH_DIGITS || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(format!("{sha256:?} is no SHA-256; write its {HASH_DIGITS} hex digits, as sha256sum prints them"));
    }
    if source.is_empty() || path.as_deref() == Some("") {
        return Err("a part is empty; write SOURCE, SOURCE=PATH or SOURCE#sha256:HEX=PATH".to_owned());
    }
    if check::is_url(&source) && sha256.is_empty() {
        return Err("a URL needs the hash of its bytes; write URL#sha256:HEX".to_owned());
    }
    Ok(Source { source, sha256: sha256.to_ascii_lowercase(), path: path.unwrap_or_default() })
}

fn output(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, destination)) if !path.is_empty() && !destination.is_empty() => {
            Ok((path.to_owned(), destination.to_owned()))
        }
        _ => Err("write PATH=DESTINATION: where the task leaves it, and where it is put".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sources_are_parted_from_hash_and_place() {
        let url = "http://h:1/a/film.mp4";
        let table = [
            ("film.mp4".to_owned(), ("film.mp4", "", "", "film.mp4")),
            ("/in/film.mp4=a.mp4".to_owned(), ("/in/film.mp4", "", "a.mp4", "a.mp4")),
            (format!("{url}#sha256:{HEX}"), (url, HEX, "", "film.mp4")),
            (format!("{url}#sha256:{HEX}=a.mp4"), (url, HEX, "a.mp4", "a.mp4")),
            (format!("{url}=a.mp4#sha256:{HEX}"), (url, HEX, "a.mp4", "a.mp4")),
            (format!("{url}?sig=x#sha256:{HEX}"), ("http://h:1/a/film.mp4?sig=x", HEX, "", "film.mp4")),
            (format!("/a=b#sha256:{HEX}=c=d"), ("/a=b", HEX, "c=d", "c=d")),
            (format!("x#sha256:{}", HEX.to_ascii_uppercase()), ("x", HEX, "", "x")),
        ];
        for (text, (from, sha256, path, place)) in table {
            let read = source(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (read.source.as_str(), read.sha256.as_str(), read.path.as_str()),
                (from, sha256, path),
                "{text}"
            );
            assert_eq!(read.place(), place, "{text}");
        }
        let bad =
            [("", "empty"), ("=a", "empty"), ("a=", "empty"), (url, "needs the hash"), ("a#sha256:12", "no SHA-256")];
        for (text, problem) in bad {
            let error = source(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn paths_become_absolute_and_a_directory_stays_one() {
        let here = std::env::current_dir().expect("a directory");
        let read = source("x/../film.mp4").expect("a source").wire(true).expect("an input");
        assert_eq!((Path::new(&read.source), read.executable), (here.join("film.mp4").as_path(), true));
        let options = FileOptions { inputs: Vec::new(), outputs: vec![("a".into(), "/out/".into())] };
        assert_eq!(options.outputs().expect("outputs")[0].destination, "/out/");
        assert!(output("a").is_err() && output("=b").is_err() && output("a=").is_err());
    }
}
