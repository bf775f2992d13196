//! Members of an array that have no row of their own: the array's row tells them, in runs.

use crate::store::{Error, Filter, Page, Read, id_of};
use proto::id::TaskId;
use proto::store::{ArrayRow, Run, TaskRow};
use proto::v1::{Ending, Reason, TaskState};

/// A member as its array's row tells it. Its version is 0, which no row of its own has. `None` if it has, or had, a row of its own.
#[must_use]
pub fn member(array: &TaskRow, index: u32) -> Option<TaskRow> {
    let runs = array.array.as_ref()?;
    let within = |run: &Run| index.checked_sub(run.first).is_some_and(|at| at < run.count);
    let cancelled = match (runs.pending.iter().any(within), runs.cancelled.iter().any(within)) {
        (true, _) => false,
        (_, true) => true,
        (false, false) => return None,
    };
    tell(array, runs, index, cancelled)
}

fn tell(array: &TaskRow, runs: &ArrayRow, index: u32, cancelled: bool) -> Option<TaskRow> {
    let id = id_of(array)?.at(index)?;
    let waits = array.state() == TaskState::Waiting;
    let ending = cancelled.then(|| Ending {
        reason: reason(runs).into(),
        message: "it had not started".to_owned(),
        ..Ending::default()
    });
    Some(TaskRow {
        id: id.to_bytes().to_vec(),
        payload: array.payload.clone(),
        facts: array.facts.clone(),
        state: pending_state(array, cancelled).into(),
        created_unix_ms: array.created_unix_ms,
        // Runs do not say when: while the array goes on it is unknown.
        ended_unix_ms: if cancelled { array.ended_unix_ms } else { 0 },
        not_before_unix_ms: if waits { array.not_before_unix_ms } else { 0 },
        ready_since_unix_ms: array.ready_since_unix_ms,
        run_since_unix_ms: array.run_since_unix_ms,
        runs: 1,
        ending,
        ..TaskRow::default()
    })
}

fn pending_state(array: &TaskRow, cancelled: bool) -> TaskState {
    match (cancelled, array.state()) {
        (true, _) => TaskState::Cancelled,
        (false, TaskState::Waiting) => TaskState::Waiting,
        (false, _) => TaskState::Ready,
    }
}

/// Why members without a row were cancelled.
fn reason(runs: &ArrayRow) -> Reason {
    if runs.failing { Reason::MaxFailures } else { Reason::Cancelled }
}

/// One page of an array's members, lowest index first: those with a row and those that the array's row tells.
pub(super) fn list(reader: &mut dyn Read, filter: &Filter, array: TaskId) -> Result<Page, Error> {
    // The array first: a member that starts in between has then a row and is told by the array too, where the row is taken; the
    // other way round it would be in neither.
    let row = reader.get(array)?;
    let page = reader.list(filter)?;
    let Some(row) = row else { return Ok(page) };
    let Some(runs) = &row.array else { return Ok(page) };
    Ok(merge(page, told(&row, runs, filter), filter.rows()))
}

/// What the array's row tells of the members that the filter shows, after its `before`.
fn told<'a>(row: &'a TaskRow, runs: &'a ArrayRow, filter: &Filter) -> impl Iterator<Item = TaskRow> + 'a {
    let from = filter.before.and_then(TaskId::index).map_or(0, |index| index.saturating_add(1));
    let mut shown: Vec<(Run, bool)> = Vec::new();
    for (list, cancelled) in [(&runs.pending, false), (&runs.cancelled, true)] {
        if shows(filter, row, runs, cancelled) {
            shown.extend(list.iter().filter(|run| end(run) > u64::from(from)).map(|run| (*run, cancelled)));
        }
    }
    shown.sort_unstable_by_key(|(run, _)| run.first);
    shown.into_iter().flat_map(move |(run, cancelled)| {
        let last = u32::try_from(end(&run)).unwrap_or(u32::MAX);
        (run.first.max(from)..last).filter_map(move |index| tell(row, runs, index, cancelled))
    })
}

/// One more than the last index.
fn end(run: &Run) -> u64 {
    u64::from(run.first) + u64::from(run.count)
}

fn shows(filter: &Filter, row: &TaskRow, runs: &ArrayRow, cancelled: bool) -> bool {
    let facts = row.facts.clone().unwrap_or_default();
    let ended_for = cancelled.then(|| reason(runs));
    (filter.states.is_empty() || filter.states.contains(&pending_state(row, cancelled)))
        && filter.owner.as_ref().is_none_or(|owner| *owner == facts.owner)
        && filter.name.as_ref().is_none_or(|name| *name == facts.name)
        && filter.name_prefix.as_ref().is_none_or(|prefix| facts.name.starts_with(prefix))
        && filter.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
        && filter.kind.as_ref().is_none_or(|kind| *kind == facts.kind)
        && filter.priority.is_none_or(|priority| priority == facts.priority)
        && filter.created_after_unix_ms.is_none_or(|after| row.created_unix_ms > after)
        && filter.created_before_unix_ms.is_none_or(|before| row.created_unix_ms < before)
        && filter.reason.is_none_or(|reason| ended_for == Some(reason))
        // No attempt of it ever was on any.
        && filter.sidecar.is_none()
}

/// Both kinds in the order of their ids, at most `most`; of one that is in both its row.
fn merge(page: Page, told: impl Iterator<Item = TaskRow>, most: usize) -> Page {
    let more_rows = page.next;
    let mut rows = page.rows.into_iter().peekable();
    let mut told = told.peekable();
    let mut merged = Vec::new();
    loop {
        let next = match (rows.peek(), told.peek()) {
            // What follows the end of the store's page may have a row on the next one.
            (None, Some(other)) if more_rows.is_some_and(|next| *other.id > *next.to_bytes()) => break,
            (Some(row), Some(other)) if row.id == other.id => {
                told.next();
                rows.next()
            }
            (Some(row), Some(other)) if other.id < row.id => told.next(),
            (Some(_), _) => rows.next(),
            (None, _) => told.next(),
        };
        if merged.len() == most && next.is_some() {
            let last = merged.last().and_then(id_of);
            return Page { rows: merged, next: last };
        }
        let Some(next) = next else { break };
        merged.push(next);
    }
    Page { rows: merged, next: more_rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::store::Facts;

    const ARRAY: TaskId = TaskId::from_u128(7);

    fn run(first: u32, count: u32) -> Run {
        Run { first, count }
    }

    fn array() -> TaskRow {
        TaskRow {
            id: ARRAY.to_bytes().to_vec(),
            state: TaskState::Running.into(),
            facts: Some(Facts { name: "cut".into(), ..Facts::default() }),
            array: Some(ArrayRow {
                first: 1,
                count: 10,
                pending: vec![run(6, 2), run(9, 2)],
                cancelled: vec![run(3, 1)],
                ..ArrayRow::default()
            }),
            ..TaskRow::default()
        }
    }

    fn started(index: u32) -> TaskRow {
        let id = ARRAY.at(index).unwrap();
        TaskRow { id: id.to_bytes().to_vec(), state: TaskState::Running.into(), version: 1, ..TaskRow::default() }
    }

    fn indices(rows: &[TaskRow]) -> Vec<u32> {
        rows.iter().map(|row| id_of(row).and_then(TaskId::index).unwrap()).collect()
    }

    /// All pages over members that have rows, as a store would answer.
    fn pages(rows: &[u32], filter: &Filter, size: usize) -> Vec<Vec<u32>> {
        let array = array();
        let runs = array.array.as_ref().unwrap();
        let mut pages = Vec::new();
        let mut filter = filter.clone();
        loop {
            let after = filter.before.and_then(TaskId::index);
            let mut found: Vec<TaskRow> =
                rows.iter().filter(|index| Some(**index) > after).map(|index| started(*index)).collect();
            let more = found.len() > size;
            found.truncate(size);
            let next = found.last().filter(|_| more).and_then(id_of);
            let page = merge(Page { rows: found, next }, told(&array, runs, &filter), size);
            pages.push(indices(&page.rows));
            match page.next {
                Some(next) => filter.before = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn a_member_is_told_by_its_arrays_runs() {
        let array = array();
        let pending = member(&array, 6).unwrap();
        assert_eq!((pending.state(), pending.version), (TaskState::Ready, 0));
        assert_eq!(pending.facts.unwrap().name, "cut");
        let cancelled = member(&array, 3).unwrap();
        assert_eq!(cancelled.ending.unwrap().reason(), Reason::Cancelled);
        for index in [0, 1, 8, 11, u32::MAX] {
            assert_eq!(member(&array, index), None, "{index}");
        }
        let later = TaskRow { state: TaskState::Waiting.into(), ..array };
        assert_eq!(member(&later, 6).unwrap().state(), TaskState::Waiting);
    }

    #[test]
    fn pages_hold_both_kinds_once_and_in_order() {
        let all = Filter { array: Some(ARRAY), ..Filter::default() };
        // 6 has started since the array's row was read: its row is what counts.
        let rows = [1, 2, 4, 5, 6, 8];
        let whole: Vec<u32> = (1..=10).collect();
        for size in 1..=11 {
            let pages = pages(&rows, &all, size);
            assert!(pages.iter().all(|page| page.len() <= size), "{pages:?}");
            assert_eq!(pages.concat(), whole, "pages of {size}");
        }
        assert_eq!(pages(&rows, &all, 10).len(), 1, "no empty page follows a full one");
    }

    #[test]
    fn a_page_of_rows_that_ends_early_hides_no_other_member() {
        let array = array();
        let all = Filter { array: Some(ARRAY), ..Filter::default() };
        // The store has looked as far as 7 and found one row that the filter shows.
        let page = Page { rows: vec![started(2)], next: ARRAY.at(7) };
        let page = merge(page, told(&array, array.array.as_ref().unwrap(), &all), 100);
        assert_eq!((indices(&page.rows), page.next), (vec![2, 3, 6, 7], ARRAY.at(7)));
    }

    #[test]
    fn filters_hold_for_members_without_a_row_too() {
        let only = |filter: Filter| pages(&[], &Filter { array: Some(ARRAY), ..filter }, 100).concat();
        assert_eq!(only(Filter { states: vec![TaskState::Ready], ..Filter::default() }), [6, 7, 9, 10]);
        assert_eq!(only(Filter { states: vec![TaskState::Cancelled], ..Filter::default() }), [3]);
        assert_eq!(only(Filter { reason: Some(Reason::Cancelled), ..Filter::default() }), [3]);
        assert_eq!(only(Filter { name_prefix: Some("cu".into()), ..Filter::default() }).len(), 5);
        assert!(only(Filter { name: Some("other".into()), ..Filter::default() }).is_empty());
        assert!(only(Filter { sidecar: Some("any".into()), ..Filter::default() }).is_empty());
        assert_eq!(only(Filter { before: ARRAY.at(6), ..Filter::default() }), [7, 9, 10]);
    }
}
