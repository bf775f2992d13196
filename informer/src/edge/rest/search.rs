//! Runs by Conductor's query: `workflowType = 'encode' AND status IN (RUNNING, PAUSED) AND startTime > 1700000000000`.

use super::Rest;
use super::answer::{self, Answer, Refusal};
use super::query::Query;
use super::show::{self, OfRun};
use crate::edge::workflow::{run_id, show as rows};
use crate::store::RunFilter;
use axum::extract::State;
use proto::v1::{self, RunStatus};
use proto::{bounds, check};
use serde_json::Value;

/// Runs that a search counts, and that a page may begin after; Elasticsearch's, behind Conductor, has the same. `totalHits` says no more.
const HITS: usize = 10_000;
/// Runs in a page unless it is said otherwise; Conductor's.
const SIZE: usize = 100;
/// Bytes of a query.
const QUERY_BYTES: usize = 8 << 10;
/// Ids that a query may name.
const IDS: usize = 1_000;

/// A word of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Sign(&'static str),
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    field: String,
    sign: &'static str,
    values: Vec<String>,
}

fn tokens(query: &str) -> Result<Vec<Token>, Refusal> {
    const SIGNS: [&str; 9] = ["<=", ">=", "!=", "=", "<", ">", "(", ")", ","];
    let mut tokens = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if matches!(first, '\'' | '"') {
            let (text, after) = rest[1..].split_once(first).ok_or_else(|| wrong("a quote is not closed"))?;
            tokens.push(Token::Quoted(text.to_owned()));
            rest = after;
        } else {
            let ends = |c: char| c.is_whitespace() || "<>!=(),'\"".contains(c);
            // A lone sign of exclamation is a word, so that something is always taken.
            let end = rest.char_indices().skip(1).find(|(_, c)| ends(*c)).map_or(rest.len(), |(at, _)| at);
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn wrong(problem: &str) -> Refusal {
    let form = "FIELD = VALUE, FIELD IN (VALUE, ...), FIELD < VALUE, FIELD BETWEEN VALUE AND VALUE, joined by AND";
    Refusal::invalid(format!("query: {problem}; it has the form {form}"))
}

fn value(token: Option<Token>) -> Result<String, Refusal> {
    match token {
        Some(Token::Word(text) | Token::Quoted(text)) => Ok(text),
        Some(Token::Sign(sign)) => Err(wrong(&format!("{sign:?} stands where a value belongs"))),
        None => Err(wrong("it breaks off")),
    }
}

fn is_word(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(text)) if text.eq_ignore_ascii_case(word))
}

fn conditions(query: &str) -> Result<Vec<Condition>, Refusal> {
    let mut tokens = tokens(query)?.into_iter().peekable();
    let mut conditions = Vec::new();
    while tokens.peek().is_some() {
        let field = value(tokens.next())?;
        let (sign, values) = match tokens.next() {
            Some(Token::Sign(sign @ ("=" | "<" | ">" | "<=" | ">="))) => (sign, vec![value(tokens.next())?]),
            word if is_word(word.as_ref(), "IN") => {
                if tokens.next() != Some(Token::Sign("(")) {
                    return Err(wrong("a list begins with ("));
                }
                let mut values = vec![value(tokens.next())?];
                loop {
                    match tokens.next() {
                        Some(Token::Sign(",")) => values.push(value(tokens.next())?),
                        Some(Token::Sign(")")) => break ("IN", values),
                        _ => return Err(wrong("a list ends with )")),
                    }
                }
            }
            word if is_word(word.as_ref(), "BETWEEN") => {
                let from = value(tokens.next())?;
                if !is_word(tokens.next().as_ref(), "AND") {
                    return Err(wrong("BETWEEN has two values, with AND between them"));
                }
                ("BETWEEN", vec![from, value(tokens.next())?])
            }
            _ => return Err(wrong(&format!("{field:?} is compared with nothing that is served"))),
        };
        conditions.push(Condition { field, sign, values });
        match tokens.next() {
            None => {}
            and if is_word(and.as_ref(), "AND") && tokens.peek().is_some() => {}
            _ => return Err(wrong("conditions are joined by AND, and by nothing else")),
        }
    }
    Ok(conditions)
}

/// What a query asks for; with ids, of these alone.
#[derive(Debug, Default)]
struct Wanted {
    filter: RunFilter,
    ids: Option<Vec<String>>,
}

impl Wanted {
    fn of(query: &str) -> Result<Self, Refusal> {
        let mut wanted = Self::default();
        for condition in conditions(query)? {
            wanted.add(condition)?;
        }
        Ok(wanted)
    }

    fn add(&mut self, condition: Condition) -> Result<(), Refusal> {
        let Condition { field, sign, mut values } = condition;
        let filter = &mut self.filter;
        match (field.as_str(), sign) {
            ("status", "=" | "IN") => {
                let status = |word: &String| {
                    let status = RunStatus::from_str_name(&format!("RUN_STATUS_{word}"));
                    let known = status.filter(|status| *status != RunStatus::Unspecified);
                    known.ok_or_else(|| wrong(&format!("{word:?} is no status")))
                };
                filter.statuses = values.iter().map(status).collect::<Result<_, _>>()?;
                Ok(())
            }
            ("workflowId", "=" | "IN") => {
                if values.len() > IDS {
                    return Err(wrong(&format!("{} ids are over the bound of {IDS}", values.len())));
                }
                self.ids = Some(values);
                Ok(())
            }
            ("startTime", sign) => {
                let times: Vec<u64> = values
                    .iter()
                    .map(|value| value.parse().ok())
                    .collect::<Option<_>>()
                    .ok_or_else(|| wrong("startTime is compared with milliseconds since 1970"))?;
                started(filter, sign, &times)
            }
            (_, "=" | "IN") if values.len() == 1 => {
                let text = values.pop();
                if let Some((of, name)) = field.split_once('.') {
                    let fields = match of {
                        "input" => &mut filter.input,
                        "labels" => &mut filter.labels,
                        _ => return Err(unknown(&field)),
                    };
                    fields.insert(name.to_owned(), text.unwrap_or_default());
                    return Ok(());
                }
                match field.as_str() {
                    "workflowType" | "workflowName" => filter.name = text,
                    "correlationId" => filter.correlation = text,
                    "parentWorkflowId" => filter.parent = text,
                    "createdBy" | "ownerApp" => filter.owner = text,
                    "reasonForIncompletion" => filter.reason = text,
                    "version" => {
                        filter.version = Some(
                            text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a version is a number"))?,
                        )
                    }
                    _ => return Err(unknown(&field)),
                }
                Ok(())
            }
            _ => Err(unknown(&format!("{field} {sign}"))),
        }
    }
}

fn unknown(field: &str) -> Refusal {
    const FIELDS: &str = "workflowType, workflowId (IN), status (IN), startTime (<, >, BETWEEN), correlationId, version, \
                          parentWorkflowId, createdBy, reasonForIncompletion, input.FIELD and labels.NAME";
    Refusal::invalid(format!("query: {field} is not served; there are {FIELDS}"))
}

/// The filter's own bounds are beyond what they let in.
fn started(filter: &mut RunFilter, sign: &str, times: &[u64]) -> Result<(), Refusal> {
    let (after, before) = match (sign, times) {
        ("=", [at]) => (at.checked_sub(1), Some(at.saturating_add(1))),
        (">", [at]) => (Some(*at), None),
        (">=", [at]) => (at.checked_sub(1), None),
        ("<", [at]) => (None, Some(*at)),
        ("<=", [at]) => (None, Some(at.saturating_add(1))),
        ("BETWEEN", [from, to]) => (from.checked_sub(1), Some(to.saturating_add(1))),
        _ => return Err(unknown(&format!("startTime {sign}"))),
    };
    filter.started_after_unix_ms = filter.started_after_unix_ms.max(after);
    let other = filter.started_before_unix_ms;
    filter.started_before_unix_ms = other.into_iter().chain(before).min();
    Ok(())
}

/// Where a page begins, and how long it is.
fn page(query: &Query) -> Result<(usize, usize), Refusal> {
    let (start, size) = (query.get("start")?.unwrap_or(0), query.get("size")?.unwrap_or(SIZE));
    check::page_size(u32::try_from(size).unwrap_or(u32::MAX))?;
    if start > HITS {
        return Err(Refusal::invalid(format!("start: a search ends after {HITS} runs; narrow it by startTime")));
    }
    Ok((start, size))
}

fn asked(query: &Query) -> Result<&str, Refusal> {
    let text = query.text("query").unwrap_or_default();
    if text.len() > QUERY_BYTES {
        return Err(wrong(&format!("{} bytes are over the bound of {QUERY_BYTES}", text.len())));
    }
    Ok(text)
}

pub(super) async fn runs(State(rest): State<Rest>, query: Query) -> Answer {
    let (start, size) = page(&query)?;
    if let Some(sort) = query.text("sort").filter(|sort| !matches!(*sort, "startTime:DESC" | "workflowId:DESC")) {
        return Err(Refusal::not_served(format!("sort={sort} is not served: the newest come first")));
    }
    let Wanted { mut filter, ids } = Wanted::of(asked(&query)?)?;
    filter.text = query.text("freeText").filter(|text| *text != "*").map(str::to_owned);
    let rows = match ids {
        None => rest.found(filter, HITS).await?.0,
        Some(ids) => {
            let mut rows = Vec::new();
            for id in ids {
                let row = rest.edge.handle.run(&run_id(&id)?).await?;
                rows.extend(row.filter(|row| filter.takes(row)));
            }
            rows
        }
    };
    let shown = rows.iter().skip(start).take(size).map(|row| show::summary(&rows::run(row)));
    Ok(answer::json(&show::found(rows.len(), shown.collect())))
}

/// Tasks of one run: over all runs nothing finds them but a walk through all.
pub(super) async fn tasks(State(rest): State<Rest>, query: Query) -> Answer {
    let (start, size) = page(&query)?;
    let (mut run, mut wanted) = (None, Vec::new());
    for condition in conditions(asked(&query)?)? {
        match (condition.field.as_str(), condition.sign) {
            ("workflowId", "=") => run = condition.values.into_iter().next(),
            ("status" | "taskType" | "taskDefName" | "referenceTaskName", "=" | "IN") => wanted.push(condition),
            (field, sign) => return Err(Refusal::invalid(format!("query: {field} {sign} is not served of tasks"))),
        }
    }
    let id = run.ok_or_else(|| Refusal::not_served("tasks are searched within a run: add workflowId = 'ID'"))?;
    let run = rest.flows.on_get(v1::GetRunRequest { id: id.clone() }).await?;
    let takes = |task: &v1::RunTask| {
        wanted.iter().all(|condition| {
            let told = match condition.field.as_str() {
                "status" => &task.status,
                "referenceTaskName" => &task.reference,
                _ if task.r#type == "SIMPLE" || condition.field == "taskDefName" => &task.name,
                _ => &task.r#type,
            };
            condition.values.contains(told)
        })
    };
    let mut found: Vec<Value> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::RunTasksRequest { id: id.clone(), page_size: bounds::PAGE, page_token, bare: true };
        let page = rest.flows.on_tasks(request).await?;
        found.extend(
            page.tasks.iter().filter(|task| takes(task)).map(|task| show::task_summary(&OfRun::from(&run), task)),
        );
        page_token = page.next_page_token;
        if page_token.is_empty() || found.len() >= HITS {
            break;
        }
    }
    let total = found.len();
    Ok(answer::json(&show::found(total, found.into_iter().skip(start).take(size).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn wanted(query: &str) -> Wanted {
        Wanted::of(query).unwrap_or_else(|_| panic!("{query} is refused"))
    }

    #[test]
    fn queries_are_read() {
        let text = "workflowType='a b' AND status IN (RUNNING,\"PAUSED\") and startTime > 5 AND startTime <=9";
        let Wanted { filter, ids } = wanted(text);
        assert_eq!((filter.name.as_deref(), ids), (Some("a b"), None));
        assert_eq!(filter.statuses, [RunStatus::Running, RunStatus::Paused]);
        assert_eq!((filter.started_after_unix_ms, filter.started_before_unix_ms), (Some(5), Some(10)));
        let Wanted { filter, ids } = wanted("workflowId IN (x, y) AND startTime BETWEEN 3 AND 4 AND version=2");
        assert_eq!(ids, Some(vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!((filter.started_after_unix_ms, filter.started_before_unix_ms), (Some(2), Some(5)));
        assert_eq!((filter.version, wanted("").filter), (Some(2), RunFilter::default()));
        let Wanted { filter, .. } = wanted("input.film.name = 'a b' AND labels.team=film");
        assert_eq!(filter.input, BTreeMap::from([("film.name".to_owned(), "a b".to_owned())]));
        assert_eq!(filter.labels, BTreeMap::from([("team".to_owned(), "film".to_owned())]));
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for query in [
            "status",
            "status =",
            "status = GONE",
            "status != RUNNING",
            "a = b",
            "status IN RUNNING",
            "status IN (RUNNING",
            "status = RUNNING OR status = PAUSED",
            "status = RUNNING AND",
            "workflowType = 'a",
            "startTime = x",
            "(status = RUNNING)",
            "workflowType IN (a, b)",
            "startTime BETWEEN 1",
            "!",
            "é!é = 'x'",
        ] {
            assert!(Wanted::of(query).is_err(), "{query}");
        }
    }
}
