//! Bytes of [`crate::wire`]: frames, and the bodies inside them.
//!
//! A body is a tag byte followed by its fields in the order of the type: integers little-endian, strings and byte strings with a
//! `u32` length, options with a presence byte, lists with a `u32` count. Nothing is tolerated: an unknown tag, a short body or a
//! byte too many is an [`Error`], because both ends are built together and a deviation means a broken peer.
//!
//! No allocation is made from a length the bytes do not cover, so a frame cannot make its reader hold more than a small multiple
//! of itself.

mod notice;
mod request;

use crate::wire::MAX_FRAME_BYTES;

pub use notice::{
    decode_end, decode_notice, decode_process, decode_welcome, encode_end, encode_notice, encode_process,
};
pub use request::{decode_request, decode_spec, encode_request, encode_spec};

/// Length of a frame's head.
pub const HEAD_BYTES: usize = 4;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The frame's head announces more than [`MAX_FRAME_BYTES`].
    TooLong {
        /// Announced length.
        bytes: usize,
    },
    /// The body ends inside a field.
    Truncated,
    /// The body goes on after its last field.
    Trailing,
    /// A tag, flag or enumeration has a value nobody defined.
    Value {
        /// The field.
        field: &'static str,
        /// What it held.
        value: u8,
    },
    /// A string is not UTF-8.
    Utf8,
    /// A list is longer than its bound.
    TooMany,
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(out, "frame of {bytes} bytes exceeds {MAX_FRAME_BYTES}"),
            Self::Truncated => write!(out, "message ends inside a field"),
            Self::Trailing => write!(out, "message has bytes after its last field"),
            Self::Value { field, value } => write!(out, "{field} has the unknown value {value}"),
            Self::Utf8 => write!(out, "text is not UTF-8"),
            Self::TooMany => write!(out, "list is longer than its bound"),
        }
    }
}

impl std::error::Error for Error {}

/// The body as one frame: head and body in one buffer, to be written with one call.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    push_frame(&mut out, body);
    out
}

/// Appends the body as one frame, so that several frames leave in one write.
pub fn push_frame(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
}

/// Cuts a stream of bytes into frames.
///
/// Take every frame after each [`feed`](Self::feed): the buffer then never holds more than one frame and one read.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// Adds what was read from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole body, if one has arrived.
    ///
    /// # Errors
    /// [`Error::TooLong`]; the stream cannot be trusted from there on.
    pub fn take(&mut self) -> Result<Option<&[u8]>, Error> {
        let rest = &self.buffer[self.start..];
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let bytes = u32::from_le_bytes(*head) as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(Error::TooLong { bytes });
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let from = self.start + HEAD_BYTES;
        self.start = from + bytes;
        Ok(Some(&self.buffer[from..from + bytes]))
    }

    /// Bytes of a frame that has not arrived whole; a keeper that replaces itself hands them on.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// Writes the fields of a body.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn tagged(tag: u8) -> Self {
        Self(vec![tag])
    }
    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn bool(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
    }
    pub(crate) fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }
    pub(crate) fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.u32(values.len() as u32);
        for value in values {
            write(self, value);
        }
    }
}

/// Reads the fields of a body.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// Whether nothing is left: what was added later is absent in what was written before.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Trailing) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (value, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(*value)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Error::Value { field, value }),
        }
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn i32(&mut self) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.array()?))
    }
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u32()? as usize;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(value)
    }
    pub(crate) fn text(&mut self) -> Result<String, Error> {
        Ok(std::str::from_utf8(self.bytes()?).map_err(|_| Error::Utf8)?.to_owned())
    }
    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.bool(field)? { Ok(Some(read(self)?)) } else { Ok(None) }
    }
    /// Reads a list; `least` is the smallest encoding of one element, so that the count is checked before anything is held.
    pub(crate) fn list<T>(
        &mut self,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least {
            return Err(Error::TooMany);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(read(self)?);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
