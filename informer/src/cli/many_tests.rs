//! Cancelling and retrying many.

use std::sync::Arc;

use clap::Parser;
use proto::v1::ManyResponse;

use super::*;
use crate::cli::fake::{self, Script};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    targets: Targets,
}

fn targets(line: &str) -> Targets {
    let words = std::iter::once("x").chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).targets
}

const ARRAY: &str = "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6b";

fn cancel() -> Action {
    Action::Cancel { reason: String::new() }
}

#[test]
fn members_are_named_singly_or_by_a_range() {
    let ids = |ids: &[String]| expanded(ids).map(|ids| ids.iter().map(|id| id.replace(ARRAY, "A")).collect::<Vec<_>>());
    let of = |suffix: &str| format!("{ARRAY}{suffix}");
    assert_eq!(ids(&[of(""), of(".7"), of(".3-5")]).expect("ids"), ["A", "A.7", "A.3", "A.4", "A.5"]);
    for id in [of(".5-3"), of(".1-"), of(".0-100000"), "x.1-2".to_owned(), of(".1-2-3")] {
        assert_eq!(ids(std::slice::from_ref(&id)).expect_err(&id).exit(), 2, "{id}");
    }
    assert_eq!(targets(&of("")).only(), Some(ARRAY));
    assert_eq!(targets(&of(".7")).only(), Some(of(".7").as_str()));
    assert_eq!((targets(&of(".1-2")).only(), targets("a b").only(), targets("a --owner o").only()), (None, None, None));
}

#[test]
fn a_filter_is_wanted_and_its_states_must_fit() {
    let problem = |line: &str, action: Action| targets(line).check(&action).expect_err(line).to_string();
    assert!(problem("", cancel()).contains("--all for every task"));
    assert!(problem("--yes", cancel()).contains("nothing is named"));
    assert_eq!(
        problem("--state failed", cancel()),
        "a task that is failed cannot be cancelled; leave --state failed out"
    );
    let retry = Action::Retry { key: "k".into() };
    assert!(problem("--all --state running", retry.clone()).contains("cannot be retried"));
    for line in ["--all", "--owner o", "--state succeeded", "--array a"] {
        assert!(targets(line).check(&retry).is_ok(), "{line}");
    }
}

#[test]
fn the_question_and_the_answer_count() {
    assert_eq!(question(1, false, &cancel()), "1 task matches; cancel it? [y/N] ");
    let retry = Action::Retry { key: String::new() };
    assert_eq!(question(COUNTED, true, &retry), "more than 10000 tasks match; retry them? [y/N] ");
    let counts = |matched, done, refused| Counts { matched, done, refused, errors: Vec::new() };
    assert_eq!(summary(&counts(0, 0, 0), &retry), "no task matches; nothing was retried");
    assert_eq!(summary(&counts(3, 3, 0), &cancel()), "cancelled 3 of 3");
    assert_eq!(summary(&counts(3, 2, 1), &cancel()), "cancelled 2 of 3; 1 in no state to be cancelled");
}

#[tokio::test]
async fn a_filter_goes_page_by_page_and_is_asked_again_after_a_break() {
    let script = Arc::new(Script::default());
    let page = |matched, done, refused, next: &str| {
        Ok(ManyResponse { matched, done, refused, next_page_token: next.to_owned() })
    };
    let lost = Err(tonic::Status::unavailable("restarting"));
    script.manys.lock().expect("a lock").extend([page(10, 9, 1, "t1"), lost, page(0, 0, 0, "t2"), page(2, 2, 0, "")]);
    let client = fake::serve(Arc::clone(&script)).await;
    let targets = targets("--label a=1 --yes");
    let counts = targets.perform_filter(&client, &cancel()).await.expect("answers").expect("nobody is asked");
    assert_eq!((counts.matched, counts.done, counts.refused), (12, 11, 1));
    let asked = script.many.lock().expect("a lock");
    let filters: Vec<_> = asked.iter().filter_map(|request| request.filter.as_ref()).collect();
    let tokens: Vec<&str> = filters.iter().map(|filter| filter.page_token.as_str()).collect();
    assert_eq!(tokens, ["", "t1", "t1", "t2"]);
    assert!(filters.iter().all(|filter| filter.states == [1, 2, 3, 4] && filter.labels.len() == 1));
}

#[tokio::test]
async fn of_several_ids_the_refused_ones_are_told() {
    let script = Arc::new(Script::default());
    script.refused.lock().expect("a lock").push(format!("{ARRAY}.2"));
    let client = fake::serve(Arc::clone(&script)).await;
    let action = Action::Retry { key: "k".into() };
    let ids = expanded(&[format!("{ARRAY}.1-3")]).expect("ids");
    let counts = each(&client, ids, &action).await.expect("answers");
    assert_eq!((counts.matched, counts.done, counts.refused), (3, 2, 1));
    assert_eq!(counts.errors.len(), 1);
    assert!(counts.errors[0].0.ends_with(".2") && counts.errors[0].1.contains("cannot retry task"), "{counts:?}");
    let mut keys: Vec<String> = script.retried.lock().expect("a lock").iter().map(|retry| retry.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2, "a key for each that was taken");
    let result = targets(&format!("{ARRAY}.1-3")).perform(&client, action, true).await;
    assert_eq!(result.expect("told"), exit::FAILURE);
}
