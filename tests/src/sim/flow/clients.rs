//! Who registers definitions, starts runs, sends the words that they wait for, and meddles with them.

use super::super::judge::{Check, Wrong, wrong};
use super::super::{Mode, START_MS, Step, World, shrink};
use super::draw::{Entry, Operate, Verb};
use super::rows::{Stock, named, own};
use super::work::Try;
use super::{Asked, FlowStep};
use informer::machine::{FlowEvent, NewRun, Operation, Rejection, Reply, RunId, StoredRun, Ticket};
use proto::store::{DefinitionRow, TaskDefinitionRow};
use serde_json::{Value, json};
use workflow::definition::Kind;
use workflow::evaluate::Handle;
use workflow::run::{Phase, RunStatus, StepRow, TaskStatus};

/// Between two looks after what waits, ms.
const LOOK_MS: u64 = 1500;
/// How long a client waits for an answer before it asks again, at most, ms.
const PATIENCE_MS: u64 = 4000;

impl World {
    pub(in super::super) fn schedule_flow(&mut self) {
        if !self.flow.is_there() {
            return;
        }
        for nth in 0..self.flow.script.definitions.len() {
            self.agenda.at(START_MS + 10, Step::Flow(FlowStep::Put(nth)));
        }
        let keep = self.options.keep.flow.clone();
        for (nth, (at_ms, _)) in self.flow.script.entries.iter().enumerate() {
            if shrink::keeps(keep.as_ref(), nth) {
                self.agenda.at(START_MS + at_ms, Step::Flow(FlowStep::Entry(nth)));
            }
        }
        for worker in 0..super::draw::POLLED.len() {
            self.agenda.at(START_MS + 500, Step::Flow(FlowStep::Poll { worker, no: 0 }));
        }
        self.agenda.at(START_MS + LOOK_MS, Step::Flow(FlowStep::Look));
    }

    pub(in super::super) fn on_flow_step(&mut self, step: FlowStep) -> Result<(), Wrong> {
        match step {
            FlowStep::Put(nth) => self.on_put(nth),
            FlowStep::Entry(nth) => self.on_entry(nth),
            FlowStep::Start(entry) => self.on_start(entry),
            FlowStep::Answered { life, event, bodies } => self.on_answered(life, *event, bodies),
            FlowStep::Poll { worker, no } => self.on_poll(worker, no),
            FlowStep::Say { worker, work, what } => self.on_say(worker, *work, what),
            FlowStep::Look => self.on_look(),
            FlowStep::Kill { life, durable } if life == self.center.life => {
                let down_ms = self.rng.range(10, 3000);
                self.crash_center_around(down_ms, durable)
            }
            FlowStep::Kill { .. } => Ok(()),
        }
    }

    /// Nobody answers at present.
    pub(super) fn is_away(&self) -> bool {
        self.center.machine.is_none() || self.center.paused_until_ms > self.agenda.now_ms
    }

    pub(super) fn ask(&mut self, asked: Asked) -> Ticket {
        let ticket = self.new_ticket();
        self.center.desk.asked.insert(ticket, asked);
        ticket
    }

    /// Registers until it is told of it.
    fn on_put(&mut self, nth: usize) -> Result<(), Wrong> {
        if self.flow.registered.contains_key(&nth) {
            return Ok(());
        }
        let patience_ms = self.rng.range(200, PATIENCE_MS);
        self.agenda.after(patience_ms, Step::Flow(FlowStep::Put(nth)));
        if self.is_away() {
            return Ok(());
        }
        for (name, json) in self.flow.script.tasks.clone() {
            let (digest, body) = named(&json);
            let definition = TaskDefinitionRow {
                name,
                json: body.to_vec(),
                digest: digest.to_vec(),
                ..TaskDefinitionRow::default()
            };
            let ticket = self.ask(Asked::Nothing);
            self.tell_flow(FlowEvent::TaskDefinitionPut { ticket, definition: Box::new(definition) }, Vec::new())?;
        }
        let json = self.flow.script.definitions[nth].clone();
        self.put_definition(nth, &json)
    }

    fn put_definition(&mut self, nth: usize, json: &Value) -> Result<(), Wrong> {
        let (digest, body) = named(json);
        let name = json["name"].as_str().unwrap_or_default().to_owned();
        let definition =
            DefinitionRow { name, json: body.to_vec(), digest: digest.to_vec(), ..DefinitionRow::default() };
        let ticket = self.ask(Asked::Put(nth));
        self.tell_flow(
            FlowEvent::DefinitionPut { ticket, definition: Box::new(definition), replace: false },
            Vec::new(),
        )
    }

    fn on_entry(&mut self, nth: usize) -> Result<(), Wrong> {
        let (_, entry) = self.flow.script.entries[nth].clone();
        match entry {
            Entry::Start { .. } => self.on_start(nth),
            Entry::Kill { edge, durable } => {
                if !self.faults.has_ended() {
                    self.flow.kills.push((edge, durable));
                }
                Ok(())
            }
            _ if self.is_away() => Ok(()),
            Entry::Again { start } => self.start_run(self.nth_start(start), false),
            Entry::Conflict { start } if self.flow.answered.contains_key(&self.nth_start(start)) => {
                self.start_run(self.nth_start(start), true)
            }
            Entry::Conflict { .. } => Ok(()),
            Entry::Put { nth } => {
                let mut json = self.flow.script.definitions[nth].clone();
                json["description"] = json!("the same again");
                self.put_definition(nth, &json)
            }
            Entry::Delete { nth } => {
                self.flow.disturbed = true;
                let name = self.flow.script.definitions[nth]["name"].as_str().unwrap_or_default().to_owned();
                let ticket = self.ask(Asked::Nothing);
                self.tell_flow(FlowEvent::DefinitionDeleted { ticket, name, version: 0 }, Vec::new())?;
                self.flow.registered.remove(&nth);
                self.agenda.after(PATIENCE_MS, Step::Flow(FlowStep::Put(nth)));
                Ok(())
            }
            Entry::Operate(act) => self.operate(nth, act),
        }
    }

    /// Which entry the nth start is.
    fn nth_start(&self, start: usize) -> usize {
        let entries = self.flow.script.entries.iter().enumerate();
        let mut starts = entries.filter(|(_, (_, entry))| matches!(entry, Entry::Start { .. })).map(|(nth, _)| nth);
        starts.nth(start).unwrap_or(0)
    }

    /// Starts, and asks again until it is answered.
    fn on_start(&mut self, entry: usize) -> Result<(), Wrong> {
        let known = self.flow.named.values().any(|named| *named == entry);
        if self.flow.answered.contains_key(&entry) || (known && !self.flow.unanswered.contains(&entry)) {
            return Ok(());
        }
        self.flow.unanswered.insert(entry);
        let patience_ms = self.rng.range(200, PATIENCE_MS);
        self.agenda.after(patience_ms, Step::Flow(FlowStep::Start(entry)));
        self.start_run(entry, false)
    }

    fn start_run(&mut self, entry: usize, other: bool) -> Result<(), Wrong> {
        let all = self.flow.registered.len() == self.flow.script.definitions.len();
        let kept = shrink::keeps(self.options.keep.flow.as_ref(), entry);
        let (_, Entry::Start { nth, input }) = self.flow.script.entries[entry].clone() else { return Ok(()) };
        if self.is_away() || !all || !kept {
            return Ok(());
        }
        let name = self.flow.script.definitions[nth]["name"].as_str().unwrap_or_default().to_owned();
        let mut given = input.as_object().cloned().unwrap_or_default();
        if other {
            given.insert("other".to_owned(), json!(true));
        }
        let stock = Stock::new(&self.center.store.flows);
        // What a backup does not know of is refused, and asked for again.
        let Ok(prepared) = stock.prepare_named(&name, given.clone()) else { return self.on_put_again() };
        let bodies = stock.finish();
        let ticket = self.ask(Asked::Start { entry, other });
        let id = format!("run{entry}-{}", ticket.0);
        if !other {
            self.flow.named.insert(id.clone(), entry);
        }
        let new = NewRun {
            ticket,
            id: id.into(),
            prepared,
            owner: "light".to_owned(),
            labels: [("film".to_owned(), entry.to_string())].into(),
            key: Some(format!("start-{entry}")),
            digest: named(&Value::Object(given)).0,
            known: None,
        };
        self.tell_flow(FlowEvent::RunStarted(Box::new(new)), bodies)
    }

    /// A definition that was registered is not there any more: its owner registers it again.
    fn on_put_again(&mut self) -> Result<(), Wrong> {
        if !self.flow.disturbed {
            return wrong(Check::AcknowledgedIsKept, "a definition was registered and is not there");
        }
        self.flow.registered.clear();
        for nth in 0..self.flow.script.definitions.len() {
            self.agenda.after(1, Step::Flow(FlowStep::Put(nth)));
        }
        Ok(())
    }

    /// Whoever a run waits for says its word; once faults have stopped, operators let paused runs go on.
    fn on_look(&mut self) -> Result<(), Wrong> {
        self.agenda.after(LOOK_MS, Step::Flow(FlowStep::Look));
        if self.is_away() {
            return Ok(());
        }
        let flows = &self.center.store.flows;
        let live = flows.runs.iter().filter(|(_, rows)| own(&rows.row).is_some_and(|own| !own.status.is_ended()));
        let live: Vec<String> = live.map(|(id, _)| id.clone()).collect();
        for run in live {
            let Ok(Some(stored)) = self.center.store.flows.stored(&run) else { continue };
            if self.faults.has_ended() && stored.run.row().status == RunStatus::Paused {
                self.send(&run, Operation::Resume, Verb::Resume, String::new(), Vec::new())?;
            }
            for reference in waiting(&stored) {
                self.signal(&run, &stored, &reference)?;
            }
        }
        Ok(())
    }

    fn signal(&mut self, run: &str, stored: &StoredRun, step: &StepRow) -> Result<(), Wrong> {
        let Some(path) = self.path_of(run) else { return Ok(()) };
        let reference = stored.run.full_reference(step);
        let outcome = self.flow.table.outcome(&Try { path, reference: reference.clone(), tried: step.retry_count });
        let (handle, body) = named(&outcome.output);
        let output = (outcome.output != json!({})).then_some(Handle(handle));
        let operation = Operation::Update { reference, status: outcome.status, output, reason: None };
        self.send(run, operation, Verb::Signal, String::new(), vec![(handle, body)])
    }

    fn send(
        &mut self,
        run: &str,
        operation: Operation,
        verb: Verb,
        key: String,
        bodies: super::rows::Bodies,
    ) -> Result<(), Wrong> {
        let ticket = self.ask(Asked::Operated(verb));
        let run: RunId = run.into();
        self.tell_flow(FlowEvent::RunOperated { ticket, run, stored: Vec::new(), operation, key }, bodies)
    }

    /// Something is done to one of the runs there are.
    fn operate(&mut self, nth: usize, act: Operate) -> Result<(), Wrong> {
        let runs: Vec<String> = self.center.store.flows.runs.keys().cloned().collect();
        if runs.is_empty() {
            return Ok(());
        }
        let run = runs[(act.luck % runs.len() as u64) as usize].clone();
        let Ok(Some(stored)) = self.center.store.flows.stored(&run) else { return Ok(()) };
        self.flow.meddled.extend(self.flow.root_of(&run));
        // What is left out once more is rarely met by chance.
        let anew = act.verb == Verb::Skip;
        for time in 0..=u32::from(act.twice || anew) {
            let Some((operation, bodies)) = self.operation(act, &stored) else { return Ok(()) };
            // Another wish, or the same one repeated.
            let key = if anew { format!("operation-{nth}-{time}") } else { format!("operation-{nth}") };
            self.send(&run, operation, act.verb, key, bodies)?;
            if self.is_away() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn operation(&self, act: Operate, stored: &StoredRun) -> Option<(Operation, super::rows::Bodies)> {
        let luck = act.luck >> 8;
        let (handle, body) = named(&json!({"a": luck % 4, "b": "again"}));
        let with = vec![(handle, body)];
        let input = (luck & 1 == 0).then_some(Handle(handle));
        let nodes: Vec<&str> = stored.run.plans()[0].nodes.iter().map(|node| node.reference.as_str()).collect();
        let node = nodes[(luck >> 2) as usize % nodes.len()];
        // Sometimes a name with a round, sometimes one that nobody has.
        let reference = match luck % 7 {
            0 => format!("{node}__1"),
            1 => "nobody".to_owned(),
            _ => node.to_owned(),
        };
        let steps: Vec<&StepRow> = stored.run.steps().collect();
        let step = steps.get((luck >> 2) as usize % steps.len().max(1)).map(|step| stored.run.full_reference(step));
        Some(match act.verb {
            Verb::Pause => (Operation::Pause, Vec::new()),
            Verb::Resume => (Operation::Resume, Vec::new()),
            Verb::Terminate => (Operation::Terminate { reason: None, tell: luck & 1 == 0 }, Vec::new()),
            Verb::Retry => (Operation::Retry, Vec::new()),
            Verb::Rerun => (Operation::Rerun { from: step.filter(|_| luck & 2 == 0), input }, with),
            Verb::Restart => (Operation::Restart { latest: None }, Vec::new()),
            Verb::RestartLatest => {
                let stock = Stock::new(&self.center.store.flows);
                let latest = stock.prepare_named(&stored.row.name, serde_json::Map::new()).ok()?;
                (Operation::Restart { latest: Some(Box::new(latest)) }, stock.finish())
            }
            Verb::Skip => (Operation::Skip { reference, output: input }, with),
            Verb::Signal => {
                use TaskStatus as S;
                let statuses = [S::Completed, S::Failed, S::FailedWithTerminalError, S::InProgress, S::Canceled];
                let status = statuses[(luck >> 5) as usize % statuses.len()];
                (Operation::Update { reference, status, output: input, reason: None }, with)
            }
        })
    }

    /// A reply about workflows; `None`: it is another's.
    pub(in super::super) fn on_flow_reply(&mut self, ticket: Ticket, reply: &Reply) -> Option<Result<(), Wrong>> {
        let asked = self.center.desk.asked.remove(&ticket)?;
        Some(match (asked, reply) {
            (Asked::Put(nth), Reply::Definition { version, .. }) => self.on_registered(nth, *version),
            (Asked::Start { entry, other }, Reply::RunStarted { run, .. }) => self.on_run_started(entry, other, run),
            (Asked::Start { other: true, .. }, Reply::Rejected(Rejection::RunKeyConflict { .. })) => Ok(()),
            (Asked::Start { entry, .. }, Reply::Rejected(rejection)) => {
                wrong(Check::OneKeyOneRun, format!("the start {entry} was rejected: {rejection}"))
            }
            (Asked::Operated(verb), reply) => self.on_operated(verb, reply),
            (Asked::Poll { worker, no }, Reply::Polled(works)) => self.on_polled(worker, no, works),
            (Asked::Said { run, step }, Reply::WorkUpdated { .. }) => {
                self.flow.said.insert((run, step));
                Ok(())
            }
            _ => Ok(()),
        })
    }

    fn on_registered(&mut self, nth: usize, version: u32) -> Result<(), Wrong> {
        let name = self.flow.script.definitions[nth]["name"].as_str().unwrap_or_default().to_owned();
        if !self.center.store.flows.definitions.contains_key(&(name.clone(), version)) && !self.flow.disturbed {
            let what = format!("version {version} of {name} was acknowledged and is not durable");
            return wrong(Check::AcknowledgedIsKept, what);
        }
        self.flow.registered.insert(nth, version);
        Ok(())
    }

    fn on_run_started(&mut self, entry: usize, other: bool, run: &RunId) -> Result<(), Wrong> {
        if other {
            return wrong(Check::OneKeyOneRun, format!("another start was taken under the key of start {entry}"));
        }
        self.flow.unanswered.remove(&entry);
        if !self.center.store.flows.runs.contains_key(&**run) {
            return wrong(Check::AcknowledgedIsKept, format!("run {run} was acknowledged and is not durable"));
        }
        match self.flow.answered.insert(entry, run.to_string()) {
            Some(known) if *known != **run => {
                wrong(Check::OneKeyOneRun, format!("the key of start {entry} means the runs {known} and {run}"))
            }
            _ => Ok(()),
        }
    }

    fn on_operated(&mut self, verb: Verb, reply: &Reply) -> Result<(), Wrong> {
        let outcome = match reply {
            Reply::Run { ignored: None, .. } => "done",
            Reply::Run { ignored: Some(_), .. } => "ignored",
            Reply::Rejected(Rejection::RunRefused { .. }) => "refused",
            Reply::Rejected(Rejection::UnknownRun { .. }) => "unknown",
            other => return wrong(Check::RunsConsistent, format!("{verb:?} was answered with {other:?}")),
        };
        *self.coverage.verbs.entry((verb, outcome)).or_default() += 1;
        Ok(())
    }

    /// A history whose faults never stop ends in the middle of everything.
    pub(in super::super) fn are_runs_over(&self) -> bool {
        let flows = &self.center.store.flows;
        self.options.mode == Mode::Safety
            || !self.flow.has_unanswered() && flows.runs.values().all(|rows| !super::rows::is_live(&rows.row))
    }
}

/// The steps of a run that wait for somebody's word.
fn waiting(stored: &StoredRun) -> Vec<StepRow> {
    let waits = |step: &&StepRow| {
        let kind = &stored.run.node_of(step).kind;
        step.phase == Phase::Waiting && step.due_ms.is_none() && matches!(kind, Kind::Wait | Kind::Human)
    };
    stored.run.steps().filter(waits).cloned().collect()
}
