//! Payload bodies, and who has them.
//!
//! A body that is there belongs to one task and to as many more as `payload_shares` says; no row there means no more. Members of an
//! array do not count, their array does.

use super::fault::{damaged, explain};
use super::flow::{self, Holders};
use crate::machine::{PayloadHandle, TaskChange};
use crate::store::{Commit, Error};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

const SHARE: &str = "INSERT INTO payload_shares (hash, more) VALUES (?1, ?2)
     ON CONFLICT (hash) DO UPDATE SET more = more + excluded.more";

/// Stores the bodies that are not there yet, and counts the new tasks of `commit` as theirs.
pub(super) fn store(db: &Connection, commit: &Commit) -> rusqlite::Result<()> {
    let mut holders = holders(&commit.batch.tasks);
    flow::hold(db, commit, &mut holders)?;
    let mut put =
        db.prepare_cached("INSERT INTO payloads (hash, body) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING")?;
    for (hash, body) in commit.payloads.iter().chain(&commit.batch.bodies) {
        if put.execute(params![hash.as_slice(), body.as_ref()])? == 1 {
            // The first that has it is not written down.
            *holders.entry(hash.to_vec()).or_insert(0) -= 1;
        }
    }
    let mut share = db.prepare_cached(SHARE)?;
    for (hash, more) in holders.into_iter().filter(|(_, more)| *more != 0) {
        share.execute(params![hash, more])?;
    }
    Ok(())
}

fn holders(tasks: &[TaskChange]) -> Holders {
    let mut holders = BTreeMap::new();
    for change in tasks.iter().filter(|change| change.fresh && !super::row::is_member(&change.row.id)) {
        *holders.entry(change.row.payload.clone()).or_insert(0) += 1;
    }
    holders
}

/// Takes tasks away from their bodies; one that nobody has any more goes.
pub(super) fn release(db: &Connection, tasks: &Holders) -> rusqlite::Result<()> {
    let mut more = db.prepare_cached("SELECT more FROM payload_shares WHERE hash = ?1")?;
    let mut unshare = db.prepare_cached("DELETE FROM payload_shares WHERE hash = ?1")?;
    let mut drop = db.prepare_cached("DELETE FROM payloads WHERE hash = ?1")?;
    let mut share = db.prepare_cached(SHARE)?;
    for (hash, gone) in tasks {
        let shared: i64 = more.query_row([hash], |row| row.get(0)).optional()?.unwrap_or(0);
        if shared > *gone {
            share.execute(params![hash, -gone])?;
            continue;
        }
        unshare.execute([hash])?;
        if shared < *gone {
            drop.execute([hash])?;
        }
    }
    Ok(())
}

/// Removes the bodies that no task has: those of submissions that were refused.
pub(super) fn sweep(db: &Connection) -> rusqlite::Result<()> {
    db.execute("DELETE FROM payloads WHERE hash IN (SELECT hash FROM payload_shares WHERE more < 0)", [])?;
    db.execute("DELETE FROM payload_shares WHERE more <= 0", []).map(|_| ())
}

/// Bodies by their hash; those that are not there are absent. Each is hashed anew: it says what is run, and a page that holds another one
/// looks as good as any.
pub(super) fn read(
    db: &Connection,
    path: &Path,
    handles: &[PayloadHandle],
) -> Result<BTreeMap<PayloadHandle, bytes::Bytes>, Error> {
    let failed = |error| explain("read", path, error);
    let mut statement = db.prepare_cached("SELECT body FROM payloads WHERE hash = ?1").map_err(failed)?;
    let mut bodies = BTreeMap::new();
    for handle in handles {
        let body = statement.query_row([handle.as_slice()], |row| row.get::<_, Vec<u8>>(0)).optional();
        let Some(body) = body.map_err(failed)? else { continue };
        if Sha256::digest(&body)[..] != handle[..] {
            let hash: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(damaged(path, &format!("the payload {hash}"), "its content has another SHA-256"));
        }
        bodies.insert(*handle, body.into());
    }
    Ok(bodies)
}
