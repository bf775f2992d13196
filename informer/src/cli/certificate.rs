//! `informer certificate`: what an informer needs to be reached from other machines, made by an authority of its own.
//!
//! ```text
//!  ca-key.pem ─signs─▶ ca.pem                 goes to clients and sidecars as --tls-ca
//!             ├─signs─▶ informer.pem          is shown by the informer
//!             └─signs─▶ CLIENT.pem            is shown by a client, where the informer demands it by --tls-ca
//!  token                                      goes to clients and sidecars as --token-file
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustix::rand::{GetRandomFlags, getrandom};

use super::error::Error;

/// How long the authority is good for: as long as the machines it serves. Its key need not be on any of them.
const CA_YEARS: i32 = 10;
/// How long a certificate is good for. One that is forgotten stops everything, so not less; a stolen one is good as long, so not more.
const CERTIFICATE_YEARS: i32 = 2;
/// Random bytes of a token; nobody guesses them.
const TOKEN_BYTES: usize = 32;
/// The authority's name. It stands in every certificate that the authority signed, so that the authority is found again from its key.
const CA_NAME: &str = "informer CA";
/// The name for the certificate that `serve` shows.
const SERVER: &str = "informer";

/// Arguments of `certificate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to put everything; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// A name or address that others reach this informer by; may be repeated
    #[arg(long = "host", value_name = "NAME", required_unless_present = "clients", value_parser = host)]
    hosts: Vec<String>,
    /// Make NAME.pem and NAME-key.pem for a client or sidecar, too, for informers that demand a certificate; may be repeated
    #[arg(long = "client", value_name = "NAME", value_parser = client)]
    clients: Vec<String>,
}

/// What goes wrong is mostly a file.
fn failed(attempted: String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Local { attempted, source, remedy: "" }
}

fn broken(error: rcgen::Error) -> Error {
    Error::Server(format!("cannot make a certificate: {error}"))
}

pub(crate) fn run(args: &Args) -> Result<u8, Error> {
    let names: Vec<&str> =
        args.hosts.first().map(|_| SERVER).into_iter().chain(args.clients.iter().map(String::as_str)).collect();
    refuse_present(&args.dir, &names)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .map_err(failed(format!("make {}", args.dir.display())))?;
    let authority = authority(&args.dir)?;
    if !args.hosts.is_empty() {
        sign(&authority, &args.dir, SERVER, &args.hosts)?;
    }
    for name in &args.clients {
        sign(&authority, &args.dir, name, &[])?;
    }
    token(&args.dir.join("token"))?;
    super::print(&next(args))?;
    Ok(0)
}

/// Nothing is written over: what is there may be what everybody trusts.
fn refuse_present(dir: &Path, names: &[&str]) -> Result<(), Error> {
    let here = |name: &str| dir.join(name).exists();
    for name in names {
        let (cert, key) = (format!("{name}.pem"), format!("{name}-key.pem"));
        if here(&cert) || here(&key) {
            let dir = dir.display();
            return Err(Error::Misuse(format!(
                "{dir} holds {name}'s certificate or key already; to renew it, first `rm -f {dir}/{cert} {dir}/{key}`"
            )));
        }
    }
    if here("ca.pem") == here("ca-key.pem") {
        return Ok(());
    }
    let (has, lacks) = if here("ca.pem") { ("ca.pem", "ca-key.pem") } else { ("ca-key.pem", "ca.pem") };
    Err(Error::Misuse(format!(
        "{} holds {has} without {lacks}; bring {lacks} back, or name another directory",
        dir.display()
    )))
}

/// The authority of this directory, made if there is none.
fn authority(dir: &Path) -> Result<Issuer<'static, KeyPair>, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(broken)?;
    params.distinguished_name = named(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_YEARS);
    let path = dir.join("ca-key.pem");
    if path.exists() {
        let text = fs::read_to_string(&path).map_err(failed(format!("read {}", path.display())))?;
        let key = KeyPair::from_pem(&text);
        let key = key.map_err(|error| Error::Misuse(format!("{} holds no key of a CA: {error}", path.display())))?;
        return Ok(Issuer::new(params, key));
    }
    let key = KeyPair::generate().map_err(broken)?;
    let certificate = params.self_signed(&key).map_err(broken)?;
    write(&path, &key.serialize_pem(), 0o600)?;
    write(&dir.join("ca.pem"), &certificate.pem(), 0o644)?;
    Ok(Issuer::new(params, key))
}

/// A certificate for these names, or for a client if there are none.
fn sign(authority: &Issuer<'_, KeyPair>, dir: &Path, name: &str, hosts: &[String]) -> Result<(), Error> {
    let mut params = CertificateParams::new(hosts).map_err(broken)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![match hosts {
        [] => ExtendedKeyUsagePurpose::ClientAuth,
        _ => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    valid_for(&mut params, CERTIFICATE_YEARS);
    let key = KeyPair::generate().map_err(broken)?;
    let certificate = params.signed_by(&key, authority).map_err(broken)?;
    write(&dir.join(format!("{name}-key.pem")), &key.serialize_pem(), 0o600)?;
    write(&dir.join(format!("{name}.pem")), &certificate.pem(), 0o644)
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From yesterday on, so that a machine whose clock is behind accepts it at once.
fn valid_for(params: &mut CertificateParams, years: i32) {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let yesterday = today.yesterday().unwrap_or(today);
    let day = |date: jiff::civil::Date| (i32::from(date.year()), date.month().unsigned_abs());
    let (year, month) = day(yesterday);
    params.not_before = rcgen::date_time_ymd(year, month, yesterday.day().unsigned_abs());
    // The first of a month is in every year, which the 29th of February is not.
    params.not_after = rcgen::date_time_ymd(year + years, month, 1);
}

fn token(path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let mut bytes = [0_u8; TOKEN_BYTES];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|error| failed("read random bytes".to_owned())(error.into()))?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write(path, &format!("{hex}\n"), 0o600)
}

/// A new file with these permissions from its first byte on, whatever the umask allows.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let written = || {
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(failed(format!("write {}", path.display())))
}

/// What to do with it.
fn next(args: &Args) -> String {
    let dir = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let dir = dir.display();
    let mut text = String::new();
    if let Some(host) = args.hosts.first() {
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        text = format!(
            "here:      informer serve --listen 0.0.0.0:7070 --tls-cert {dir}/informer.pem --tls-key {dir}/informer-key.pem \
             --token-file {dir}/token\n\
             elsewhere: copy {dir}/ca.pem and {dir}/token there, then\n           \
             sidecar run --informer https://{host}:7070 --tls-ca ca.pem --token-file token\n"
        );
    }
    for name in &args.clients {
        text.push_str(&format!(
            "{name}: copy {dir}/ca.pem, {dir}/token, {dir}/{name}.pem and {dir}/{name}-key.pem there, then add \
             --tls-cert {name}.pem --tls-key {name}-key.pem\n"
        ));
    }
    text.push_str("keep ca-key.pem to yourself: who has it can be your informer\n");
    text
}

/// A name or an address, without scheme and port.
fn host(text: &str) -> Result<String, String> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
    let is_name = !text.is_empty() && text.len() <= 253 && text.chars().all(letters);
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("a host is a name or an address without scheme and port, for example informer.example or 10.0.0.5".to_owned())
}

/// A file name's beginning that is none of ours.
fn client(text: &str) -> Result<String, String> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let fits = !text.is_empty() && text.len() <= 64 && text.chars().all(letters) && !text.ends_with("-key");
    if fits && ![SERVER, "ca", "token"].contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("a client's name is 1 to 64 letters, digits, - and _, and neither {SERVER} nor ca nor token"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn make(dir: &Path, hosts: &[&str], clients: &[&str]) -> Result<u8, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let args = Args { dir: dir.to_owned(), hosts: owned(hosts), clients: owned(clients) };
        run(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_are_secret_and_nothing_is_written_over() {
        let folder = Folder(std::env::temp_dir().join(format!("informer-certificate-{}", std::process::id())));
        let dir = folder.0.join("tls");
        assert_eq!(make(&dir, &["127.0.0.1", "informer.example"], &[]), Ok(0));
        let mode = |name: &str| fs::metadata(dir.join(name)).expect(name).permissions().mode() & 0o777;
        for name in ["ca-key.pem", "informer-key.pem", "token"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
        let (ca, token, cert) = (read("ca.pem"), read("token"), read("informer.pem"));
        assert_eq!(token.trim().len(), 2 * TOKEN_BYTES);
        let again = make(&dir, &["127.0.0.1"], &[]).expect_err("a certificate is there");
        assert!(again.contains("to renew it, first `rm -f "), "{again}");
        // A client's certificate by the same authority, and a renewal of the informer's.
        assert_eq!(make(&dir, &[], &["box-1"]), Ok(0));
        fs::remove_file(dir.join("informer.pem")).expect("removed");
        fs::remove_file(dir.join("informer-key.pem")).expect("removed");
        assert_eq!(make(&dir, &["127.0.0.1"], &[]), Ok(0));
        assert_eq!((read("ca.pem"), read("token")), (ca, token));
        assert_ne!(read("informer.pem"), cert);
        fs::remove_file(dir.join("ca.pem")).expect("removed");
        let lost = make(&dir, &[], &["box-2"]).expect_err("half an authority");
        assert!(lost.contains("ca-key.pem without ca.pem"), "{lost}");
    }

    #[test]
    fn names_are_checked() {
        assert!(host("informer.example").is_ok() && host("::1").is_ok() && host("10.0.0.5").is_ok());
        assert!(host("http://h").is_err() && host("h:7070").is_err() && host("").is_err());
        assert!(client("box-1").is_ok());
        assert!(
            client("ca").is_err() && client("a/b").is_err() && client("informer").is_err() && client("x-key").is_err()
        );
    }
}
