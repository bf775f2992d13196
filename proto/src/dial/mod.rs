//! How a client or a sidecar reaches an informer: its address, and what each shows the other.
//!
//! ```text
//!  Dial ─ each new connection ─▶ read the files ─▶ TCP ─▶ TLS (https://) ─▶ HTTP/2 ─▶ Channel
//!                                     └─▶ token ─▶ `authorization` of each call
//! ```
//!
//! Certificates and token may be replaced at any time: a connection uses what the files say when it is opened. The connector is our
//! own, since tonic's has its certificates from the start and for good.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "reads the files it is told to read")]

mod address;
pub mod files;
#[cfg(test)]
mod tests;

pub use address::{Address, Malformed};

use hyper_util::rt::TokioIo;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, SignatureScheme};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Request, Status, transport};

/// How long a connection may take to open, TLS included. Further than this it is a firewall that drops.
pub const CONNECT: Duration = Duration::from_secs(5);
/// What an HTTP/2 client offers in TLS (RFC 9113, 3.3).
const ALPN: &[u8] = b"h2";

/// The files that a client or a sidecar shows and demands; all optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Authorities that may sign the informer's certificate, PEM; `None`: those that the machine trusts.
    pub tls_ca: Option<PathBuf>,
    /// A certificate of our own for an informer that demands one, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// The informer's token.
    pub token_file: Option<PathBuf>,
}

/// Why an informer cannot be reached with what was given. Each says what would help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// A secret that is none.
    #[error("{} can be read by others (mode {mode:04o}); run `chmod 600 {}`", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file that does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Half of a pair.
    #[error("--tls-cert and --tls-key belong together; give both or neither")]
    Half,
    /// The token would be readable on its way.
    #[error(
        "the token in {} is not sent to {address}, since everybody on the way could read it; use https://, or a tunnel to 127.0.0.1",
        token_file.display()
    )]
    Plain {
        /// The file.
        token_file: PathBuf,
        /// Where it would go.
        address: String,
    },
    /// No authority to trust.
    #[error(
        "this machine trusts no certificate authority; install its ca-certificates, or give the informer's CA by --tls-ca"
    )]
    NoRoots,
    /// A name that no certificate can have.
    #[error("{host:?} is no name or address that a certificate could be for")]
    Name {
        /// As in the URL.
        host: String,
    },
    /// The files contradict each other or cannot be used.
    #[error("certificate {} and key {} cannot be used: {cause}", cert.display(), key.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        cause: String,
    },
    /// The address does not answer.
    #[error("{0}")]
    Connect(String),
    /// What answers is not the informer, as far as its certificate says.
    #[error("the certificate of {host} is not accepted ({cause}); {remedy}")]
    Untrusted {
        /// Where it was shown.
        host: String,
        /// What is wrong with it.
        cause: String,
        /// What would help.
        remedy: &'static str,
    },
    /// The informer demands a certificate.
    #[error("{host} lets in only who shows a certificate; give one by --tls-cert and --tls-key")]
    Uncertified {
        /// The peer.
        host: String,
    },
    /// TLS failed for another reason.
    #[error("the TLS handshake with {host} failed: {cause}")]
    Handshake {
        /// The peer.
        host: String,
        /// Why.
        cause: String,
    },
    /// A thread ended early.
    #[error("reading the certificates ended early")]
    Reading,
}

impl Error {
    /// The one of ours that an error of a connection or a call came from, if any did.
    #[must_use]
    pub fn behind<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// The system's words without its error number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A connection to an informer that says at each call who calls.
pub type Channel = InterceptedService<transport::Channel, Bearer>;

/// Adds the token to each call. Cheap to clone; all clones follow a new token.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Arc<RwLock<Option<MetadataValue<Ascii>>>>);

impl Bearer {
    fn replace(&self, token: Option<MetadataValue<Ascii>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = self.0.read().unwrap_or_else(PoisonError::into_inner).clone() {
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}

/// Opens connections to one informer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dial {
    address: Arc<Address>,
    access: Arc<Access>,
    bearer: Bearer,
}

impl Dial {
    /// Checks what was given, and that the files can be used; so a mistake is told at the start and not by a back-off.
    ///
    /// # Errors
    /// See [`Error`]; nothing was sent anywhere.
    pub fn new(address: Address, access: Access) -> Result<Self, Error> {
        if access.tls_cert.is_some() != access.tls_key.is_some() {
            return Err(Error::Half);
        }
        if let Some(token_file) = &access.token_file
            && !address.is_tls()
            && !address.is_loopback()
        {
            return Err(Error::Plain { token_file: token_file.clone(), address: address.to_string() });
        }
        let dial = Self { address: Arc::new(address), access: Arc::new(access), bearer: Bearer::default() };
        dial.prepare()?;
        Ok(dial)
    }

    /// The address it opens connections to.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where its connections go, for options of one's own; what opens is a [`Channel`] by [`Dial::connect`] or
    /// [`Dial::connect_lazy`].
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let url = self.address.to_string();
        Endpoint::from_shared(url).expect("an address is a URL").connect_timeout(CONNECT)
    }

    /// Opens a connection; it opens itself again when it breaks, with the files as they are then.
    ///
    /// # Errors
    /// It cannot be opened; the innermost source says why.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, transport::Error> {
        let channel = endpoint.connect_with_connector(self.connector()).await?;
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }

    /// A connection that opens at its first call.
    #[must_use]
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        InterceptedService::new(endpoint.connect_with_connector_lazy(self.connector()), self.bearer.clone())
    }

    fn connector(
        &self,
    ) -> impl tower::Service<http::Uri, Response = TokioIo<Stream>, Error = Error, Future: Send> + Send + Clone + 'static
    {
        let dial = self.clone();
        tower::service_fn(move |_| {
            let dial = dial.clone();
            async move { dial.open().await.map(TokioIo::new) }
        })
    }

    async fn open(&self) -> Result<Stream, Error> {
        let tls = if *self.access == Access::default() && !self.address.is_tls() {
            None
        } else {
            let dial = self.clone();
            // Files may be slow; the agent's first thread must not be, since it beats.
            tokio::task::spawn_blocking(move || dial.prepare()).await.map_err(|_| Error::Reading)??
        };
        let address = (self.address.host(), self.address.port());
        let tcp = TcpStream::connect(address).await.map_err(|error| Error::Connect(words(&error)))?;
        tcp.set_nodelay(true).map_err(|error| Error::Connect(words(&error)))?;
        let Some(Tls { config, name, bare }) = tls else { return Ok(Stream::Plain(tcp)) };
        let shaken = TlsConnector::from(config).connect(name, tcp).await;
        let stream = shaken.map_err(|error| self.refused(&error))?;
        if bare.asked.load(Ordering::Relaxed) {
            // In TLS 1.3 the peer's refusal comes after our handshake, as the end of a connection that seemed to be well.
            return Err(Error::Uncertified { host: self.address.host().to_owned() });
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn refused(&self, error: &io::Error) -> Error {
        let host = self.address.host().to_owned();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(cause)) => {
                Error::Untrusted { host, cause: cause.to_string(), remedy: remedy(cause) }
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                Error::Handshake { host, cause: "what answers there speaks no TLS; use http://".to_owned() }
            }
            Some(cause) => Error::Handshake { host, cause: cause.to_string() },
            None => Error::Handshake { host, cause: words(error) },
        }
    }

    /// Reads the files as they are now.
    fn prepare(&self) -> Result<Option<Tls>, Error> {
        let token = self.access.token_file.as_deref().map(bearer).transpose()?;
        let tls = if self.address.is_tls() { Some(self.tls()?) } else { None };
        self.bearer.replace(token);
        Ok(tls)
    }

    fn tls(&self) -> Result<Tls, Error> {
        let host = self.address.host();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_: InvalidDnsNameError| Error::Name { host: host.to_owned() })?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the suites of both versions")
            .with_root_certificates(roots(self.access.tls_ca.as_deref())?);
        let bare = Arc::new(Bare::default());
        let mut config = match (&self.access.tls_cert, &self.access.tls_key) {
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(files::certificates(cert)?, files::key(key)?)
                .map_err(|cause| Error::Identity { cert: cert.clone(), key: key.clone(), cause: cause.to_string() })?,
            _ => builder.with_client_cert_resolver(bare.clone()),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Tls { config: Arc::new(config), name, bare })
    }
}

/// What one handshake takes.
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    bare: Arc<Bare>,
}

/// Who has no certificate to show, and remembers being asked for one.
#[derive(Debug, Default)]
struct Bare {
    asked: AtomicBool,
}

impl ResolvesClientCert for Bare {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn remedy(cause: &CertificateError) -> &'static str {
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "renew it",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use a name or address that it is made for"
        }
        _ => "give the CA that signed it by --tls-ca",
    }
}

/// The one provider of cryptography, named so that a dependency which brings another changes nothing.
#[must_use]
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities of this file, else those that the machine's operator trusts. A list compiled in would be as old as the binary and
/// would not know a company's own authority.
///
/// # Errors
/// The file cannot be used, or there is no authority at all.
pub fn roots(file: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(Error::NoRoots) } else { Ok(roots) };
    };
    for certificate in files::certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| Error::Content { path: path.to_owned(), problem: format!("it is no CA: {error}") })?;
    }
    Ok(roots)
}

fn bearer(path: &Path) -> Result<MetadataValue<Ascii>, Error> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", files::token(path)?).parse().expect("a token is visible ASCII");
    // Kept out of HPACK's tables and of debug output.
    value.set_sensitive(true);
    Ok(value)
}

/// An open connection.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
