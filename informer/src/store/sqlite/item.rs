//! Items of arrays, in chunks.
//!
//! ```text
//!   chunk   n │ end of item 0 │ … │ end of item n-1 │ bytes of all items        numbers: 32 bits, little-endian
//! ```
//!
//! So one item is found without looking at the others.

use super::fault::{damaged, explain};
use crate::store::{Error, ItemChunk};
use proto::id::TaskId;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::path::Path;

fn encode(items: &[String]) -> Vec<u8> {
    let bytes: usize = items.iter().map(String::len).sum();
    let mut chunk = Vec::with_capacity(4 * (items.len() + 1) + bytes);
    let number = |chunk: &mut Vec<u8>, n: usize| {
        // The wire bounds a chunk to far less.
        chunk.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    };
    number(&mut chunk, items.len());
    let mut end = 0;
    for item in items {
        end += item.len();
        number(&mut chunk, end);
    }
    for item in items {
        chunk.extend_from_slice(item.as_bytes());
    }
    chunk
}

/// The item at place `at` of a chunk; `Ok(None)` if the chunk ends before, an error if it is not one that [`encode`] wrote.
fn decode(chunk: &[u8], at: usize) -> Result<Option<String>, &'static str> {
    const CUT: &str = "it is shorter than it says";
    let number = |n: usize| -> Option<usize> {
        let bytes = chunk.get(4 * n..4 * n + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let count = number(0).ok_or(CUT)?;
    if at >= count {
        return Ok(None);
    }
    let start = if at == 0 { 0 } else { number(at).ok_or(CUT)? };
    let end = number(at + 1).ok_or(CUT)?;
    let bytes = chunk.get(4 * (count + 1)..).and_then(|items| items.get(start..end)).ok_or(CUT)?;
    std::str::from_utf8(bytes).map(|item| Some(item.to_owned())).map_err(|_| "an item is not text")
}

pub(super) fn store(db: &Connection, chunks: &[ItemChunk]) -> rusqlite::Result<()> {
    let mut put = db.prepare_cached("INSERT INTO array_items (array, first, body) VALUES (?1, ?2, ?3)")?;
    for chunk in chunks {
        put.execute(params![&*chunk.array.to_bytes(), chunk.first, encode(&chunk.items)])?;
    }
    Ok(())
}

/// Removes what submissions left that were interrupted: items of arrays that are not there.
pub(super) fn sweep(db: &Connection) -> rusqlite::Result<()> {
    // The inner query reads the index only, not the chunks.
    let sql = "DELETE FROM array_items WHERE array IN (SELECT DISTINCT array FROM array_items items
               WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = items.array))";
    db.execute(sql, []).map(|_| ())
}

pub(super) fn read(db: &Connection, path: &Path, array: TaskId, position: u32) -> Result<Option<String>, Error> {
    let Some((first, chunk)) = find(db, path, array, position)? else { return Ok(None) };
    decode(&chunk, (position - first) as usize).map_err(|why| damaged(path, "a row of array_items", why))
}

/// The whole chunk that holds a position.
pub(super) fn chunk(db: &Connection, path: &Path, array: TaskId, position: u32) -> Result<Option<ItemChunk>, Error> {
    let Some((first, chunk)) = find(db, path, array, position)? else { return Ok(None) };
    let mut items = Vec::new();
    while let Some(item) = decode(&chunk, items.len()).map_err(|why| damaged(path, "a row of array_items", why))? {
        items.push(item);
    }
    Ok(Some(ItemChunk { array, first, items }))
}

/// The encoded chunk with the last position that is not above the given one, and that position.
fn find(db: &Connection, path: &Path, array: TaskId, position: u32) -> Result<Option<(u32, Vec<u8>)>, Error> {
    let sql = "SELECT first, body FROM array_items WHERE array = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";
    let find = || -> rusqlite::Result<Option<(u32, Vec<u8>)>> {
        let mut statement = db.prepare_cached(sql)?;
        statement.query_row(params![&*array.to_bytes(), position], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    find().map_err(|error| explain("read", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_read_item_by_item_and_a_damaged_one_is_told() {
        let items = ["a", "", "zwölf", "\n"].map(str::to_owned);
        let chunk = encode(&items);
        for (at, item) in items.iter().enumerate() {
            assert_eq!(decode(&chunk, at), Ok(Some(item.clone())));
        }
        assert_eq!(decode(&chunk, 4), Ok(None));
        assert_eq!(decode(&encode(&[]), 0), Ok(None));
        for cut in 0..chunk.len() {
            assert!(decode(&chunk[..cut], 3).is_err(), "cut at {cut}");
        }
        let mut strange = chunk.clone();
        strange[4..8].fill(0xff);
        assert!(decode(&strange, 0).is_err() && decode(&strange, 1).is_err());
        strange[..4].fill(0xff);
        assert!(decode(&strange, 3).is_err());
    }
}
