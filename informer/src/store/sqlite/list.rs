//! A filter as SQL: the most selective index leads, in the order of ids, and the rest of the filter is checked row by row. So a page
//! never sorts, and a page after many others costs what the first did.

use crate::store::Filter;
use proto::v1::TaskState;
use rusqlite::types::Value;

/// One statement and its parameters; answers `(id, body)`, newest first.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) params: Vec<Value>,
}

/// The statements whose answers, merged, are the page. Several only for a filter by several states and nothing better to lead.
pub(super) fn queries(filter: &Filter, limit: usize) -> Vec<Query> {
    let alone = filter.name.is_none() && filter.owner.is_none() && filter.labels.is_empty();
    if !alone {
        return vec![query(filter, &Lead::of(filter), &filter.states, limit)];
    }
    if filter.states.is_empty() {
        return vec![query(filter, &Lead::Id, &[], limit)];
    }
    let mut states = filter.states.clone();
    states.sort_unstable_by_key(|state| *state as i32);
    states.dedup();
    states.into_iter().map(|state| query(filter, &Lead::State(state), &[], limit)).collect()
}

enum Lead<'f> {
    Id,
    State(TaskState),
    Owner(&'f str),
    Name(&'f str),
    Label(&'f str, &'f str),
}

impl<'f> Lead<'f> {
    /// Names tell most, then labels; owners are few.
    fn of(filter: &'f Filter) -> Self {
        if let Some(name) = &filter.name {
            Self::Name(name)
        } else if let Some((key, value)) = filter.labels.first_key_value() {
            Self::Label(key, value)
        } else if let Some(owner) = &filter.owner {
            Self::Owner(owner)
        } else {
            Self::Id
        }
    }
}

fn query(filter: &Filter, lead: &Lead<'_>, states: &[TaskState], limit: usize) -> Query {
    let mut params: Vec<Value> = Vec::new();
    // Longer than any id, so above all of them.
    params.push(filter.before.map_or_else(|| vec![0xff; 17], |task| task.to_bytes().to_vec()).into());
    let mut sql = String::from("SELECT t.id, t.body FROM ");
    let mut with = |sql: &mut String, text: &str, param: &str| {
        sql.push_str(text);
        params.push(param.to_owned().into());
    };
    match lead {
        Lead::Id => sql.push_str("tasks t WHERE t.id < ?"),
        Lead::State(state) => {
            sql.push_str("tasks t INDEXED BY tasks_state WHERE t.id < ? AND t.state = ");
            sql.push_str(&(*state as i32).to_string());
        }
        Lead::Owner(owner) => with(&mut sql, "tasks t INDEXED BY tasks_owner WHERE t.id < ? AND t.owner = ?", owner),
        Lead::Name(name) => with(&mut sql, "tasks t INDEXED BY tasks_name WHERE t.id < ? AND t.name = ?", name),
        Lead::Label(key, value) => {
            // A cross join keeps the label's order, which is that of the ids.
            with(&mut sql, "task_labels l CROSS JOIN tasks t ON t.id = l.task WHERE l.task < ? AND l.key = ?", key);
            with(&mut sql, " AND l.value = ?", value);
        }
    }
    if let (Some(owner), false) = (&filter.owner, matches!(lead, Lead::Owner(_))) {
        with(&mut sql, " AND t.owner = ?", owner);
    }
    for (key, value) in filter.labels.iter().skip(usize::from(matches!(lead, Lead::Label(..)))) {
        with(&mut sql, " AND EXISTS (SELECT 1 FROM task_labels x WHERE x.key = ?", key);
        with(&mut sql, " AND x.value = ? AND x.task = t.id)", value);
    }
    if !states.is_empty() {
        let states: Vec<String> = states.iter().map(|state| (*state as i32).to_string()).collect();
        sql.push_str(&format!(" AND t.state IN ({})", states.join(", ")));
    }
    let order = if matches!(lead, Lead::Label(..)) { "l.task" } else { "t.id" };
    sql.push_str(&format!(" ORDER BY {order} DESC LIMIT {limit}"));
    Query { sql, params }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use rusqlite::{Connection, params_from_iter};

    /// SQLite's plan of a query, one step a line.
    fn plan(db: &Connection, query: &Query) -> String {
        let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql)).unwrap();
        let steps = explain.query_map(params_from_iter(&query.params), |row| row.get::<_, String>(3)).unwrap();
        steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
    }

    #[test]
    fn every_page_follows_an_index_and_none_is_sorted() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db, 0).unwrap();
        for bits in 0..16_u8 {
            let given = |bit: u8| bits & bit != 0;
            let filter = Filter {
                states: if given(1) { vec![TaskState::Failed, TaskState::Ready] } else { Vec::new() },
                owner: given(2).then(|| "ann".into()),
                name: given(4).then(|| "job".into()),
                labels: if given(8) {
                    [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into()
                } else {
                    [].into()
                },
                ..Filter::default()
            };
            let queries = queries(&filter, 100);
            assert_eq!(queries.len(), if bits == 1 { 2 } else { 1 }, "{filter:?}");
            for query in queries {
                let plan = plan(&db, &query);
                assert!(!plan.contains("TEMP B-TREE") && !plan.contains("SCAN"), "{}\n{plan}", query.sql);
            }
        }
    }
}
