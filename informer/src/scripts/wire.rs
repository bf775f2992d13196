//! What informer and host say to each other: frames of a length (4 bytes, little endian) and as many bytes.
//!
//! ```text
//!  host     ─▶ HELLO                    once, so that a host of another build is found out before it is asked anything
//!  informer ─▶ what │ language │ source length │ source │ input          one at a time
//!  host     ─▶ flags │ what │ text
//! ```

use std::io::{self, Read, Write};

use super::Language;
use super::engine::Fault;

/// What a host says first. The number goes up with every change of what follows.
pub(super) const HELLO: &[u8] = b"informer script-host 1";

/// Bytes of a script: Conductor's definitions have a few hundred; a bundled library has no place in a definition.
pub(super) const SOURCE_BYTES: usize = 256 << 10;
/// Bytes of an input's JSON: what Conductor takes for a task at most. Doubled, parsing alone could take the memory of a host.
pub(super) const INPUT_BYTES: usize = 10 << 20;
/// Bytes of a result's JSON: it becomes a task's output, so as much as an input.
pub(super) const OUTPUT_BYTES: usize = 10 << 20;
/// Bytes of an error's text: some lines for a person. A script can throw whatever it has.
const MESSAGE_BYTES: usize = 4 << 10;
/// Bytes before source and input, or before a result.
const HEAD_BYTES: usize = 6;
/// Bytes of a request.
pub(super) const REQUEST_BYTES: usize = HEAD_BYTES + SOURCE_BYTES + INPUT_BYTES;
/// Bytes of a reply; the list around the outputs of jq is ours.
pub(super) const REPLY_BYTES: usize = HEAD_BYTES + OUTPUT_BYTES + 2;

/// The host serves no further request.
const WORN: u8 = 1;
/// For a fault whose line is not known.
const NO_LINE: u32 = 0;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("it ends too early")]
    Short,
    #[error("{0} is no known kind")]
    Kind(u8),
    #[error("its text is not UTF-8")]
    Text,
}

/// What a host is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) language: Language,
    pub(super) source: &'a str,
    /// JSON; without it the program is only read.
    pub(super) input: Option<&'a str>,
}

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// It ends itself after this.
    pub(super) worn: bool,
    /// JSON; empty where a program was only read.
    pub(super) result: Result<String, Fault>,
}

impl<'a> Request<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let language = match self.language {
            Language::JavaScript => 0,
            Language::Jq => 1,
        };
        let length = u32::try_from(self.source.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.source.len() + self.input.map_or(0, str::len));
        bytes.extend([u8::from(self.input.is_some()), language]);
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.source.as_bytes());
        bytes.extend(self.input.unwrap_or_default().as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let ([runs, language], rest) = bytes.split_first_chunk().ok_or(Error::Short)?;
        let (length, rest) = rest.split_first_chunk().ok_or(Error::Short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Error::Short)?;
        let (source, input) = rest.split_at_checked(length).ok_or(Error::Short)?;
        let text = |bytes: &'a [u8]| str::from_utf8(bytes).map_err(|_| Error::Text);
        Ok(Self {
            language: match language {
                0 => Language::JavaScript,
                1 => Language::Jq,
                other => return Err(Error::Kind(*other)),
            },
            source: text(source)?,
            input: match runs {
                0 if input.is_empty() => None,
                1 => Some(text(input)?),
                other => return Err(Error::Kind(*other)),
            },
        })
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (what, line, text) = match &self.result {
            Ok(text) => (0, NO_LINE, text.as_str()),
            Err(Fault::Syntax { line, message }) => (1, line.unwrap_or(NO_LINE), cut(message)),
            Err(Fault::Thrown(message)) => (2, NO_LINE, cut(message)),
            Err(Fault::TooLarge) => (3, NO_LINE, ""),
            Err(Fault::TooSlow) => (4, NO_LINE, ""),
            Err(Fault::OutOfMemory) => (5, NO_LINE, ""),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + text.len());
        bytes.extend([if self.worn { WORN } else { 0 }, what]);
        bytes.extend(line.to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let ([flags, what], rest) = bytes.split_first_chunk().ok_or(Error::Short)?;
        let (line, text) = rest.split_first_chunk().ok_or(Error::Short)?;
        let line = Some(u32::from_le_bytes(*line)).filter(|line| *line != NO_LINE);
        let text = str::from_utf8(text).map_err(|_| Error::Text)?.to_owned();
        let result = match what {
            0 => Ok(text),
            1 => Err(Fault::Syntax { line, message: text }),
            2 => Err(Fault::Thrown(text)),
            3 => Err(Fault::TooLarge),
            4 => Err(Fault::TooSlow),
            5 => Err(Fault::OutOfMemory),
            other => return Err(Error::Kind(*other)),
        };
        Ok(Self { worn: flags & WORN != 0, result })
    }
}

/// What of a message is told.
fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES)]
}

/// Writes a frame.
///
/// # Errors
/// What the writer says.
pub(super) fn write_frame(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads a frame of at most `limit` bytes.
///
/// # Errors
/// What the reader says; that the frame is longer; that there is none any more (`UnexpectedEof`).
pub(super) fn read_frame(from: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes, at most {limit} fit"),
        ));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn language() -> impl Strategy<Value = Language> {
        prop_oneof![Just(Language::JavaScript), Just(Language::Jq)]
    }

    fn result() -> impl Strategy<Value = Result<String, Fault>> {
        let line = prop_oneof![Just(None), (1..9u32).prop_map(Some)];
        prop_oneof![
            any::<String>().prop_map(Ok),
            (line, any::<String>()).prop_map(|(line, message)| Err(Fault::Syntax { line, message })),
            any::<String>().prop_map(|text| Err(Fault::Thrown(text))),
            prop_oneof![Just(Fault::TooLarge), Just(Fault::TooSlow), Just(Fault::OutOfMemory)].prop_map(Err),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(language in language(), source: String, input: Option<String>) {
            let request = Request { language, source: &source, input: input.as_deref() };
            let bytes = request.encode();
            prop_assert_eq!(Request::decode(&bytes), Ok(request));
        }

        #[test]
        fn replies_come_back(worn: bool, result in result()) {
            let reply = Reply { worn, result };
            prop_assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }

        #[test]
        fn frames_come_back(bytes: Vec<u8>) {
            let mut wire = Vec::new();
            write_frame(&mut wire, &bytes).expect("memory takes it");
            prop_assert_eq!(read_frame(&mut wire.as_slice(), bytes.len()).expect("it is whole"), bytes);
        }

        #[test]
        fn garbage_is_an_error_and_nothing_worse(bytes: Vec<u8>) {
            // What can be read has one form, so it must come back as it was.
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes.clone());
            }
            let _ = Reply::decode(&bytes);
            if let Ok(frame) = read_frame(&mut bytes.as_slice(), 64) {
                prop_assert!(frame.len() <= 64);
            }
        }

        #[test]
        fn what_is_cut_is_an_error(source: String, input: String, cut in 1..6usize) {
            let bytes = Request { language: Language::Jq, source: &source, input: Some(&input) }.encode();
            let short = &bytes[..HEAD_BYTES - cut];
            prop_assert_eq!(Request::decode(short), Err(Error::Short));
        }
    }

    #[test]
    fn an_error_has_some_lines_at_most() {
        let reply = Reply { worn: false, result: Err(Fault::Thrown("é".repeat(MESSAGE_BYTES))) };
        let bytes = reply.encode();
        assert!(bytes.len() <= HEAD_BYTES + MESSAGE_BYTES && Reply::decode(&bytes).is_ok());
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_read() {
        let mut wire = u32::MAX.to_le_bytes().to_vec();
        wire.extend([0; 9]);
        let error = read_frame(&mut wire.as_slice(), 8).expect_err("it is too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
