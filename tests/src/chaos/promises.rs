//! What clients were promised in a round, and whether it was kept: for cases whose harm is to a machine and whose tasks are few.
//!
//! A promise is a submit that was acknowledged. It is kept if its key still gives its id, its task succeeds once, and its process was
//! started as often as attempts tell.

use super::{Outcome, now};
use crate::world::life::Watched;
use crate::world::{World, wait_for};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fmt::Display;
use std::time::Duration;

/// Between two looks of a script that waits for a file, seconds.
const LOOK_SECONDS: f64 = 0.03;

struct Promise {
    key: String,
    args: Vec<String>,
    id: String,
}

/// The promises of a round, and what was found about them.
#[derive(Default)]
pub(super) struct Promises {
    given: Vec<Promise>,
    asked: usize,
    violations: Vec<String>,
    lost: u64,
    doubled: u64,
}

impl Promises {
    /// Submits under a key of its own; its id if that was acknowledged.
    ///
    /// # Errors
    /// The command line cannot be started.
    pub(super) fn try_submit(&mut self, world: &World, args: &[&str]) -> Result<Option<String>> {
        let key = format!("promise-{}", self.asked);
        self.asked += 1;
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let Some(id) = submit(world, &key, &args)? else { return Ok(None) };
        self.given.push(Promise { key, args, id: id.clone() });
        Ok(Some(id))
    }

    /// Submits and needs the acknowledgement.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn submit(&mut self, world: &World, args: &[&str]) -> Result<String> {
        self.try_submit(world, args)?.with_context(|| format!("{args:?} was refused: {}", world.log("informer.log")))
    }

    /// Submits where the informer may end before it answers; whether it has.
    ///
    /// # Errors
    /// The command line cannot be started, or neither is the case in time.
    pub(super) fn submit_unless_ended(&mut self, world: &mut World, args: &[&str]) -> Result<bool> {
        let key = format!("promise-{}", self.asked);
        self.asked += 1;
        let mut client = Watched::new(world.informer_started(&[&["submit", "--key", &key], args].concat())?)?;
        // The client first: what it was told before the end is a promise.
        wait_for("the client is served, or the informer has ended", || {
            (!client.runs() || world.informer_has_ended()).then_some(())
        })?;
        if client.runs() {
            return Ok(true);
        }
        if client.wait()?.success() {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            let id = String::from_utf8_lossy(&client.stdout).trim().to_owned();
            self.given.push(Promise { key, args, id });
        }
        Ok(world.informer_pid().is_none())
    }

    /// Notes what does not hold.
    pub(super) fn require(&mut self, holds: bool, otherwise: impl Display) {
        if !holds {
            self.violations.push(otherwise.to_string());
        }
    }

    /// Each key gives its id again.
    ///
    /// # Errors
    /// The command line cannot be started.
    pub(super) fn ask_again(&mut self, world: &World) -> Result<()> {
        for promise in &mut self.given {
            match submit(world, &promise.key, &promise.args)? {
                Some(id) if id == promise.id => {}
                Some(other) => {
                    self.lost += 1;
                    self.violations.push(format!("invariant 1: {} was {}, is {other} now", promise.key, promise.id));
                    promise.id = other;
                }
                None => self.violations.push(format!("invariant 2: {} is refused with the same payload", promise.key)),
            }
        }
        Ok(())
    }

    /// Waits until every task has ended; each has succeeded, by one accepted attempt.
    ///
    /// # Errors
    /// One does not end.
    pub(super) fn settle(&mut self, world: &World) -> Result<()> {
        for promise in &self.given {
            let task = ended(world, &promise.id)?;
            let accepted = attempts(&task).iter().filter(|attempt| attempt["state"] == "succeeded").count();
            if accepted > 1 {
                self.doubled += 1;
                self.violations.push(format!("invariant 3: {accepted} results accepted: {task}"));
            }
            if task["state"] != "succeeded" {
                self.violations.push(format!("invariant 4: it did not succeed: {task}"));
            }
        }
        Ok(())
    }

    /// What the round showed.
    pub(super) fn outcome(
        self,
        happened: impl Into<String>,
        detected: Option<Duration>,
        recovered: Option<Duration>,
    ) -> Outcome {
        let (lost, doubled, violations) = (self.lost, self.doubled, self.violations);
        Outcome { happened: happened.into(), detected, recovered, lost, doubled, violations }
    }
}

fn submit(world: &World, key: &str, args: &[String]) -> Result<Option<String>> {
    let mut all = vec!["submit", "--key", key];
    all.extend(args.iter().map(String::as_str));
    let output = world.informer(&all)?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// The attempts of a task.
pub(super) fn attempts(task: &Value) -> &[Value] {
    task["attempts"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until a task has ended; the task then.
///
/// # Errors
/// It does not end.
pub(super) fn ended(world: &World, id: &str) -> Result<Value> {
    world.wait_state(id, &["succeeded", "failed", "cancelled"])
}

/// A script that writes its process id and attempt into `starts-NAME` below the world, and runs until there is a file `go-NAME`.
pub(super) fn waiting(world: &World, name: &str) -> String {
    waiting_among(world, name, 1)
}

/// The same for one of so many: all together look for the file as often as one alone would, or they would take the machine.
pub(super) fn waiting_among(world: &World, name: &str, count: usize) -> String {
    let dir = world.dir().display();
    let seconds = LOOK_SECONDS * f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let wait = format!("while [ ! -e {dir}/go-{name} ]; do sleep {seconds:.2}; done");
    format!("echo $$ $INFORMER_ATTEMPT >> {dir}/starts-{name}; {wait}")
}

/// The process id of the first start of a [`waiting`] script.
///
/// # Errors
/// It does not start.
pub(super) fn started(world: &World, name: &str) -> Result<i32> {
    let file = format!("starts-{name}");
    let line = wait_for(&format!("{name} says that it started"), || world.lines(&file).first().cloned())?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}

/// How often a [`waiting`] script was started.
pub(super) fn starts(world: &World, name: &str) -> usize {
    world.lines(&format!("starts-{name}")).len()
}

/// The time since a moment of [`now`].
pub(super) fn since(moment: Duration) -> Duration {
    now().saturating_sub(moment)
}
