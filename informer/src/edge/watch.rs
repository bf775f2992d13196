//! Watch: the task at once, then again at each change.
//!
//! Subscribe first, read the rows then, follow last: a change between reading and following is in the subscription. A row that is
//! not newer than the last one told is skipped, so that what is in both is told once.
//!
//! A member of an array that has no row of its own is told from its array's row, at version 0; each change of that row is looked at
//! for the members of it that are watched.

use super::error::Error;
use super::stream::Produced;
use super::{Edge, convert};
use crate::shell;
use proto::id::TaskId;
use proto::{bounds, check, store, v1};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Tasks waiting for a watcher that reads slowly. Beyond it the subscription's own queue fills, and then rows are read again.
const QUEUE: usize = 64;
/// How often the progress of running tasks is looked at. It changes with every beat of every sidecar without any commit; a person
/// wants to see it about once a second.
const PROGRESS: Duration = Duration::from_secs(1);

/// Starts a watch over the ids, or over every task from now on.
///
/// # Errors
/// Too many ids, here or in all watches; a string that is none.
pub(super) fn start(edge: Edge, request: v1::WatchRequest) -> Result<Produced<v1::Task>, Error> {
    if request.ids.len() > bounds::WATCH_IDS {
        return Err(Error::Field(check::Fault {
            field: "ids".to_owned(),
            problem: format!("{} are over the bound", request.ids.len()),
            remedy: format!("use at most {}, or none to watch every task", bounds::WATCH_IDS),
        }));
    }
    let ids = request.ids.iter().map(|id| id.parse()).collect::<Result<Vec<TaskId>, _>>()?;
    let permit = room(&edge, ids.len())?;
    let changes = edge.handle.changes();
    let (out, queue) = mpsc::channel(QUEUE);
    let mut progress = interval(PROGRESS);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        told: ids.into_iter().map(|id| (id, Told::default())).collect(),
        edge: edge.clone(),
        changes,
        out,
        progress,
    };
    Ok(Produced::new(queue, async move {
        let _permit: OwnedSemaphorePermit = permit;
        tokio::select! {
            result = watch.run() => result,
            stopped = edge.stopped() => Err(stopped),
        }
    }))
}

/// Room for so many tasks, held while they are watched; a watch over every task keeps no rows and counts as one.
fn room(edge: &Edge, ids: usize) -> Result<OwnedSemaphorePermit, Error> {
    let full = Error::Watchers { limit: bounds::WATCHED_TASKS };
    // Bounded above.
    let wanted = u32::try_from(ids.max(1)).unwrap_or(u32::MAX);
    Arc::clone(&edge.watched).try_acquire_many_owned(wanted).map_err(|_| full)
}

struct Watch {
    edge: Edge,
    changes: broadcast::Receiver<Arc<store::TaskRow>>,
    out: mpsc::Sender<v1::Task>,
    /// Empty: every task.
    told: BTreeMap<TaskId, Told>,
    progress: Interval,
}

/// What the watcher knows of one task.
#[derive(Default)]
struct Told {
    /// Row version; rows count from 1, and 0 is a member without one.
    version: u64,
    row: Option<Arc<store::TaskRow>>,
    progress: Option<v1::Progress>,
}

impl Told {
    fn is_terminal(&self) -> bool {
        self.row.as_deref().is_some_and(convert::is_terminal)
    }
}

impl Watch {
    async fn run(mut self) -> Result<(), Error> {
        if self.told.is_empty() {
            return self.everything().await;
        }
        self.read_all().await?;
        while !self.told.values().all(Told::is_terminal) {
            tokio::select! {
                changed = self.changes.recv() => match changed {
                    Ok(row) => {
                        self.tell_members(&row).await?;
                        self.tell(row).await?;
                    }
                    Err(RecvError::Lagged(_)) => self.read_all().await?,
                    Err(RecvError::Closed) => return Err(Error::Stopping),
                },
                _ = self.progress.tick() => self.tell_progress().await?,
            }
        }
        Ok(())
    }

    async fn everything(mut self) -> Result<(), Error> {
        loop {
            match self.changes.recv().await {
                Ok(row) => self.send(convert::task(&self.edge.handle, &row)).await?,
                // Which tasks changed is not known any more; the client lists them and watches again.
                Err(RecvError::Lagged(missed)) => return Err(Error::Lagged { missed }),
                Err(RecvError::Closed) => return Err(Error::Stopping),
            }
        }
    }

    async fn read_all(&mut self) -> Result<(), Error> {
        let ids: Vec<TaskId> = self.told.keys().copied().collect();
        for id in ids {
            let row = self.edge.handle.get(id).await?.ok_or(Error::UnknownTask(id))?;
            self.tell(Arc::new(row)).await?;
        }
        Ok(())
    }

    /// Tells the watched members of an array that its row tells, and that are others now.
    async fn tell_members(&mut self, array: &store::TaskRow) -> Result<(), Error> {
        if array.array.is_none() {
            return Ok(());
        }
        let id = convert::task_id(array);
        // A member's id follows its array's directly.
        let members = self.told.range(id..).skip_while(|(task, _)| **task == id).map_while(|(task, told)| {
            task.array().filter(|array| *array == id)?;
            Some(task.index().filter(|_| told.version == 0))
        });
        let changed: Vec<_> = members.flatten().filter_map(|index| shell::member(array, index)).collect();
        for row in changed {
            self.tell(Arc::new(row)).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, row: Arc<store::TaskRow>) -> Result<(), Error> {
        let Some(told) = self.told.get_mut(&convert::task_id(&row)) else { return Ok(()) };
        let known = told.row.as_ref().is_some_and(|known| {
            // Version 0 is a member without a row, of which only the state can change.
            if row.version == 0 && told.version == 0 { row.state == known.state } else { row.version <= told.version }
        });
        if known {
            return Ok(());
        }
        let task = convert::task(&self.edge.handle, &row);
        *told = Told { version: row.version, progress: task.progress.clone(), row: Some(row) };
        self.send(task).await
    }

    async fn tell_progress(&mut self) -> Result<(), Error> {
        let mut advanced = Vec::new();
        for (id, told) in &mut self.told {
            let Some(row) = told.row.as_deref().filter(|row| row.state() == v1::TaskState::Running) else { continue };
            let progress = self.edge.handle.progress(*id);
            if progress.is_some() && progress != told.progress {
                advanced.push(convert::task(&self.edge.handle, row));
                told.progress = progress;
            }
        }
        for task in advanced {
            self.send(task).await?;
        }
        Ok(())
    }

    /// Waits while the watcher reads slowly. A watcher that left ends this task from outside, by dropping the stream.
    async fn send(&self, task: v1::Task) -> Result<(), Error> {
        self.out.send(task).await.map_err(|_| Error::Stopping)
    }
}
