//! What edges call about workflows.

use super::call::{NOBODY, RunCall, What};
use super::prepare::{self, Wanted, versioned};
use super::stock::{Stock, stored};
use super::{Bodies, check_task, stored as stored_runs};
use crate::machine::{NewRun, Operation, PayloadHandle, PolledWork, Prepared, Rejection, Reply, RunId, WorkUpdate};
use crate::shell::error::Error;
use crate::shell::handle::{Handle, unexpected};
use crate::shell::message::ClientCall;
use crate::store::{RunFilter, RunPage};
use bytes::Bytes;
use proto::store::{DefinitionRow, RunEventRow, RunRow, TaskDefinitionRow};
use proto::v1::{self, RunStatus};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::broadcast;
use workflow::chart::Chart;
use workflow::definition::{Definition, Note, Refused, TaskDef};
use workflow::plan::Plan;
use workflow::run::{StepIx, StepRow};

/// A run to be started, checked and named by an edge.
#[derive(Debug, Clone, Default)]
pub struct NewStart {
    /// Fresh id.
    pub id: String,
    /// The registered name.
    pub name: String,
    /// None: the latest.
    pub version: Option<u32>,
    /// A definition of its own, instead of a registered one.
    pub definition: Option<Value>,
    /// Its input.
    pub input: Map<String, Value>,
    /// The user's id of what it belongs to.
    pub correlation: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// What it is searched by.
    pub labels: BTreeMap<String, String>,
    /// Priority of its tasks.
    pub priority: i32,
    /// Idempotency key.
    pub key: Option<String>,
}

/// A run has changed, as of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunChanged {
    /// The run.
    pub run: RunId,
    /// Its status then.
    pub status: RunStatus,
}

/// A run as it stands after an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Operated {
    /// The run.
    pub row: RunRow,
    /// Nothing was changed, and why.
    pub ignored: Option<&'static str>,
}

/// A definition that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Its name.
    pub name: String,
    /// Its version; of a task definition 0.
    pub version: u32,
    /// The same one was there.
    pub existed: bool,
    /// Keys without effect.
    pub notes: Vec<Note>,
}

/// Why a definition was not registered.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It cannot run.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// One of its scripts cannot be read.
    #[error("{0}")]
    Script(String),
    /// The shell refused.
    #[error(transparent)]
    Shell(#[from] Error),
}

/// Why a run was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such definition, or it cannot run.
    #[error("{0}")]
    Definition(String),
    /// The shell refused.
    #[error(transparent)]
    Shell(#[from] Error),
}

/// A page of a run's steps, and what is needed to tell of them.
#[derive(Debug, Clone)]
pub struct Steps {
    /// The steps, by number.
    pub steps: Vec<StepRow>,
    /// The plans of the run: of its definition, then of each part.
    pub plans: Vec<Arc<Plan>>,
}

impl Handle {
    /// Registers a workflow definition: checked whole, and refused with all its faults.
    ///
    /// # Errors
    /// [`PutError`].
    pub async fn put_definition(&self, json: Value, replace: bool) -> Result<Put, PutError> {
        let accepted = Definition::parse_with(&json, check_task)?;
        let (name, notes) = (accepted.value.name, accepted.notes);
        let mut json = self.scripts_are_read(json).await?;
        // A version that is given is the user's, and what is stored never tells it: versions may have equal contents.
        let given = json.as_object_mut().and_then(|json| json.remove("version")).filter(|version| !version.is_null());
        let version = if given.is_some() { accepted.value.version } else { 0 };
        let (handle, body) = stored(&json);
        let definition = Box::new(DefinitionRow {
            name: name.clone(),
            version,
            json: body.to_vec(),
            digest: handle.0.to_vec(),
            ..DefinitionRow::default()
        });
        match self.call_flows(What::PutDefinition { definition, replace }, Vec::new()).await? {
            Reply::Definition { version, existed } => Ok(Put { name, version, existed, notes }),
            other => Err(unexpected(other).into()),
        }
    }

    /// Gives a definition back whose scripts can be read.
    async fn scripts_are_read(&self, json: Value) -> Result<Value, PutError> {
        let scripts = self.scripts.clone();
        let checked = tokio::task::spawn_blocking(move || scripts.0.check(&json).map(|()| json)).await;
        match checked {
            Ok(checked) => checked.map_err(PutError::Script),
            // The caller's runtime is shutting down.
            Err(_) => Err(Error::Stopped("it is stopping".to_owned()).into()),
        }
    }

    /// Takes one version of a definition away, or all (0); says whether there was any.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn delete_definition(&self, name: String, version: u32) -> Result<bool, Error> {
        self.registered(What::DeleteDefinition { name, version }).await
    }

    /// Registers a task definition; another one of its name is replaced.
    ///
    /// # Errors
    /// [`PutError`].
    pub async fn put_task_definition(&self, json: Value) -> Result<Put, PutError> {
        let accepted = TaskDef::parse_with(&json, check_task)?;
        let (name, notes) = (accepted.value.name, accepted.notes);
        let (handle, body) = stored(&json);
        let definition = Box::new(TaskDefinitionRow {
            name: name.clone(),
            json: body.to_vec(),
            digest: handle.0.to_vec(),
            ..TaskDefinitionRow::default()
        });
        let existed = self.registered(What::PutTaskDefinition { definition }).await?;
        Ok(Put { name, version: 0, existed, notes })
    }

    /// Takes a task definition away; says whether there was one.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn delete_task_definition(&self, name: String) -> Result<bool, Error> {
        self.registered(What::DeleteTaskDefinition { name }).await
    }

    async fn registered(&self, what: What) -> Result<bool, Error> {
        match self.call_flows(what, Vec::new()).await? {
            Reply::Registered { existed } => Ok(existed),
            other => Err(unexpected(other)),
        }
    }

    /// One version of a definition, or the latest, its version in its JSON.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn definition(&self, name: String, version: Option<u32>) -> Result<Option<DefinitionRow>, Error> {
        let row = self.read(move |reader| reader.definition(&name, version)).await?;
        Ok(row.map(|row| match versioned(&row) {
            Some(json) => DefinitionRow { json: json.to_string().into_bytes(), ..row },
            None => row,
        }))
    }

    /// Definitions by name and version, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn definitions(
        &self,
        name: Option<String>,
        after: Option<(String, u32)>,
        limit: usize,
    ) -> Result<Vec<DefinitionRow>, Error> {
        self.read(move |reader| {
            let after = after.as_ref().map(|(name, version)| (name.as_str(), *version));
            reader.definitions(name.as_deref(), after, limit)
        })
        .await
    }

    /// One task definition.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn task_definition(&self, name: String) -> Result<Option<TaskDefinitionRow>, Error> {
        self.read(move |reader| reader.task_definition(&name)).await
    }

    /// Task definitions by name, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn task_definitions(&self, after: Option<String>, limit: usize) -> Result<Vec<TaskDefinitionRow>, Error> {
        self.read(move |reader| reader.task_definitions(after.as_deref(), limit)).await
    }

    /// Starts a run. The answer means durable, and says whether it was there under its key.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_run(&self, new: NewStart) -> Result<(RunId, bool), StartError> {
        let digest = digest(&new);
        let wanted = Wanted {
            name: new.name,
            version: new.version,
            definition: new.definition,
            input: new.input,
            correlation: new.correlation,
            priority: new.priority,
        };
        let (prepared, bodies) = self.prepare(wanted).await?;
        let run = Box::new(NewRun {
            ticket: NOBODY,
            id: new.id.into(),
            prepared,
            owner: new.owner,
            labels: new.labels,
            key: new.key,
            digest,
            known: None,
        });
        match self.call_flows(What::Start(run), bodies).await? {
            Reply::RunStarted { run, existed } => Ok((run, existed)),
            other => Err(unexpected(other).into()),
        }
    }

    async fn prepare(&self, wanted: Wanted) -> Result<(Prepared, Bodies), StartError> {
        let plans = Arc::clone(&self.plans);
        let prepared = self.read(move |reader| {
            let stock = Stock::new(reader);
            let prepared = prepare::start(&plans, &stock, wanted);
            // A store that cannot be read is no fault of the definition.
            let bodies = stock.finish()?;
            Ok(prepared.map(|prepared| (prepared, bodies)))
        });
        prepared.await?.map_err(StartError::Definition)
    }

    /// Does something to a run. `input` is the JSON that the operation brings; its handle is filled into it.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn operate_run(&self, run: RunId, operation: Operation, key: String) -> Result<Operated, Error> {
        self.operate(run, operation, key, Vec::new()).await
    }

    async fn operate(&self, run: RunId, operation: Operation, key: String, bodies: Bodies) -> Result<Operated, Error> {
        match self.call_flows(What::Operate { run, operation, key }, bodies).await? {
            Reply::Run { row, ignored } => Ok(Operated { row: *row, ignored }),
            other => Err(unexpected(other)),
        }
    }

    /// The same for an operation that brings JSON: it is given the name under which that is stored.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn operate_run_with(
        &self,
        run: RunId,
        json: Option<&Value>,
        key: String,
        operation: impl FnOnce(Option<workflow::evaluate::Handle>) -> Operation,
    ) -> Result<Operated, Error> {
        let body = json.map(stored);
        let operation = operation(body.as_ref().map(|(handle, _)| *handle));
        let bodies = body.into_iter().map(|(handle, body)| (handle.0, body)).collect();
        self.operate(run, operation, key, bodies).await
    }

    /// Begins a run anew; with `latest` by the latest version of its definition.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn restart_run(&self, run: RunId, latest: bool, key: String) -> Result<Operated, StartError> {
        let unknown = || Error::Rejected(Rejection::UnknownRun { run: Arc::clone(&run) });
        let (latest, bodies) = match latest {
            false => (None, Vec::new()),
            true => {
                let row = self.run(&run).await?.ok_or_else(unknown)?;
                let wanted = Wanted { name: row.name, ..Wanted::default() };
                let (prepared, bodies) = self.prepare(wanted).await?;
                (Some(Box::new(prepared)), bodies)
            }
        };
        Ok(self.operate(run, Operation::Restart { latest }, key, bodies).await?)
    }

    /// Takes tasks for a worker without a sidecar; waits for the first.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn poll(
        &self,
        names: Vec<String>,
        worker: String,
        count: u32,
        wait_ms: u64,
    ) -> Result<Vec<PolledWork>, Error> {
        match self.call_flows(What::Poll { names, worker, count, wait_ms }, Vec::new()).await? {
            Reply::Polled(tasks) => Ok(tasks),
            other => Err(unexpected(other)),
        }
    }

    /// Takes a worker's word about a task; says why nothing was changed, if so. `output` is stored under the handle that `update` is given.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn update_work(
        &self,
        run: RunId,
        step: StepIx,
        output: Option<&Value>,
        update: impl FnOnce(Option<workflow::evaluate::Handle>) -> WorkUpdate,
    ) -> Result<Option<&'static str>, Error> {
        let body = output.map(stored);
        let update = update(body.as_ref().map(|(handle, _)| *handle));
        let bodies = body.into_iter().map(|(handle, body)| (handle.0, body)).collect();
        match self.call_flows(What::Update { run, step, update }, bodies).await? {
            Reply::WorkUpdated { ignored } => Ok(ignored),
            other => Err(unexpected(other)),
        }
    }

    /// Keeps what a worker tells of its task, in the history of its run; says why not all was kept, if so.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Busy`], [`Error::Stopped`].
    pub async fn log_work(&self, run: RunId, step: StepIx, lines: Vec<String>) -> Result<Option<&'static str>, Error> {
        let bodies: Vec<_> = lines.into_iter().map(|line| stored(&Value::String(line))).collect();
        let bodies: Bodies = bodies.into_iter().map(|(handle, body)| (handle.0, body)).collect();
        let lines = bodies.iter().map(|(handle, _)| *handle).collect();
        match self.call_flows(What::Log { run, step, lines }, bodies).await? {
            Reply::WorkUpdated { ignored } => Ok(ignored),
            other => Err(unexpected(other)),
        }
    }

    /// What each task of a run waits for. `None`: it is over, or there is no such run.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn why_run(&self, run: &RunId) -> Result<Option<v1::WhyRunResponse>, Error> {
        let run = Arc::clone(run);
        self.asked(|reply| ClientCall::WhyRun { run, reply }).await
    }

    /// How many tasks of each name wait for a worker that polls.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopped`].
    pub async fn queued(&self) -> Result<BTreeMap<String, usize>, Error> {
        self.asked(|reply| ClientCall::Queued { reply }).await
    }

    async fn call_flows(&self, what: What, bodies: Bodies) -> Result<Reply, Error> {
        self.decided(|reply| ClientCall::Run(Box::new(RunCall { what, bodies, reply }))).await
    }

    /// A run as the store has it: every answered call is in it.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn run(&self, run: &RunId) -> Result<Option<RunRow>, Error> {
        let run = Arc::clone(run);
        self.read(move |reader| reader.run(&run)).await
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn runs(&self, filter: RunFilter) -> Result<RunPage, Error> {
        self.read(move |reader| reader.runs(&filter)).await
    }

    /// The steps of a run from number `from` on, at most `limit`, and its plans. `None`: there is no such run.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn run_steps(&self, run: &RunId, from: StepIx, limit: usize) -> Result<Option<Steps>, Error> {
        let (run, plans) = (Arc::clone(run), Arc::clone(&self.plans));
        self.read(move |reader| {
            let Some(row) = reader.run(&run)? else { return Ok(None) };
            // The steps first: a plan only grows, so that whatever a step names is there.
            let steps = reader.run_steps(&run, from, limit)?;
            let (laid, _) = stored_runs::laid(reader, &plans, &row)?;
            Ok(Some(Steps { steps, plans: laid.into_iter().map(|laid| laid.plan).collect() }))
        })
        .await
    }

    /// The flow chart of a run. `None`: there is no such run. Only a few are made at once: each reads all steps of its run.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn chart(&self, run: &RunId) -> Result<Option<Chart>, Error> {
        let (run, plans) = (Arc::clone(run), Arc::clone(&self.plans));
        self.read(move |reader| stored_runs::chart(reader, &plans, &run)).await
    }

    /// The flow chart of a definition alone, of its latest version or that one. `None`: there is no such definition.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn chart_of(&self, name: String, version: Option<u32>) -> Result<Option<Chart>, Error> {
        self.read(move |reader| {
            let Some(row) = reader.definition(&name, version)? else { return Ok(None) };
            let parsed = versioned(&row).and_then(|json| Definition::parse(&json).ok());
            Ok(parsed.map(|definition| Chart::of_plan(&Arc::new(Plan::of(definition.value)))))
        })
        .await
    }

    /// Lines of a run's history after `after_seq`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn run_events(&self, run: &RunId, after_seq: u32, limit: u32) -> Result<Vec<RunEventRow>, Error> {
        let run = Arc::clone(run);
        self.read(move |reader| reader.run_events(&run, after_seq, limit)).await
    }

    /// Bodies by their handles; those that are not there are absent.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Stopped`].
    pub async fn bodies(&self, handles: Vec<PayloadHandle>) -> Result<BTreeMap<PayloadHandle, Bytes>, Error> {
        self.read(move |reader| reader.payloads(&handles)).await
    }

    /// Each run whose row has changed, after its commit. A receiver that lags has missed some and reads again.
    #[must_use]
    pub fn run_changes(&self) -> broadcast::Receiver<RunChanged> {
        self.published.runs()
    }
}

/// What stands for a start under its key.
fn digest(new: &NewStart) -> PayloadHandle {
    let NewStart { id: _, name, version, definition, input, correlation, owner, labels, priority, key: _ } = new;
    let whole = serde_json::json!([name, version, definition, input, correlation, owner, labels, priority]);
    Sha256::digest(whole.to_string()).into()
}
