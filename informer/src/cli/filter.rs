//! Which tasks are meant: the filters of `list`, `cancel` and `retry`.

use std::cmp::Reverse;

use proto::{
    id::{SidecarId, TaskId},
    v1::{ListRequest, Task, TaskState},
};

use super::{client::Client, drain, error::Error, short, text, units, words};

/// The filters; what is given must match, all of it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct Filter {
    /// In this state (repeat for more)
    #[arg(long = "state", value_name = "STATE", value_parser = words::parse_task_state)]
    pub(crate) states: Vec<TaskState>,
    /// Of this owner
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) owner: String,
    /// Of this name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// With a name that begins like this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) name_prefix: String,
    /// With this label (repeat for more: all must match)
    #[arg(long = "label", value_name = "K=V", value_parser = units::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Of this kind: command, script, service, transcode, container, http or type:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) kind: String,
    /// With an attempt that is, or was, on this sidecar: its id, the beginning of it, or its host
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(crate) sidecar: String,
    /// Submitted at this time or later: a time ago like 2h, or a date
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,
    /// Submitted before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,
    /// Of this priority
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
    /// Members of this array
    #[arg(long = "array", id = "array_id", value_name = "ID", default_value = "", hide_default_value = true)]
    pub(crate) array: String,
}

fn moment(text: &str) -> Result<u64, units::Error> {
    units::moment(text, text::now_unix_ms())
}

impl Filter {
    /// As the informer takes it. A sidecar or array that is named otherwise than by its id is looked up.
    ///
    /// # Errors
    /// No sidecar or array, or several, are named like that; or a label is given twice.
    pub(crate) async fn request(&self, client: &Client) -> Result<ListRequest, Error> {
        units::once("--label", &self.labels)?;
        let mut request = self.plain();
        request.array = short::whole(client, &self.array).await?;
        if !self.sidecar.is_empty() && self.sidecar.parse::<SidecarId>().is_err() {
            request.sidecar = drain::resolve(client, &self.sidecar).await?.id;
        }
        Ok(request)
    }

    /// Nothing is given: every task is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.plain() == ListRequest::default()
    }

    fn plain(&self) -> ListRequest {
        ListRequest {
            states: self.states.iter().map(|state| i32::from(*state)).collect(),
            owner: self.owner.clone(),
            name: self.name.clone(),
            labels: self.labels.iter().cloned().collect(),
            array: self.array.clone(),
            kind: self.kind.clone(),
            sidecar: self.sidecar.clone(),
            created_after_unix_ms: self.since.unwrap_or_default(),
            created_before_unix_ms: self.until.unwrap_or_default(),
            name_prefix: self.name_prefix.clone(),
            priority: self.priority,
            ..ListRequest::default()
        }
    }
}

/// Whether a list with this request has this task: what a change to it means can then be told without asking.
pub(crate) fn matches(request: &ListRequest, task: &Task) -> bool {
    let text = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let array = task.id.split_once('.').map_or("", |(array, _)| array);
    let reason = task.ending.as_ref().map_or(0, |ending| ending.reason);
    let before = request.created_before_unix_ms;
    // Members stand in the list of their array, and only there.
    array == request.array
        && (request.states.is_empty() || request.states.contains(&task.state))
        && text(&request.owner, &task.owner)
        && text(&request.name, &task.name)
        && text(&request.kind, &task.kind)
        && task.name.starts_with(&request.name_prefix)
        && request.labels.iter().all(|(key, value)| task.labels.get(key) == Some(value))
        && (request.sidecar.is_empty() || task.attempts.iter().any(|attempt| attempt.sidecar == request.sidecar))
        && task.created_unix_ms >= request.created_after_unix_ms
        && (before == 0 || task.created_unix_ms < before)
        && (request.reason == 0 || request.reason == reason)
        && request.priority.is_none_or(|priority| priority == task.priority)
}

/// A list's place for an id: newest first, the members of an array by their index.
pub(crate) fn place(id: &str) -> (Reverse<u128>, Option<u32>, String) {
    let parsed = id.parse::<TaskId>().ok();
    (Reverse(parsed.map_or(0, TaskId::as_u128)), parsed.and_then(TaskId::index), id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proto::v1::{Attempt, Ending, Reason};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    fn request(line: &str) -> ListRequest {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).filter.plain()
    }

    #[test]
    fn every_filter_reaches_its_field() {
        let line = "--state failed --state ready --owner o --name n --name-prefix p --label a=1 --kind type:t --sidecar s \
                    --since 1970-01-01T00:00:01Z --until 1970-01-02 --priority -3 --array a";
        let expected = ListRequest {
            states: vec![TaskState::Failed.into(), TaskState::Ready.into()],
            owner: "o".into(),
            name: "n".into(),
            name_prefix: "p".into(),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            kind: "type:t".into(),
            sidecar: "s".into(),
            created_after_unix_ms: 1_000,
            created_before_unix_ms: 86_400_000,
            priority: Some(-3),
            array: "a".into(),
            ..ListRequest::default()
        };
        assert_eq!(request(line), expected);
        assert!(Filter::default().is_empty());
        assert!(!Filter { priority: Some(0), ..Filter::default() }.is_empty());
    }

    #[test]
    fn a_change_is_matched_as_the_list_would() {
        let task = Task {
            id: "t".into(),
            name: "film-1".into(),
            owner: "ops".into(),
            kind: "transcode".into(),
            state: TaskState::Failed.into(),
            created_unix_ms: 5_000,
            attempts: vec![Attempt { sidecar: "s".into(), ..Attempt::default() }],
            ending: Some(Ending { reason: Reason::Oom.into(), ..Ending::default() }),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..Task::default()
        };
        let good = [
            "",
            "--state failed --owner ops --name film-1 --name-prefix film --label a=1 --kind transcode --sidecar s",
            "--since 1970-01-01T00:00:05Z --until 1970-01-01T00:00:06Z --priority 0",
        ];
        for line in good {
            assert!(matches(&request(line), &task), "{line}");
        }
        let bad = [
            "--state ready",
            "--owner x",
            "--name film",
            "--name-prefix x",
            "--label a=2",
            "--label b=1",
            "--kind script",
            "--sidecar x",
            "--since 1970-01-01T00:00:06Z",
            "--until 1970-01-01T00:00:05Z",
            "--priority 1",
            "--array t",
        ];
        for line in bad {
            assert!(!matches(&request(line), &task), "{line}");
        }
        let of = |reason: Reason| ListRequest { reason: reason.into(), ..ListRequest::default() };
        assert!(matches(&of(Reason::Oom), &task) && !matches(&of(Reason::Signal), &task));
        let member = Task { id: "t.4".into(), ..task };
        assert!(matches(&request("--array t"), &member) && !matches(&request(""), &member));
    }

    #[test]
    fn the_newest_stands_first_and_members_by_their_index() {
        let id = |n: u128| TaskId::from_u128(n);
        let ids = [id(1), id(3), id(3).at(10).expect("a member"), id(3).at(9).expect("a member"), id(2)];
        let mut ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        ids.sort_by_key(|id| place(id));
        let ends: Vec<&str> = ids.iter().map(|id| &id[35..]).collect();
        assert_eq!(ends, ["3", "3.9", "3.10", "2", "1"]);
    }
}
