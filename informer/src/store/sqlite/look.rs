//! What a start looks at before it changes anything.

use super::fault::explain;
use super::{alone, check, log, meta, open, schema, witness};
use crate::store::{Error, Reached};
use rusqlite::Connection;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A database that may be used.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) db: Connection,
    /// Its schema.
    pub(super) version: u32,
    /// All of it was read.
    pub(super) whole: bool,
    /// What the file is known to hold without its log.
    pub(super) moved: Reached,
}

/// Refuses what is not ours, is newer than us, is a mixture of two times, lacks what was acknowledged or is seen to be damaged. Of a
/// `restored` one an operator says that it is an older copy: what it lacks is gone.
pub(super) fn at(path: &Path, restored: bool) -> Result<Looked, Error> {
    let statement = witness::read(path);
    let (file, has_log) = (alone::read(path)?, alone::has_log(path));
    let db = open::connect(path)?;
    // Whoever is refused leaves everything as it was, the log too.
    log::leave(&db).map_err(|error| explain("open", path, error))?;
    let version = version(&db, path)?;
    let both = meta::read(&db);
    // Before the pages: of a mixture they look damaged at best, and not why.
    if let Some(statement) = statement.filter(|_| !restored) {
        statement.judge(both, path)?;
    }
    if let (Some(file), Some(both)) = (file, both) {
        alone::judge(&file, &both, path)?;
        let vouched = restored || statement.is_some_and(|statement| statement.is_of(both.lineage));
        if both.logged && !has_log && !vouched {
            return Err(Error::NoLog { path: path.to_owned(), log: log::of(path), found: both.reached });
        }
    }
    // What is rewritten must be good; and a small file costs nothing.
    let whole = version < schema::newest() || check::is_small(&db, path)?;
    if whole {
        check::whole(&db, path)?;
    }
    let both = meta::required(&db, path)?;
    let moved = file.map_or(both.moved, |file| file.reached);
    Ok(Looked { db, version, whole, moved })
}

/// The schema of an informer's database that we know.
pub(super) fn version(db: &Connection, path: &Path) -> Result<u32, Error> {
    let pragma = |name: &str| {
        db.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map_err(|error| explain("read", path, error))
    };
    let found = pragma("application_id")?;
    if found != schema::APPLICATION_ID {
        return Err(Error::Foreign { path: path.to_owned(), found });
    }
    let (found, known) = (pragma("user_version")?, schema::newest());
    if found > known {
        return Err(Error::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// What lay beside the database before it was looked at. Even a look makes SQLite put an index of the log and an empty log there; whoever
/// is refused finds the directory as it was.
#[derive(Debug)]
pub(super) struct Before {
    index: PathBuf,
    had_index: bool,
    log: PathBuf,
    /// Its length.
    log_bytes: Option<u64>,
}

impl Before {
    pub(super) fn of(path: &Path) -> Self {
        let (index, log) = (open::beside(path, "-shm"), log::of(path));
        Self { had_index: index.exists(), index, log_bytes: fs::metadata(&log).ok().map(|log| log.len()), log }
    }

    /// Makes it so again. No connection may be open any more, and nothing may have been committed since.
    pub(super) fn restore(&self) {
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let index = if self.had_index { Ok(()) } else { gone(&self.index) };
        let log = match self.log_bytes {
            None => gone(&self.log),
            // What is longer now are zeros.
            Some(bytes) => shorten(&self.log, bytes),
        };
        for (path, outcome) in [(&self.index, index), (&self.log, log)] {
            if let Err(error) = outcome {
                tracing::warn!(path = %path.display(), %error, "cannot remove what the refused start has made");
            }
        }
    }
}

fn shorten(path: &Path, bytes: u64) -> io::Result<()> {
    if fs::metadata(path)?.len() > bytes { File::options().write(true).open(path)?.set_len(bytes) } else { Ok(()) }
}
