//! A filter as SQL: the most selective index leads, in the order of ids, and the rest of the filter is checked row by row. So a page
//! never sorts, a page after many others costs what the first did, and one that finds nothing ends at a bound.

use super::prune::after_members;
use super::row::phase;
use crate::store::Filter;
use rusqlite::types::Value;

/// One statement and its parameters; answers `(id, state, body, facts)` in the order of the list, without end.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

impl Query {
    pub(super) fn of(filter: &Filter) -> Self {
        let (from, order) = match filter.array {
            Some(_) => ("members", "ASC"),
            None => ("tasks", "DESC"),
        };
        let range = if filter.array.is_some() { "t.id > ?1 AND t.id < ?2" } else { "t.id < ?1" };
        let (mut params, place) = range_of(filter);
        let head = "SELECT t.id AS id, t.state, t.body, t.facts FROM";
        let body = match Lead::of(filter) {
            Lead::Id => format!("{head} {from} t WHERE {range}"),
            Lead::Phases(phases) => {
                // Merged on the way: each part follows the index.
                let part = |phase: &i32| {
                    format!("{head} {from} t INDEXED BY {from}_phase WHERE {range} AND t.phase = {phase}")
                };
                phases.iter().map(part).collect::<Vec<_>>().join(" UNION ALL ")
            }
            Lead::Owner(owner) => {
                params.push(owner.to_owned().into());
                format!("{head} tasks t INDEXED BY tasks_owner WHERE {range} AND t.owner = ?{place}")
            }
            Lead::Name(name) => {
                params.push(name.to_owned().into());
                format!("{head} tasks t INDEXED BY tasks_name WHERE {range} AND t.name = ?{place}")
            }
            Lead::Label(key, value) => {
                params.extend([key, value].map(|text| Value::from(text.to_owned())));
                // A cross join keeps the label's order, which is that of the ids.
                return Self {
                    sql: format!(
                        "{head} task_labels l CROSS JOIN tasks t ON t.id = l.task
                         WHERE l.task < ?1 AND l.key = ?2 AND l.value = ?3 ORDER BY l.task {order}"
                    ),
                    params,
                };
            }
        };
        Self { sql: format!("{body} ORDER BY id {order}"), params }
    }
}

/// The bounds of the range of ids, and the number of the next parameter.
fn range_of(filter: &Filter) -> (Vec<Value>, usize) {
    let before = filter.before.map(|task| task.to_bytes().to_vec());
    let Some(array) = filter.array else {
        // Longer than any id, so above all of them.
        return (vec![before.unwrap_or_else(|| vec![u8::MAX; 21]).into()], 2);
    };
    let array = array.to_bytes().to_vec();
    let end = after_members(&array);
    (vec![before.unwrap_or_default().max(array).into(), end.into()], 3)
}

enum Lead<'f> {
    Id,
    Phases(Vec<i32>),
    Owner(&'f str),
    Name(&'f str),
    Label(&'f str, &'f str),
}

impl<'f> Lead<'f> {
    /// Names tell most, then labels, then states (what succeeded is most of all and in no index); owners are few.
    fn of(filter: &'f Filter) -> Self {
        let mut phases: Vec<i32> = filter.states.iter().filter_map(|state| phase(*state)).collect();
        let found = !phases.is_empty() && filter.states.iter().all(|state| phase(*state).is_some());
        phases.sort_unstable();
        phases.dedup();
        if filter.array.is_some() {
            return if found { Self::Phases(phases) } else { Self::Id };
        }
        if let Some(name) = &filter.name {
            Self::Name(name)
        } else if let Some((key, value)) = filter.labels.first_key_value() {
            Self::Label(key, value)
        } else if found {
            Self::Phases(phases)
        } else if let Some(owner) = &filter.owner {
            Self::Owner(owner)
        } else {
            Self::Id
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use proto::id::TaskId;
    use proto::v1::TaskState;
    use rusqlite::{Connection, params_from_iter};
    use std::path::Path;

    /// SQLite's plan of a query, one step a line.
    fn plan(db: &Connection, query: &Query) -> String {
        let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql)).unwrap();
        let steps = explain.query_map(params_from_iter(&query.params), |row| row.get::<_, String>(3)).unwrap();
        steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
    }

    #[test]
    fn every_page_follows_an_index_and_none_is_sorted() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db, Path::new("memory"), 0).unwrap();
        for bits in 0..64_u8 {
            let given = |bit: u8| bits & bit != 0;
            let mut states = if given(1) { vec![TaskState::Failed, TaskState::Ready] } else { Vec::new() };
            states.extend(given(32).then_some(TaskState::Succeeded));
            let filter = Filter {
                states,
                owner: given(2).then(|| "ann".into()),
                name: given(4).then(|| "job".into()),
                labels: if given(8) {
                    [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into()
                } else {
                    [].into()
                },
                array: given(16).then(|| TaskId::from_u128(1)),
                ..Filter::default()
            };
            let query = Query::of(&filter);
            let plan = plan(&db, &query);
            assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{}\n{plan}", query.sql);
        }
    }
}
