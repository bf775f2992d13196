//! The bytes of a kept log.
//!
//! ```text
//!  frame* (stdout)  frame* (stderr)  index  length of the index (4)  its digest (8)  "INFLOG01"
//! ```
//! A frame is a zstd frame with a checksum over [`FRAME_BYTES`] of the log, or over what is left of a stream. So a byte's frame follows
//! from its offset, and where the frame lies from the lengths of those before it.

use prost::Message;
use sha2::{Digest as _, Sha256};

/// Bytes of a log in one frame. A reader unpacks at most one too many; a smaller one would compress worse.
pub(super) const FRAME_BYTES: usize = 1 << 20;
/// zstd's fastest: logs shrink to a tenth by any level, and the time is the informer's.
pub(super) const LEVEL: i32 = 1;
/// Longest index that is believed: 32,768 frames, which two streams of the longest log have.
const INDEX_BYTES: usize = 1 << 18;
/// What stands at the end of each file.
const MAGIC: [u8; 8] = *b"INFLOG01";
/// Bytes after the index.
pub(super) const TRAILER_BYTES: usize = 20;

/// Where what is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Index {
    #[prost(message, required, tag = "1")]
    pub(super) out: Stream,
    #[prost(message, required, tag = "2")]
    pub(super) err: Stream,
    #[prost(uint64, tag = "3")]
    pub(super) frame_bytes: u64,
}

/// One stream.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Stream {
    /// Compressed lengths, in order.
    #[prost(uint32, repeated, tag = "1")]
    pub(super) frames: Vec<u32>,
    /// Bytes kept.
    #[prost(uint64, tag = "2")]
    pub(super) kept: u64,
    #[prost(uint64, tag = "3")]
    pub(super) dropped: u64,
    #[prost(bool, tag = "4")]
    pub(super) truncated: bool,
}

impl Index {
    /// Index and trailer.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut bytes = self.encode_to_vec();
        let digest = Sha256::digest(&bytes);
        let length = u32::try_from(bytes.len()).expect("an index is bounded by the log's bound");
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&digest[..8]);
        bytes.extend_from_slice(&MAGIC);
        bytes
    }

    /// From the bytes that [`index_bytes`] told to read.
    pub(super) fn decoded(bytes: &[u8], trailer: &[u8; TRAILER_BYTES], room: u64) -> Result<Self, String> {
        if Sha256::digest(bytes)[..8] != trailer[4..12] {
            return Err("its index has another digest".to_owned());
        }
        let index = Self::decode(bytes).map_err(|error| error.to_string())?;
        if index.frame_bytes != FRAME_BYTES as u64 {
            return Err(format!("its frames are of {} bytes", index.frame_bytes));
        }
        let lengths = index.out.frames.iter().chain(&index.err.frames);
        let whole = lengths.map(|length| u64::from(*length)).sum::<u64>() == room;
        let filled = [&index.out, &index.err].iter().all(|stream| stream.is_filled());
        if whole && filled { Ok(index) } else { Err("its index does not fit its length".to_owned()) }
    }
}

impl Stream {
    fn is_filled(&self) -> bool {
        self.kept.div_ceil(FRAME_BYTES as u64) == self.frames.len() as u64
            && self.dropped.checked_add(self.kept).is_some()
    }
}

/// Length of the index, as the trailer tells it.
pub(super) fn index_bytes(trailer: &[u8; TRAILER_BYTES]) -> Result<usize, String> {
    let (length, rest) = trailer.split_first_chunk::<4>().expect("a trailer is longer than a length");
    let length = u32::from_le_bytes(*length) as usize;
    if rest[8..] != MAGIC {
        return Err("it does not end as a kept log does".to_owned());
    }
    if length > INDEX_BYTES {
        return Err(format!("its index would be of {length} bytes"));
    }
    Ok(length)
}
