//! Ids of tasks, shortened to a beginning that only one of them has.

use proto::{
    id::TaskId,
    v1::{ListRequest, Task},
};
use tonic::Code;

use super::{client::Client, error::Error};

/// Fewer characters would name whatever was submitted within hours of it: an id begins with its time.
const LEAST: usize = 8;
/// Candidates that are listed; whoever sees five knows that more of the id is needed.
const CANDIDATES: usize = 5;
/// An id without its time, as high as it gets.
const HIGHEST: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

/// The id that is meant: the one given, or, of a beginning, the only task's that begins so. The index of a member, or a range of
/// them, stays behind it. What can be no beginning is left to the informer to refuse.
///
/// # Errors
/// Several tasks begin like that, or none.
pub(crate) async fn whole(client: &Client, text: &str) -> Result<String, Error> {
    let (base, index) = text.split_once('.').map_or((text, None), |(base, index)| (base, Some(index)));
    if is_too_short(base) {
        return Err(Error::Misuse(format!(
            "{base:?} is too short for a task's id: write its first {LEAST} characters or more, since fewer are the same for all \
             tasks of a day"
        )));
    }
    if base.parse::<TaskId>().is_ok() || !is_beginning(base) {
        return Ok(text.to_owned());
    }
    // The newest stand first, and a page begins below the id of its token: so the tasks that begin like this are the first below the
    // next id after the highest such.
    let page_token = after_all(base);
    let page_size = u32::try_from(CANDIDATES + 1).unwrap_or(u32::MAX);
    let request = ListRequest { page_size, page_token, ..ListRequest::default() };
    let attempted = format!("find task {base}");
    let page = client.persist(&attempted, async |mut grpc| grpc.list(request.clone()).await).await?;
    let id = choose(base, &page.tasks).map_err(|(code, message)| Error::Refused { attempted, code, message })?;
    Ok(index.map_or_else(|| id.to_owned(), |index| format!("{id}.{index}")))
}

/// The first id after all that begin like this; none is after the highest, which no task has.
fn after_all(base: &str) -> String {
    let highest: TaskId = format!("{base}{}", &HIGHEST[base.len()..]).parse().unwrap_or(TaskId::from_u128(u128::MAX));
    TaskId::from_u128(highest.as_u128().saturating_add(1)).to_string()
}

/// The beginning of an id in its canonical form, and not all of it.
fn is_beginning(text: &str) -> bool {
    (LEAST..HIGHEST.len()).contains(&text.len()) && fits(text)
}

/// It would be one, were it longer.
fn is_too_short(text: &str) -> bool {
    (1..LEAST).contains(&text.len()) && fits(text)
}

/// Each character can stand in an id where it stands.
fn fits(text: &str) -> bool {
    text.bytes().enumerate().all(|(place, byte)| match HIGHEST.as_bytes().get(place) {
        Some(b'-') => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

fn choose<'a>(base: &str, tasks: &'a [Task]) -> Result<&'a str, (Code, String)> {
    let named: Vec<&Task> = tasks.iter().filter(|task| task.id.starts_with(base)).collect();
    match named.as_slice() {
        [task] => Ok(&task.id),
        [] => Err((Code::NotFound, "no task's id begins like that; `informer list` shows what there is".to_owned())),
        several => {
            let listed: Vec<String> =
                several.iter().take(CANDIDATES).map(|task| format!("{} {}", task.id, task.name)).collect();
            let more = if several.len() > CANDIDATES { ", ..." } else { "" };
            let message = format!("several begin like that: {}{more}; write more of the id", listed.join(", "));
            Err((Code::FailedPrecondition, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(ids: &[&str]) -> Vec<Task> {
        ids.iter().map(|id| Task { id: (*id).to_owned(), name: "n".into(), ..Task::default() }).collect()
    }

    #[test]
    fn only_the_canonical_form_shortens() {
        for text in ["0192f3c4", "0192f3c4-", "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6"] {
            assert!(is_beginning(text), "{text}");
        }
        for text in ["0", "0192f3c"] {
            assert!(is_too_short(text) && !is_beginning(text), "{text}");
        }
        assert!(!is_too_short("") && !is_too_short("nobody"), "that is no id at all, which the informer says");
        for text in ["", "0192f3c", "0192F3C4", "0192f3c45", "0192f3c4-5b6g", "nobody-at-all", HIGHEST] {
            assert!(!is_beginning(text), "{text}");
        }
    }

    #[test]
    fn the_page_begins_after_the_highest_of_them() {
        assert_eq!(after_all("0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a6"), "0192f3c4-5b6d-7e8f-9a0b-1c2d3e4f5a70");
        assert_eq!(after_all("0192f3c4"), "0192f3c5-0000-0000-0000-000000000000");
        assert_eq!(after_all("ffffffff"), HIGHEST);
    }

    #[test]
    fn a_beginning_of_several_lists_them() {
        let known = tasks(&["0192f3c4-5b", "0192f3c4-5a", "0192f3c3-ff"]);
        assert_eq!(choose("0192f3c4-5b", &known), Ok("0192f3c4-5b"));
        let (_, several) = choose("0192f3c4", &known).expect_err("two");
        assert!(several.contains("0192f3c4-5b n, 0192f3c4-5a n; write more"), "{several}");
        assert_eq!(choose("0192f3c5", &known).expect_err("none").0, Code::NotFound);
    }
}
