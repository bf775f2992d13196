//! Parameters of a request's address.

use super::answer::Refusal;
use axum::extract::FromRequestParts;
use http::request::Parts;
use std::str::FromStr;

/// The parameters, decoded, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        });
        Ok(Self(pairs.collect::<Result<_, Refusal>>()?))
    }

    /// The last one of that name, as whoever repeats one expects; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// All of that name, and of lists with commas each part.
    pub(super) fn all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        let values = self.0.iter().filter(move |(known, value)| known == name && !value.is_empty());
        values.map(|(_, value)| value.as_str())
    }

    /// A number.
    pub(super) fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|_| Refusal::invalid(format!("{name}={text:?} cannot be read")));
        self.text(name).map(parse).transpose()
    }

    /// A flag, in any case: the client in Python writes `True`.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.text(name) {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(Refusal::invalid(format!("{name}={text:?} is neither true nor false"))),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// Percent-decoded, a plus as a space.
fn decoded(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit(), digit());
                let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                byte.ok_or_else(|| Refusal::invalid(format!("{text:?} is not percent-encoded")))?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Refusal::invalid(format!("{text:?} is no UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap_or_else(|_| panic!("{text} is refused"))
    }

    #[test]
    fn parameters_are_decoded() {
        let query = query("count=3&name=a%20b+c&name=%C3%A9&empty=&flag=True&&bare");
        assert_eq!(query.get("count").ok().flatten(), Some(3));
        assert_eq!(query.text("name"), Some("é"));
        assert_eq!(query.all("name").collect::<Vec<_>>(), ["a b c", "é"]);
        assert_eq!((query.text("empty"), query.text("bare"), query.text("none")), (None, None, None));
        assert!(query.flag("flag", false).is_ok_and(|flag| flag));
        assert!(query.flag("none", true).is_ok_and(|flag| flag) && query.flag("name", true).is_err());
        assert!(query.get::<u32>("name").is_err());
        for broken in ["a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert!(Query::parse(broken).is_err(), "{broken}");
        }
    }
}
