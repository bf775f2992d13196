//! How messages of the wire become bytes: as everywhere, but with small buffers.
//!
//! Tonic gives each call 8 KiB to encode into and 8 KiB to decode from before anything is said. A link of an idle sidecar sends a
//! few dozen bytes every few seconds, and ten thousand of them held 160 MB for that.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec as Tonic};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a call has for its messages in each direction; more is taken when a message needs it. A report or a small task fits.
const BUFFER_BYTES: usize = 1 << 10;
/// Messages that are there together leave together up to so many bytes: tonic's own measure.
const YIELD_BYTES: usize = 32 << 10;

/// The codec of every call.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Tonic for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
