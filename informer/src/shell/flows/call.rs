//! What edges want of workflows, and what the evaluator answers, on their way to the loop.

use crate::machine::{NewRun, Operation, PayloadHandle, Prepared, Reply, RunId, Templates, Ticket, WorkUpdate};
use crate::store;
use bytes::Bytes;
use proto::store::{DefinitionRow, TaskDefinitionRow};
use std::sync::Arc;
use tokio::sync::oneshot;
use workflow::evaluate::Answer;
use workflow::run::StepIx;

/// Bodies that a call brings; they are committed with what it changes.
pub(in super::super) type Bodies = Vec<(PayloadHandle, Bytes)>;

/// A client's call; whoever made it waits for a reply.
#[derive(Debug)]
pub(in super::super) struct RunCall {
    pub what: What,
    pub bodies: Bodies,
    pub reply: oneshot::Sender<Reply>,
}

/// What is called for.
#[derive(Debug)]
pub(in super::super) enum What {
    /// Its ticket and what its key stands for are filled in at the loop.
    Start(Box<NewRun>),
    Operate {
        run: RunId,
        operation: Operation,
        key: String,
    },
    PutDefinition {
        definition: Box<DefinitionRow>,
        replace: bool,
    },
    DeleteDefinition {
        name: String,
        version: u32,
    },
    PutTaskDefinition {
        definition: Box<TaskDefinitionRow>,
    },
    DeleteTaskDefinition {
        name: String,
    },
    Poll {
        names: Vec<String>,
        worker: String,
        count: u32,
        wait_ms: u64,
    },
    Update {
        run: RunId,
        step: StepIx,
        update: WorkUpdate,
    },
    Log {
        run: RunId,
        step: StepIx,
        lines: Vec<PayloadHandle>,
    },
}

/// What the evaluator says.
#[derive(Debug)]
pub(in super::super) enum FlowCall {
    Evaluated {
        run: RunId,
        step: Option<StepIx>,
        ticket: u32,
        answer: Box<Answer>,
        templates: Arc<Templates>,
        bodies: Bodies,
    },
    Prepared {
        by: RunId,
        step: Option<StepIx>,
        child: RunId,
        waits: bool,
        exists: bool,
        outcome: Result<Box<Prepared>, String>,
        bodies: Bodies,
    },
    /// The store cannot be read.
    Failed(store::Error),
}

/// A ticket that nobody has: it is filled in at the loop.
pub(in super::super) const NOBODY: Ticket = Ticket(0);
