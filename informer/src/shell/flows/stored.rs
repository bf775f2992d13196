//! Runs as the store has them: for the start, and for operations on runs that are over.

use super::prepare::{Laid, Plans};
use super::stock::Stock;
use crate::machine::{Machine, StoredRun, kin};
use crate::store::{Error, LOAD_PAGE, Read};
use proto::bounds;
use proto::store::RunRow;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use workflow::chart::Chart;
use workflow::evaluate::{Bodies as _, Handle};
use workflow::run::{Run, StepRow};

/// Steps read at once.
const STEPS: usize = 10_000;

/// Every run that is not over.
///
/// # Errors
/// The store cannot be read, or what it holds of a run is none.
pub(in super::super) fn live(reader: &mut dyn Read, plans: &Plans) -> Result<Vec<StoredRun>, Error> {
    let mut runs = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let rows = reader.live_runs(after.as_deref(), LOAD_PAGE)?;
        let Some(last) = rows.last() else { return Ok(runs) };
        after = Some(last.id.clone());
        for row in rows {
            runs.push(of_row(reader, plans, row)?);
        }
    }
}

/// One run, if the store has it.
///
/// # Errors
/// The store cannot be read, or what it holds of the run is none.
pub(in super::super) fn one(reader: &mut dyn Read, plans: &Plans, id: &str) -> Result<Option<StoredRun>, Error> {
    let row = reader.run(id)?;
    row.map(|row| of_row(reader, plans, row)).transpose()
}

/// A run, and those that an operation on it can reach and the machine does not hold: who waits for it, and its children whose steps did
/// not end well, and so on. `None`: there are more than one batch may move.
///
/// # Errors
/// The store cannot be read, or what it holds of a run is none.
pub(in super::super) fn family(
    reader: &mut dyn Read,
    plans: &Plans,
    machine: &Machine,
    id: &str,
) -> Result<Option<Vec<StoredRun>>, Error> {
    let mut runs = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![id.to_owned()];
    while let Some(id) = left.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if seen.len() > bounds::RUN_FAMILY {
            return Ok(None);
        }
        if let Some(kin) = machine.kin(&id) {
            left.extend(kin);
        } else if let Some(stored) = one(reader, plans, &id)? {
            left.extend(kin(&stored.run));
            runs.push(stored);
        }
    }
    Ok(Some(runs))
}

fn of_row(reader: &mut dyn Read, plans: &Plans, mut row: RunRow) -> Result<StoredRun, Error> {
    let body = std::mem::take(&mut row.body);
    let id = row.id.clone();
    let strange = |why: String| damaged(&id, why);
    let own = serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))?;
    let steps = steps(reader, &row.id)?;
    let (laid, parts) = laid(reader, plans, &row)?;
    let (plans, templates) = laid.into_iter().map(|laid| (laid.plan, laid.templates)).unzip();
    let run = Run::load(own, steps, parts, plans).map_err(|error| strange(error.to_string()))?;
    Ok(StoredRun { row, run: Box::new(run), templates })
}

/// All steps of a run.
fn steps(reader: &mut dyn Read, run: &str) -> Result<Vec<StepRow>, Error> {
    let mut steps: Vec<StepRow> = Vec::new();
    loop {
        let from = steps.last().map_or(0, |step| step.step + 1);
        let page = reader.run_steps(run, from, STEPS)?;
        let more = page.len() == STEPS;
        steps.extend(page);
        if !more {
            return Ok(steps);
        }
    }
}

/// The flow chart of a run, if the store has it.
pub(super) fn chart(reader: &mut dyn Read, plans: &Plans, id: &str) -> Result<Option<Chart>, Error> {
    let Some(row) = reader.run(id)? else { return Ok(None) };
    // The steps first: a plan only grows, so that whatever a step names is there.
    let steps = steps(reader, id)?;
    let (laid, _) = laid(reader, plans, &row)?;
    let plans: Vec<_> = laid.into_iter().map(|laid| laid.plan).collect();
    let own = serde_json::from_slice(&row.body).map_err(|error| damaged(id, error.to_string()))?;
    Ok(Some(Chart::of_rows(&own, &steps, &plans)))
}

/// The plans of a run: of its definition, and of each part.
pub(super) fn laid(
    reader: &mut dyn Read,
    plans: &Plans,
    row: &RunRow,
) -> Result<(Vec<Laid>, Vec<workflow::run::PartRow>), Error> {
    let strange = |why: String| damaged(&row.id, why);
    let parts = reader.run_parts(&row.id)?;
    let handle: [u8; 32] =
        row.definition.as_slice().try_into().map_err(|_| strange("it names no definition".to_owned()))?;
    let stock = Stock::new(reader);
    let made = || -> Result<Vec<Laid>, String> {
        let mut laid = vec![plans.of_definition(handle, &*stock.get(&Handle(handle))?)?];
        for part in &parts {
            let tasks: std::rc::Rc<Value> = stock.get(&part.tasks)?;
            laid.push(Plans::of_tasks(&tasks, part.depth)?);
        }
        Ok(laid)
    };
    let made = made();
    stock.finish()?;
    Ok((made.map_err(strange)?, parts))
}

/// What the store holds of a run cannot be.
fn damaged(run: &str, why: String) -> Error {
    Error::Corrupt { path: PathBuf::from("the store"), detail: format!("workflow run {run}: {why}") }
}
