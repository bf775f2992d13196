//! Where an informer listens, as clients and sidecars are told it.

use http::Uri;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An informer's address: `http://host:port` or `https://host:port`, checked and of one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    /// As in a URL: an IPv6 address in brackets.
    host: String,
    port: u16,
}

/// What is wrong with a text that should be an address; half a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl FromStr for Address {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let uri: Uri = text.parse().map_err(|_| Malformed("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(Malformed("only http:// and https:// are spoken")),
            None => return Err(Malformed("http:// or https:// is missing")),
        };
        let authority = uri.authority().ok_or(Malformed("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(Malformed("it holds a user name"));
        }
        if authority.host().is_empty() {
            return Err(Malformed("it names no host"));
        }
        let port = authority.port_u16().filter(|port| *port != 0);
        let port = port.ok_or(Malformed("it names no port from 1 to 65535"))?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(Malformed("it goes on after the port"));
        }
        Ok(Self { tls, host: authority.host().to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Address {
    /// Whether what is said there is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// A name or an address, without the brackets that a URL puts around IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether what is said there stays on this machine. `localhost` is loopback by RFC 6761, whatever a resolver would say.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_brought_to_one_form() {
        let form = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(form("http://127.0.0.1:7070/"), Ok("http://127.0.0.1:7070".into()));
        assert_eq!(form("http://[::1]:80"), Ok("http://[::1]:80".into()));
        assert_eq!(form("https://informer.example:7070"), Ok("https://informer.example:7070".into()));
        let bad = [
            ("", "not a URL"),
            ("127.0.0.1:7070", "is missing"),
            ("localhost", "is missing"),
            ("ftp://h:1", "only http:// and https://"),
            ("http://h", "no port"),
            ("http://h:0", "no port"),
            ("http://h:99999", "no port"),
            ("http://u@h:1", "user name"),
            ("https://h:1/x", "after the port"),
            ("not a url", "not a URL"),
        ];
        for (text, problem) in bad {
            let error = form(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_by_address() {
        let is = |text: &str| text.parse::<Address>().expect("an address").is_loopback();
        assert!(
            is("http://127.0.0.1:1") && is("http://127.9.9.9:1") && is("http://[::1]:1") && is("http://LocalHost:1")
        );
        assert!(!is("http://10.0.0.1:1") && !is("http://localhost.example:1") && !is("http://[::2]:1"));
    }
}
