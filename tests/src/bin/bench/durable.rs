//! The proof that what is measured is durable: the databases' settings, read from the real files, and the flushes that the device saw.

use crate::contender::Contender;
use crate::ours::Ours;
use crate::stamps::Stamps;
use crate::{client, usage};
use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: u64 = 0x0102_1994;
/// Submits whose flushes are counted.
const SUBMITS: u64 = 50;

/// Refuses a file system without a disk, then prints the proof.
pub(crate) fn show(dir: &Path) -> Result<()> {
    let kind = rustix::fs::statfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?.f_type;
    ensure!(u64::try_from(kind) != Ok(TMPFS), "{} is a tmpfs: nothing there is durable", dir.display());
    let below = dir.join("durable");
    std::fs::create_dir_all(&below)?;
    let mut ours = Ours::new(2, Stamps::new(&below)?.pipe())?;
    ours.run(SUBMITS as usize)?;
    settings("informer", &ours.world.dir().join("informer/informer.db"))?;
    settings("sidecar", &ours.world.sidecars[0].data.join("ledger.db"))?;
    // Without the sidecar only submits are left to flush.
    ours.world.kill_box(0);
    let before = usage::flushes(dir)?;
    let (runtime, api) = ours.api();
    for _ in 0..SUBMITS {
        runtime.block_on(api.submit(client::request(client::idle_spec("flush"))))?;
    }
    let flushes = usage::flushes(dir)? - before;
    println!("{SUBMITS} single submits, one after another: {flushes} flushes of the device");
    ensure!(flushes >= SUBMITS, "submits were answered before they were on disk");
    Ok(())
}

/// What the file itself says; `synchronous` belongs to a connection, which is why flushes are counted.
fn settings(whose: &str, path: &Path) -> Result<()> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut line = format!("{whose}, {name}:");
    for pragma in ["journal_mode", "page_size", "auto_vacuum", "user_version"] {
        let value: rusqlite::types::Value = db.pragma_query_value(None, pragma, |row| row.get(0))?;
        let shown = match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        ensure!(pragma != "journal_mode" || shown == "wal", "{} is not in WAL mode", path.display());
        line += &format!(" {pragma}={shown}");
    }
    println!("{line}");
    Ok(())
}
