//! What an informer is started with, and what of it contradicts itself.

use super::Error;
use crate::shell::Retention;
use proto::bounds;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Beats in a lease that may be configured. With one, each late beat would be a loss; with the most and the longest beat nothing that is
/// lost is replaced for an hour.
pub(crate) const LEASE_BEATS: RangeInclusive<u64> = 2..=60;
/// What an informer is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where it listens; port 0 takes a free one. Other than on loopback, TLS and a token must be in [`Options::security`].
    pub listen: SocketAddr,
    /// Its data directory; made if it is not there.
    pub data: PathBuf,
    /// Beat interval that sidecars are told, milliseconds, in [`bounds::BEAT_RANGE_MS`].
    pub beat_ms: u64,
    /// Beats in a lease, 2 to 60: after that many missed ones a sidecar is lost.
    pub lease_beats: u64,
    /// Longest kill delay after a lease's end, milliseconds.
    pub fence_grace_ms: u64,
    /// Start `exclusive` tasks at once even if sidecars have seen a later state than this store: the operator vouches that no copy
    /// runs which it does not know of. A database that lacks commits which were acknowledged is taken as an older copy that is meant.
    pub accept_restored: bool,
    /// What it shows and demands of those who connect.
    pub security: Security,
    /// How long ended tasks are kept.
    pub retention: Retention,
    /// Which logs are stored here.
    pub log_upload: LogUpload,
    /// Weights of owners in the fair share; an owner that is not named has 1.
    pub shares: BTreeMap<String, u64>,
}

/// Files that make an informer safe to reach from other machines. All are read again by [`super::Server::reload`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Its certificate and the chain to its authority, PEM.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM, for its owner's eyes only.
    pub tls_key: Option<PathBuf>,
    /// Authorities one of which must have signed the certificate of whoever connects; `None`: no certificate is asked for.
    pub tls_ca: Option<PathBuf>,
    /// The token that every call must carry, for its owner's eyes only.
    pub token_file: Option<PathBuf>,
}

/// Which attempts' logs come up to the informer when they have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogUpload {
    /// All.
    #[default]
    Always,
    /// Those of attempts that did not succeed.
    OnFailure,
    /// None: `logs` works while the sidecar keeps them.
    Never,
}

impl From<LogUpload> for proto::v1::LogPolicy {
    fn from(upload: LogUpload) -> Self {
        match upload {
            LogUpload::Always => Self::Always,
            LogUpload::OnFailure => Self::OnFailure,
            LogUpload::Never => Self::Never,
        }
    }
}

impl Options {
    /// The defaults for this address and data directory.
    #[must_use]
    pub fn new(listen: SocketAddr, data: PathBuf) -> Self {
        Self {
            listen,
            data,
            beat_ms: bounds::BEAT_MS,
            lease_beats: bounds::BEATS_PER_LEASE,
            fence_grace_ms: bounds::FENCE_GRACE_MS,
            accept_restored: false,
            security: Security::default(),
            retention: Retention::default(),
            log_upload: LogUpload::default(),
            shares: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.security.check()?;
        let missing = self.security.missing();
        if !self.listen.ip().is_loopback() && !missing.is_empty() {
            return Err(Error::Open { listen: self.listen, missing: missing.join(", "), remedy: self.remedy() });
        }
        let wrong = |option, value, least, most| Error::Option { option, value, least, most };
        let (least, most) = (*bounds::BEAT_RANGE_MS.start(), *bounds::BEAT_RANGE_MS.end());
        if !bounds::BEAT_RANGE_MS.contains(&self.beat_ms) {
            return Err(wrong("beat_ms", self.beat_ms, least, most));
        }
        if !LEASE_BEATS.contains(&self.lease_beats) {
            return Err(wrong("lease_beats", self.lease_beats, *LEASE_BEATS.start(), *LEASE_BEATS.end()));
        }
        if self.fence_grace_ms > bounds::DURATION_MS {
            return Err(wrong("fence_grace_ms", self.fence_grace_ms, 0, bounds::DURATION_MS));
        }
        Ok(())
    }

    /// The commands after which the informer would start, with what was given already.
    fn remedy(&self) -> String {
        let folder = self.data.join("tls");
        let at = |given: &Option<PathBuf>, name: &str| shell_word(given.as_ref().unwrap_or(&folder.join(name)));
        format!(
            "make them with `informer certificate {} --host {}`, then start with `informer serve --listen {} --data {} \
             --tls-cert {} --tls-key {} --token-file {}`",
            shell_word(&folder),
            self.host(),
            self.listen,
            shell_word(&self.data),
            at(&self.security.tls_cert, "informer.pem"),
            at(&self.security.tls_key, "informer-key.pem"),
            at(&self.security.token_file, "token"),
        )
    }

    /// What others call this machine: the address if there is one, else its name; and what it calls itself.
    fn host(&self) -> String {
        match self.listen.ip() {
            IpAddr::V4(ip) if !ip.is_unspecified() => ip.to_string(),
            IpAddr::V6(ip) if !ip.is_unspecified() => ip.to_string(),
            _ => format!("{} --host 127.0.0.1", rustix::system::uname().nodename().to_string_lossy()),
        }
    }
}

/// A path as it can be pasted into a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

impl Security {
    fn check(&self) -> Result<(), Error> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(Error::Half);
        }
        if self.tls_ca.is_some() && self.tls_cert.is_none() {
            return Err(Error::OnlyAuthority);
        }
        Ok(())
    }

    /// The options without which nobody from outside is let in.
    fn missing(&self) -> Vec<&'static str> {
        let all = [("--tls-cert", &self.tls_cert), ("--tls-key", &self.tls_key), ("--token-file", &self.token_file)];
        all.into_iter().filter(|(_, file)| file.is_none()).map(|(option, _)| option).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(security: Security) -> Result<(), String> {
        let listen = "10.0.0.5:7070".parse().expect("an address");
        let options = Options { security, ..Options::new(listen, "/var/lib/my informer".into()) };
        options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn an_open_address_needs_tls_and_a_token_and_says_how_to_get_them() {
        let all = Security {
            tls_cert: Some("/c.pem".into()),
            tls_key: Some("/k.pem".into()),
            tls_ca: None,
            token_file: Some("/token".into()),
        };
        assert_eq!(open(all.clone()), Ok(()));
        let why = open(Security::default()).expect_err("open to all");
        assert!(why.contains("missing: --tls-cert, --tls-key, --token-file"), "{why}");
        assert!(why.contains("`informer certificate '/var/lib/my informer/tls' --host 10.0.0.5`"), "{why}");
        assert!(why.contains("--token-file '/var/lib/my informer/tls/token'`"), "{why}");
        let why = open(Security { token_file: None, ..all.clone() }).expect_err("no token");
        assert!(why.contains("missing: --token-file;") && why.contains("--tls-cert /c.pem"), "{why}");
        let why = open(Security { tls_key: None, ..all.clone() }).expect_err("half");
        assert!(why.contains("belong together"), "{why}");
        let only = Security { tls_ca: Some("/ca.pem".into()), ..Security::default() };
        assert!(open(only).expect_err("no certificate").contains("--tls-ca"));
    }
}
