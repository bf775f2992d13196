//! The threads that answer runs' questions and prepare children: what computes, or reads much, and must not hold up the loop.
//!
//! There are two lanes, so that a script that takes seconds holds up other scripts and nothing else. What waits in them the machine has
//! asked for, which its own bounds limit; answers go back through a bounded queue, whose senders wait while the loop is behind.

use super::Engines;
use super::call::FlowCall;
use super::prepare::{self, Laid, Plans};
use super::stock::Stock;
use crate::machine::{RunId, Templates};
use crate::shell::error::Error;
use crate::store::{self, Read, Store};
use proto::bounds;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc;
use workflow::definition::{Kind, SwitchOn};
use workflow::evaluate::{self, Answer, Ask, ChildStart, Failing, Question, Tools};
use workflow::plan::Plan;
use workflow::run::StepIx;

/// Threads that run no scripts. Two keep a large join from holding up every other step.
const PLAIN: usize = 2;
/// Threads that may run scripts: as many as there are hosts for scripts.
const SCRIPTED: usize = 4;

/// Something to be answered.
#[derive(Debug)]
pub(in super::super) enum Job {
    Evaluate { run: RunId, question: Box<Question>, plan: Arc<Plan> },
    Prepare { by: RunId, step: Option<StepIx>, child: RunId, waits: bool, start: Box<ChildStart> },
}

/// The owner of the threads. Dropping it forgets what waits, and waits for what is under way.
pub(in super::super) struct Evaluator {
    lanes: [Arc<Lane>; 2],
    scripts: Engines,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Lane {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
}

impl Lane {
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        (jobs.closed, jobs.waiting) = (true, VecDeque::new());
        self.changed.notify_all();
    }
}

impl Evaluator {
    /// Starts the threads, each with a read handle of its own.
    ///
    /// # Errors
    /// A thread or a read handle cannot be made.
    pub(in super::super) fn start(
        store: &dyn Store,
        plans: &Arc<Plans>,
        scripts: &Engines,
        answers: &mpsc::Sender<FlowCall>,
    ) -> Result<Self, Error> {
        let lanes: [Arc<Lane>; 2] = Default::default();
        let mut evaluator = Self { lanes, scripts: scripts.clone(), threads: Vec::new() };
        let places = [(0, PLAIN), (1, SCRIPTED)].into_iter().flat_map(|(lane, count)| (0..count).map(move |_| lane));
        for lane in places {
            let worker = Worker {
                lane: Arc::clone(&evaluator.lanes[lane]),
                reader: store.reader()?,
                plans: Arc::clone(plans),
                scripts: scripts.clone(),
                answers: answers.clone(),
            };
            let thread = thread::Builder::new().name("evaluate".to_owned()).spawn(move || worker.work());
            evaluator.threads.push(thread.map_err(|why| Error::Thread { name: "evaluate", why: why.to_string() })?);
        }
        Ok(evaluator)
    }

    pub(in super::super) fn add(&self, job: Job) {
        let lane = usize::from(may_run_scripts(&job));
        self.lanes[lane].add(job);
    }
}

impl Drop for Evaluator {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.close());
        self.scripts.0.close();
        for thread in self.threads.drain(..) {
            // A panic has been told by the panic hook.
            let _ = thread.join();
        }
    }
}

fn may_run_scripts(job: &Job) -> bool {
    let Job::Evaluate { question, plan, .. } = job else { return false };
    let kind = question.node.and_then(|id| plan.node(id.node)).map(|node| &node.kind);
    match (kind, &question.ask) {
        (Some(Kind::Inline | Kind::Lambda | Kind::Jq), _) => true,
        (Some(Kind::Switch(switch)), _) => matches!(switch.on, SwitchOn::Script(_)),
        (Some(Kind::DoWhile(_)), Ask::Condition { .. }) => true,
        _ => false,
    }
}

struct Worker {
    lane: Arc<Lane>,
    reader: Box<dyn Read>,
    plans: Arc<Plans>,
    scripts: Engines,
    answers: mpsc::Sender<FlowCall>,
}

impl Worker {
    fn work(mut self) {
        while let Some(job) = self.lane.next() {
            let answer = match job {
                Job::Evaluate { run, question, plan } => self.evaluate(run, &question, &plan),
                Job::Prepare { by, step, child, waits, start } => self.prepare(by, step, child, (waits, *start)),
            };
            // Nothing that was read from a store that fails is told to anybody: the loop ends with the reason.
            let call = answer.unwrap_or_else(FlowCall::Failed);
            if self.answers.blocking_send(call).is_err() {
                return;
            }
        }
    }

    fn evaluate(&mut self, run: RunId, question: &Question, plan: &Plan) -> Result<FlowCall, store::Error> {
        let stock = Stock::new(&mut *self.reader);
        let tools = Tools { bodies: &stock, scripts: &*self.scripts.0, registry: &stock };
        let mut answer = evaluate::answer(question, plan, tools);
        let mut templates = Arc::new(Templates::new());
        match laid(&answer) {
            Ok(Some(laid)) => {
                stock.add(laid.bodies.iter().cloned());
                templates = laid.templates;
            }
            Ok(None) => {}
            Err(reason) => answer = Answer::Failed { reason, how: Failing::Run, input: None },
        }
        if let Some(reason) = too_large(question, plan, &answer, &stock) {
            answer = Answer::Failed { reason, how: Failing::Terminal, input: None };
        }
        let bodies = stock.finish()?;
        let (step, ticket) = (question.step, question.ticket);
        Ok(FlowCall::Evaluated { run, step, ticket, answer: Box::new(answer), templates, bodies })
    }

    fn prepare(
        &mut self,
        by: RunId,
        step: Option<StepIx>,
        child: RunId,
        (waits, start): (bool, ChildStart),
    ) -> Result<FlowCall, store::Error> {
        let exists = self.reader.run(&child)?.is_some();
        let stock = Stock::new(&mut *self.reader);
        let outcome = prepare::child(&self.plans, &stock, &start).map(Box::new);
        let bodies = stock.finish()?;
        Ok(FlowCall::Prepared { by, step, child, waits, exists, outcome, bodies })
    }
}

/// The plan that an answer carries, with the tasks of ours that it names.
fn laid(answer: &Answer) -> Result<Option<Laid>, String> {
    match answer {
        Answer::Forked { plan, .. } | Answer::Named { plan, .. } => prepare::of_plan(Arc::clone(plan)).map(Some),
        _ => Ok(None),
    }
}

/// The input of work leaves in one message.
fn too_large(question: &Question, plan: &Plan, answer: &Answer, stock: &Stock<'_>) -> Option<String> {
    let Answer::Ready { input: Some(input), .. } = answer else { return None };
    let node = question.node.and_then(|id| plan.node(id.node))?;
    let bytes = stock.bytes_of(input);
    let works = matches!(node.kind, Kind::Simple | Kind::Http);
    (works && bytes > bounds::RUN_INPUT_BYTES).then(|| {
        format!("its input has {bytes} bytes, a task takes at most {}; pass a path or a URL", bounds::RUN_INPUT_BYTES)
    })
}
