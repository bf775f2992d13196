//! The thread that writes the lease page: the page is a file, and a store into it may wait for the disk. Beats may not.
//!
//! Anybody may remove, replace or cut that file. So whatever it is looked at for, a page that does not say what was published last is
//! written again: with each beat, when its length or its name's file has changed ([`Watch`]), and when the keeper refuses a start for
//! want of a lease that is live here.

use super::shell::Input;
use crate::machine::{Event, Notice};
use keeper::lease::{self, LeasePage, Seal};
use proto::id::{AttemptId, SidecarId};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

const NS_PER_MS: u64 = 1_000_000;

/// What the thread is told.
#[derive(Debug)]
enum Order {
    /// A deadline, milliseconds of `CLOCK_BOOTTIME`, and whose it is.
    Publish(u64, Seal),
    /// The page may not be what it was.
    Look,
    /// So it seems to the keeper, which has refused this start.
    Refused(AttemptId),
}

/// Hands deadlines to the thread; it ends when this is dropped, and the watch.
#[derive(Debug)]
pub(super) struct LeasePublisher {
    orders: mpsc::Sender<Order>,
    incarnation: u64,
    sidecar: SidecarId,
    /// Whose the page's deadline is; `None`: it has none, or somebody has taken it away.
    sealed: Option<Seal>,
    /// Refused since the last deadline.
    refused: Vec<AttemptId>,
}

/// Tells the thread when another file has the page's name, or the length of it has changed.
#[derive(Debug)]
pub(super) struct Watch {
    orders: mpsc::Sender<Order>,
    path: PathBuf,
    seen: Option<(u64, u64, u64)>,
}

impl Watch {
    /// One `stat`.
    pub(super) fn look(&mut self) {
        let found = std::fs::metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino(), meta.len()));
        if std::mem::replace(&mut self.seen, found) != found {
            let _ended = self.orders.send(Order::Look);
        }
    }
}

impl LeasePublisher {
    /// Starts the thread. What an earlier incarnation published stays until the first deadline.
    pub(super) fn start(
        data_dir: &Path,
        sidecar: SidecarId,
        incarnation: u64,
        inbox: tokio::sync::mpsc::Sender<Input>,
    ) -> io::Result<(Self, Watch)> {
        let page = LeasePage::open(data_dir)?;
        let sealed = page.sealed();
        let path = data_dir.join(lease::FILE);
        let (orders, queue) = mpsc::channel();
        let writer = Writer { page, path: path.clone(), incarnation, published: None, failed: false };
        std::thread::Builder::new().name("lease".into()).spawn(move || writer.run(&queue, &inbox))?;
        let watch = Watch { orders: orders.clone(), path, seen: None };
        Ok((Self { orders, incarnation, sidecar, sealed, refused: Vec::new() }, watch))
    }

    /// Whether the page guards what another informer, or another sidecar's id, has given; without a page that says so, it may.
    pub(super) fn is_strange_to(&self, lineage: &str) -> bool {
        self.sealed.is_none_or(|seal| !seal.is_of(&self.sidecar.to_bytes(), lineage))
    }

    /// Publishes a deadline, milliseconds of `CLOCK_BOOTTIME`, earned from the informer of this lineage. Never waits.
    pub(super) fn publish(&mut self, deadline_ms: u64, lineage: &str) {
        let seal = Seal::of(&self.sidecar.to_bytes(), lineage, self.incarnation);
        self.sealed = Some(seal);
        self.refused.clear();
        // The thread lives as long as this sender.
        let _alive = self.orders.send(Order::Publish(deadline_ms, seal));
    }

    /// The keeper finds no live lease for a start, and there is one. True: the page is looked after and the start decided anew, as after
    /// its preparation; once between two deadlines, for who is refused again then is refused for good.
    pub(super) fn on_refused(&mut self, attempt: AttemptId) -> bool {
        if self.refused.contains(&attempt) {
            return false;
        }
        self.refused.push(attempt);
        self.orders.send(Order::Refused(attempt)).is_ok()
    }
}

/// What the thread has.
struct Writer {
    page: LeasePage,
    path: PathBuf,
    incarnation: u64,
    published: Option<(u64, Seal)>,
    /// It was said that the page cannot be written.
    failed: bool,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Order>, inbox: &tokio::sync::mpsc::Sender<Input>) {
        while let Ok(first) = queue.recv() {
            let mut refused = Vec::new();
            // Only the latest counts, so whatever gathered behind a slow disk is one store.
            for order in std::iter::once(first).chain(queue.try_iter()) {
                match order {
                    Order::Publish(deadline_ms, seal) => {
                        self.published = Some((deadline_ms.saturating_mul(NS_PER_MS), seal));
                    }
                    Order::Look => {}
                    Order::Refused(attempt) => refused.push(attempt),
                }
            }
            if let Some(written) = self.keep() {
                let _ended = inbox.blocking_send(Input::Event(Event::LeasePageSeen { written }));
            }
            for attempt in refused {
                // Without a loop the agent is ending.
                let event = Event::Noticed { attempt, notice: Notice::Prepared };
                let _ended = inbox.blocking_send(Input::Event(event));
            }
        }
    }

    /// The page says what was published last; whether it does, if that has changed.
    fn keep(&mut self) -> Option<bool> {
        let (deadline_ns, seal) = self.published?;
        let written = match self.page.holds(deadline_ns, seal) {
            true => Ok(()),
            false => self.page.seal(seal).and_then(|()| self.page.publish(deadline_ns, self.incarnation)),
        };
        let failed = written.is_err();
        if std::mem::replace(&mut self.failed, failed) == failed {
            return None;
        }
        match written {
            Ok(()) => tracing::info!("the lease page can be written again"),
            Err(error) => tracing::warn!(
                "cannot write the lease page {}: {error}; taking no tasks until it can be written, and `stop` tasks end with the lease that \
                 stands there: make room, or move away what has its name",
                self.path.display()
            ),
        }
        Some(!failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SidecarId = SidecarId::from_u128(7);

    /// Waits until the thread has done what it was told.
    fn settle(publisher: &mut LeasePublisher, answers: &mut tokio::sync::mpsc::Receiver<Input>) -> AttemptId {
        let attempt = AttemptId { task: proto::id::TaskId::from_u128(1), number: 1 };
        assert!(publisher.on_refused(attempt));
        loop {
            match answers.blocking_recv() {
                Some(Input::Event(Event::Noticed { attempt, notice: Notice::Prepared })) => return attempt,
                Some(Input::Event(Event::LeasePageSeen { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_page_that_somebody_harms_is_written_again_when_it_is_looked_at() {
        let data = std::env::temp_dir().join(format!("sidecar-lease-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("a directory");
        let file = data.join(lease::FILE);
        let (inbox, mut answers) = tokio::sync::mpsc::channel(8);
        let (mut publisher, mut watch) = LeasePublisher::start(&data, ID, 1, inbox).expect("started");
        assert!(publisher.is_strange_to("x"), "what is not there may have been anybody's");
        publisher.publish(5, "x");
        assert!(!publisher.is_strange_to("x") && publisher.is_strange_to("y"));
        let refused = settle(&mut publisher, &mut answers);
        assert!(!publisher.on_refused(refused), "once between two deadlines");
        let reads = || LeasePage::open(&data).expect("opened").deadline();
        assert_eq!(reads(), Some(5 * NS_PER_MS));
        let harms: [&dyn Fn() -> io::Result<()>; 3] =
            [&|| std::fs::remove_file(&file), &|| std::fs::File::create(&file).map(drop), &|| {
                std::fs::remove_file(&file).and_then(|()| std::fs::create_dir(&file))
            }];
        for (at, harm) in (6..).zip(harms) {
            watch.look();
            // Nobody writes while it is harmed.
            publisher.refused.clear();
            settle(&mut publisher, &mut answers);
            harm().expect("harmed");
            assert_eq!(reads(), None);
            watch.look();
            if file.is_dir() {
                publisher.publish(at, "x");
                settle(&mut publisher, &mut answers);
                std::fs::remove_dir(&file).expect("moved away");
                watch.look();
            }
            publisher.refused.clear();
            settle(&mut publisher, &mut answers);
            assert!(reads().is_some(), "mended");
        }
        assert_eq!(reads(), Some(8 * NS_PER_MS), "with the deadline that could not be written");
        std::fs::remove_dir_all(&data).expect("removed");
    }
}
