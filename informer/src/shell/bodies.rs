//! Payload bodies that were seen lately: most tasks are assigned soon after their submit, and then nothing is read for it.

use crate::machine::PayloadHandle;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// Bytes kept: some twenty thousand common payloads, or 32 of the largest. More would only save reads that the page cache answers.
const KEPT_BYTES: usize = 8 << 20;
/// What a body costs besides itself: its places in the table (two thirds full) and in the order, and the counter of its holders.
/// Uncounted, a hundred thousand bodies of a hundred bytes would be 20 MB and not 8.
const PLACE_BYTES: usize = 160;

/// The youngest bodies, up to [`KEPT_BYTES`].
#[derive(Debug, Default)]
pub(super) struct Bodies {
    by_handle: HashMap<PayloadHandle, Bytes>,
    oldest_first: VecDeque<PayloadHandle>,
    bytes: usize,
}

impl Bodies {
    pub(super) fn keep(&mut self, handle: PayloadHandle, body: Bytes) {
        let bytes = kept_bytes(&body);
        if self.by_handle.insert(handle, body).is_some() {
            return;
        }
        self.bytes += bytes;
        self.oldest_first.push_back(handle);
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.oldest_first.pop_front() else { return };
            self.bytes -= self.by_handle.remove(&oldest).map_or(0, |body| kept_bytes(&body));
        }
    }

    pub(super) fn get(&self, handle: &PayloadHandle) -> Option<&Bytes> {
        self.by_handle.get(handle)
    }
}

fn kept_bytes(body: &Bytes) -> usize {
    body.len() + PLACE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let mut bodies = Bodies::default();
        let third = Bytes::from(vec![0; KEPT_BYTES / 3 - PLACE_BYTES]);
        for n in 0..4 {
            bodies.keep([n; 32], third.clone());
            bodies.keep([n; 32], third.clone());
        }
        let kept: Vec<bool> = (0..4).map(|n| bodies.get(&[n; 32]).is_some()).collect();
        assert_eq!(kept, [false, true, true, true]);
        assert_eq!(bodies.bytes, 3 * kept_bytes(&third));
    }
}
