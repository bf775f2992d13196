//! One run of a workflow: a deterministic state machine that knows steps and handles, and never what lies behind a handle.
//!
//! ```text
//!                  ┌────────── Asked ◀───────────────┐ next round
//!   open ─▶ Delayed│            │ answer             │
//!                  └──────▶     ▼                    │
//!            Sent (worker, request, child)  Waiting  Looping  Joining (a counter)
//!                               │              │        │        │
//!                               └──────────────┴── Ended ────────┘
//!                                                    │ conclude: retry │ tolerate │ fail the run │ open what follows
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `flow` | what follows a step; when a run is over |
//! | `ask`, `answer` | what is computed, and what becomes of the answer |
//! | `conclude` | what an end means: retry, tolerate, fail |
//! | `join`, `rounds` | joins and loops |
//! | `stream` | children that a running task emits |
//! | `operate`, `again` | what a user can do to a run; what brings it back after its end |
//! | `index` | which steps are live, waiting, held: derived, never stored |
//!
//! A transition writes the rows it touched and nothing else, and opens in itself what it made possible: nobody sweeps. A join is
//! a counter; no step's end looks at its siblings.

mod again;
mod answer;
mod ask;
#[cfg(feature = "seeded-bugs")]
pub mod bug;
mod check;
mod conclude;
mod event;
mod flow;
mod index;
mod join;
mod operate;
mod rounds;
mod row;
mod stream;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use event::{Command, Effects, Event, Limits, NewChild, Outcome, Refused, RunEnd, TaskEnd, Work};
pub use row::{
    Asked, EmittedRow, EndingRow, Flow, ParentStep, PartRow, Phase, RunRow, RunStatus, StepIx, StepRow, TaskStatus,
};

use crate::definition::Kind;
use crate::evaluate::Handle;
use crate::plan::{Node, NodeId, Plan};
use flow::Todo;
use index::Index;

/// Steps of one run over its whole life. Each is a row; a run that makes more is a loop that does not end.
pub const MAX_STEPS: StepIx = 1_000_000;

/// Branches of one dynamic fork: one transition opens them all, so this bounds a transition.
pub const MAX_BRANCHES: usize = 20_000;

/// Children of one running task. Its join reads the output of each, and what follows it all of them in one input: twice as many would be
/// several times what that may hold.
pub const MAX_CHILDREN: usize = 50_000;

/// Rounds of one loop.
pub const MAX_ROUNDS: u32 = 100_000;

/// Bytes of a reason. It is repeated in rows and lists.
pub const MAX_REASON_BYTES: usize = 500;

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    row: RunRow,
    steps: BTreeMap<StepIx, StepRow>,
    plans: Vec<Arc<Plan>>,
    parts: Vec<PartRow>,
    index: Index,
}

/// What a run is started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its id.
    pub id: String,
    /// Its definition.
    pub plan: Arc<Plan>,
    /// Its input, with what the definition's template adds.
    pub input: Option<Handle>,
    /// Its first variables, where the definition has some.
    pub variables: Option<Handle>,
    /// The user's id of what it belongs to.
    pub correlation: Option<String>,
    /// Who waits for it.
    pub parent: Option<ParentStep>,
}

/// When an event happened, and the randomness it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// In ms since 1970.
    pub ms: u64,
    /// Any random number.
    pub jitter: u64,
}

/// Why stored rows are no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A part is missing.
    #[error("run {run}: {found} parts of its plan are there, its row says {wanted}")]
    Parts {
        /// The run.
        run: String,
        /// In its row.
        wanted: u32,
        /// Given.
        found: usize,
    },
    /// A step lies in one that is not there.
    #[error("run {run}: step {step} lies in a step that is not there")]
    Step {
        /// The run.
        run: String,
        /// The step.
        step: StepIx,
    },
    /// A step's node is in no plan.
    #[error("run {run}: step {step} is of a task that its plan does not have")]
    Node {
        /// The run.
        run: String,
        /// The step.
        step: StepIx,
    },
}

/// A transition: the run, the moment, and what comes of it.
struct Transition<'a> {
    run: &'a mut Run,
    now: Moment,
    out: &'a mut Effects,
    todo: VecDeque<Todo>,
}

impl Run {
    /// Starts a run.
    pub fn start(now: Moment, start: Start, out: &mut Effects) -> Self {
        let row = RunRow {
            id: start.id,
            name: start.plan.settings.name.clone(),
            version: start.plan.settings.version,
            status: RunStatus::Running,
            correlation: start.correlation,
            parent: start.parent,
            input: start.input,
            variables: start.variables,
            first_variables: start.variables,
            output: None,
            reason: None,
            failed_step: None,
            started_ms: now.ms,
            since_ms: now.ms,
            ended_ms: None,
            era: 0,
            next_step: 0,
            wave: 0,
            ticket: 0,
            parts: 0,
            root_done: false,
            troubled: false,
            ending: None,
        };
        let mut run =
            Self { row, steps: BTreeMap::new(), plans: vec![start.plan], parts: Vec::new(), index: Index::default() };
        let mut transition = Transition { run: &mut run, now, out, todo: VecDeque::new() };
        transition.begin();
        transition.drain();
        run
    }

    /// Makes a run of its rows. `plans`: of the definition, then of each part.
    ///
    /// # Errors
    /// The rows do not belong together.
    pub fn load(
        row: RunRow,
        steps: impl IntoIterator<Item = StepRow>,
        parts: Vec<PartRow>,
        plans: Vec<Arc<Plan>>,
    ) -> Result<Self, LoadError> {
        if plans.len() != parts.len() + 1 || parts.len() != row.parts as usize {
            return Err(LoadError::Parts { run: row.id, wanted: row.parts, found: plans.len().saturating_sub(1) });
        }
        let steps: BTreeMap<_, _> = steps.into_iter().map(|step| (step.step, step)).collect();
        let mut run = Self { row, steps, plans, parts, index: Index::default() };
        for step in run.steps.values() {
            let part = step.resolved.is_none_or(|node| (node.part as usize) < run.plans.len());
            let dynamic = run.find_node(step.node).map(|node| matches!(node.kind, Kind::Dynamic { .. }));
            let named = step.resolved.is_none_or(|node| dynamic != Some(true) || run.find_node(node).is_some());
            if dynamic.is_none() || !part || !named {
                return Err(LoadError::Node { run: run.row.id.clone(), step: step.step });
            }
        }
        for step in run.steps.values() {
            // What holds a step came before it, unless the step was skipped ahead, which holds nothing: no row leads back to itself.
            let around = [step.parent, step.fork];
            let ahead = step.status == TaskStatus::Skipped;
            if around
                .into_iter()
                .flatten()
                .any(|other| (other >= step.step && !ahead) || !run.steps.contains_key(&other))
            {
                return Err(LoadError::Step { run: run.row.id.clone(), step: step.step });
            }
        }
        run.index = Index::of(&run);
        Ok(run)
    }

    /// Takes an event.
    ///
    /// # Errors
    /// An operation of a user that cannot be; nothing has changed then.
    pub fn apply(&mut self, now: Moment, event: Event, out: &mut Effects) -> Result<Outcome, Refused> {
        let mut transition = Transition { run: self, now, out, todo: VecDeque::new() };
        let outcome = transition.on_event(event)?;
        if outcome == Outcome::Applied {
            transition.drain();
        }
        Ok(outcome)
    }

    /// Everything that is under way once more: after a start of the informer. All of it may be repeated.
    pub fn reissue(&mut self, now: Moment, out: &mut Effects) {
        let mut transition = Transition { run: self, now, out, todo: VecDeque::new() };
        transition.reissue();
    }

    /// A node, known to be there: rows are checked when they are loaded.
    fn node(&self, id: NodeId) -> &Node {
        self.find_node(id).expect("rows name nodes of their plans only")
    }

    fn find_node(&self, id: NodeId) -> Option<&Node> {
        self.plans.get(id.part as usize)?.node(id.node)
    }

    /// A step, known to be there: indexes and rows name existing steps only.
    fn step_row(&self, step: StepIx) -> &StepRow {
        self.steps.get(&step).expect("indexes name existing steps only")
    }

    /// The node that says how a step is run.
    fn spec(&self, step: &StepRow) -> &Node {
        let node = self.node(step.node);
        match (&node.kind, step.resolved) {
            (Kind::Dynamic { .. }, Some(named)) => self.node(named),
            _ => node,
        }
    }
}

impl Transition<'_> {
    fn on_event(&mut self, event: Event) -> Result<Outcome, Refused> {
        Ok(match event {
            Event::Evaluated { step: Some(step), ticket, answer } => self.on_evaluated(step, ticket, answer),
            Event::Evaluated { step: None, ticket, answer } => self.on_run_evaluated(ticket, answer),
            Event::Started { step, worker } => self.on_started(step, worker),
            Event::Progressed { step, output, yields } => self.on_progressed(step, output, yields),
            Event::TaskEnded { step, end } => self.on_task_ended(step, end),
            Event::ChildStarted { step } => self.on_child_started(step),
            Event::ChildRefused { step, reason } => self.on_child_refused(step, reason),
            Event::ChildEnded { step, end } => self.on_child_ended(step, end),
            Event::ChildReopened { step, era } => self.on_child_reopened(step, era),
            Event::Emitted { step, child } => return self.on_emitted(step, child),
            Event::Sealed { step } => return self.on_sealed(step),
            Event::TimerDue { step: Some(step) } => self.on_timer(step),
            Event::TimerDue { step: None } => self.on_run_timer(),
            Event::Update { reference, status, output, reason } => {
                return self.on_update(&reference, status, output, reason);
            }
            Event::Pause => return self.on_pause(),
            Event::Resume => return self.on_resume(),
            Event::Terminate { reason, tell } => return self.on_terminate(reason, tell),
            Event::Retry => return self.on_retry(),
            Event::Revive => return self.on_revive(),
            Event::Rerun { from, input } => return self.on_rerun(from, input),
            Event::Restart { latest } => return self.on_restart(latest),
            Event::Skip { reference, output } => return self.on_skip(&reference, output),
        })
    }

    fn command(&mut self, command: Command) {
        self.out.commands.push(command);
    }

    /// The run's row, to be changed and written.
    fn row(&mut self) -> &mut RunRow {
        self.out.run = true;
        &mut self.run.row
    }

    /// Whether what follows a step may be opened.
    fn flows(&self) -> bool {
        self.run.row.status == RunStatus::Running && self.run.row.ending.is_none()
    }
}

/// Cuts a reason to its bound.
fn bounded(mut reason: String) -> String {
    if reason.len() > MAX_REASON_BYTES {
        let end = (0..=MAX_REASON_BYTES).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
    reason
}
