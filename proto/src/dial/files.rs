//! Certificates, keys and tokens, read from the files that hold them.

use super::Error;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of the largest file that is read: a bundle of every public authority has a quarter of it.
const FILE_BYTES: u64 = 1 << 20;
/// Characters of a token. Shorter ones can be guessed; longer ones would be most of a request's headers.
const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 16..=512;

/// The certificates of a PEM file, at least one: an authority's, or a chain beginning with its owner's.
///
/// # Errors
/// It cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path, false)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = parsed.map_err(|error| content(path, &format!("it is no PEM file ({error})")))?;
    if certificates.is_empty() {
        return Err(content(path, "there is no certificate in it"));
    }
    Ok(certificates)
}

/// The private key of a PEM file.
///
/// # Errors
/// It cannot be read, others can read it too, or it holds none.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read(path, true)?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| content(path, &format!("there is no private key in it ({error})")))
}

/// The token of a file: one line of 16 to 512 visible ASCII characters.
///
/// # Errors
/// It cannot be read, others can read it too, or it holds no token.
pub fn token(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(read(path, true)?).unwrap_or_default();
    let token = text.trim();
    if !TOKEN_CHARACTERS.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let (least, most) = (TOKEN_CHARACTERS.start(), TOKEN_CHARACTERS.end());
        return Err(content(
            path,
            &format!("a token is one line of {least} to {most} visible ASCII characters without spaces"),
        ));
    }
    Ok(token.to_owned())
}

fn content(path: &Path, problem: &str) -> Error {
    Error::Content { path: path.to_owned(), problem: problem.to_owned() }
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, Error> {
    let failed = |cause: std::io::Error| Error::Read { path: path.to_owned(), cause: super::words(&cause) };
    let file = File::open(path).map_err(failed)?;
    if secret {
        // Of the open file, so that another one put in its place in between is not read unchecked.
        let found = file.metadata().map_err(failed)?;
        if is_exposed(found.mode(), found.uid()) {
            return Err(Error::Exposed { path: path.to_owned(), mode: found.mode() & 0o7777 });
        }
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(content(path, &format!("it is larger than {FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Nobody but the owner may read a secret; the group may, but not write, where the owner is root: so are secrets handed to services
/// (`root:informer 0640`) and mounted into pods.
fn is_exposed(mode: u32, owner: u32) -> bool {
    let allowed = if owner == 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

#[cfg(test)]
mod tests {
    use super::is_exposed;

    #[test]
    fn a_secret_is_its_owners() {
        assert!(!is_exposed(0o100_600, 1000) && !is_exposed(0o100_400, 1000) && !is_exposed(0o100_640, 0));
        assert!(is_exposed(0o100_640, 1000) && is_exposed(0o100_660, 0) && is_exposed(0o100_644, 0));
    }
}
