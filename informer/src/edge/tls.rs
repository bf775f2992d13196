//! Who is let in: the certificate that is shown, the one that is demanded, and the token that each call carries.

use crate::server::Security;
use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use proto::dial::{Error, files, provider, roots};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use tokio_rustls::TlsAcceptor;

/// What is spoken inside of TLS, best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What stands before the token in a call's `authorization` (RFC 6750).
const SCHEME: &str = "Bearer ";
/// Where Conductor's clients put theirs, and nothing before it.
const CONDUCTORS: HeaderName = HeaderName::from_static("x-authorization");

/// Who calls, as far as the informer can tell. It stands in every request's extensions; today all that are let in may do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Whoever can reach an informer that has no token, or asks for its health.
    Anyone,
    /// Whoever has the token.
    Bearer,
}

/// Why a call is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the call carries no token; name the file that holds this informer's token by --token-file or INFORMER_TOKEN_FILE"
    )]
    Missing,
    #[error(
        "the token is not this informer's; copy the informer's own, and name it by --token-file or INFORMER_TOKEN_FILE"
    )]
    Wrong,
}

/// The files of [`Security`], read.
pub(crate) struct Guard {
    files: Security,
    tls: Option<ArcSwap<ServerConfig>>,
    /// Hashed, so that its comparison tells nothing, not even the length.
    token: Option<ArcSwap<[u8; 32]>>,
    /// When a sidecar was last turned away.
    turned_away: ArcSwapOption<Instant>,
}

/// For so long it is told that a sidecar was turned away: one that keeps trying is heard again within a fraction of that.
const TOLD: Duration = Duration::from_mins(1);

impl Guard {
    pub(crate) fn load(files: Security) -> Result<Self, Error> {
        let (tls, token) = read(&files)?;
        Ok(Self {
            files,
            tls: tls.map(ArcSwap::from_pointee),
            token: token.map(ArcSwap::from_pointee),
            turned_away: ArcSwapOption::empty(),
        })
    }

    /// A sidecar wanted to open its link and has not the token.
    pub(super) fn turn_away(&self) {
        self.turned_away.store(Some(Arc::new(Instant::now())));
    }

    /// What whoever waits for a sidecar should know of those that are not let in.
    pub(super) fn hint(&self) -> Option<String> {
        let ago = self.turned_away.load().as_ref()?.elapsed();
        let hint = "a sidecar was turned away: its token is not this informer's (its own log says which file)";
        (ago < TOLD).then(|| format!("{} s ago {hint}", ago.as_secs()))
    }

    /// Reads all again; nothing changes unless all can be used.
    pub(crate) fn reload(&self) -> Result<(), Error> {
        let (tls, token) = read(&self.files)?;
        if let (Some(now), Some(new)) = (&self.tls, tls) {
            now.store(Arc::new(new));
        }
        if let (Some(now), Some(new)) = (&self.token, token) {
            now.store(Arc::new(new));
        }
        Ok(())
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|config| TlsAcceptor::from(config.load_full()))
    }

    /// Looks at a call's token.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.token.is_none() {
            return Ok(Caller::Anyone);
        }
        if let (None, Some(given)) = (headers.get(AUTHORIZATION), headers.get(CONDUCTORS)) {
            return self.knows(given.as_bytes());
        }
        let given = headers.get(AUTHORIZATION).ok_or(Refusal::Missing)?.as_bytes();
        let (scheme, given) = given.split_at_checked(SCHEME.len()).ok_or(Refusal::Missing)?;
        if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
            return Err(Refusal::Missing);
        }
        self.knows(given)
    }

    /// Looks at a token.
    pub(super) fn knows(&self, given: &[u8]) -> Result<Caller, Refusal> {
        let Some(token) = &self.token else { return Ok(Caller::Anyone) };
        if bool::from(hash(given).ct_eq(token.load().as_slice())) { Ok(Caller::Bearer) } else { Err(Refusal::Wrong) }
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn read(files: &Security) -> Result<(Option<ServerConfig>, Option<[u8; 32]>), Error> {
    let token = files.token_file.as_deref().map(files::token).transpose()?;
    Ok((config(files)?, token.map(|token| hash(token.as_bytes()))))
}

fn config(files: &Security) -> Result<Option<ServerConfig>, Error> {
    let (Some(cert), Some(key)) = (&files.tls_cert, &files.tls_key) else { return Ok(None) };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions");
    let builder = match &files.tls_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(Some(ca))?.into(), provider()).build();
            let wrong = |error| Error::Content { path: ca.clone(), problem: format!("it names no authority: {error}") };
            builder.with_client_cert_verifier(verifier.map_err(wrong)?)
        }
    };
    let mut config = builder
        .with_single_cert(files::certificates(cert)?, files::key(key)?)
        .map_err(|error| Error::Identity { cert: cert.clone(), key: key.clone(), cause: error.to_string() })?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_let_in() {
        let token = Some(ArcSwap::from_pointee(hash(b"0123456789abcdef")));
        let guard = Guard { files: Security::default(), tls: None, token, turned_away: ArcSwapOption::empty() };
        let admit = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().expect("a header"));
            }
            guard.admit(&headers)
        };
        assert_eq!(admit(Some("Bearer 0123456789abcdef")), Ok(Caller::Bearer));
        assert_eq!(admit(Some("bearer 0123456789abcdef")), Ok(Caller::Bearer));
        for missing in [None, Some(""), Some("Basic 0123456789abcdef"), Some("0123456789abcdef")] {
            assert_eq!(admit(missing), Err(Refusal::Missing), "{missing:?}");
        }
        let theirs = |value: &str| guard.admit(&HeaderMap::from_iter([(CONDUCTORS, value.parse().expect("a header"))]));
        assert_eq!(theirs("0123456789abcdef"), Ok(Caller::Bearer));
        assert_eq!(theirs("Bearer 0123456789abcdef"), Err(Refusal::Wrong));
        for wrong in ["Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer  0123456789abcdef"] {
            assert_eq!(admit(Some(wrong)), Err(Refusal::Wrong), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_token_all_are_let_in() {
        let guard = Guard { files: Security::default(), tls: None, token: None, turned_away: ArcSwapOption::empty() };
        assert_eq!(guard.admit(&HeaderMap::new()), Ok(Caller::Anyone));
    }
}
