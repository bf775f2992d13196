//! The chunk of items that was read last: members start in the order of their indices, so that a run of them reads each chunk once.

use crate::store::{Error, ItemChunk, Read};
use proto::id::TaskId;

/// At most one chunk, `bounds::ITEM_CHUNK_BYTES`.
#[derive(Debug, Default)]
pub(super) struct Items {
    last: Option<ItemChunk>,
}

impl Items {
    /// The item at a position of an array; `None` if the store has none.
    pub(super) fn get(&mut self, array: TaskId, position: u32, reader: &mut dyn Read) -> Result<Option<String>, Error> {
        if let Some(item) = self.last.as_ref().and_then(|chunk| within(chunk, array, position)) {
            return Ok(Some(item));
        }
        self.last = reader.item_chunk(array, position)?;
        Ok(self.last.as_ref().and_then(|chunk| within(chunk, array, position)))
    }
}

fn within(chunk: &ItemChunk, array: TaskId, position: u32) -> Option<String> {
    let at = position.checked_sub(chunk.first).filter(|_| chunk.array == array)?;
    chunk.items.get(at as usize).cloned()
}
