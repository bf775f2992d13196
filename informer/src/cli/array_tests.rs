//! Arrays on their way up, against an informer that records what arrives.

use std::sync::Arc;

use super::*;
use crate::cli::fake::{self, Script, Sealed};

async fn sent(
    array: Array,
    answers: Vec<Result<SubmitResponse, Status>>,
) -> (Result<SubmitResponse, Error>, Vec<Sealed>) {
    let script = Arc::new(Script::default());
    script.submits.lock().expect("a lock").extend(answers);
    let client = fake::serve(Arc::clone(&script)).await;
    let request = SubmitRequest { key: "k".into(), ..SubmitRequest::default() };
    let stored = submit(&client, request, &array).await;
    let arrays = std::mem::take(&mut *script.arrays.lock().expect("a lock"));
    (stored, arrays)
}

fn ok(id: &str) -> Result<SubmitResponse, Status> {
    Ok(SubmitResponse { id: id.into(), existed: false })
}

#[tokio::test]
async fn a_range_is_a_head_alone() {
    let array = Array { members: Members::Range { first: 3, count: 5 }, max_failures: Some(0) };
    let (stored, arrays) = sent(array, vec![ok("a")]).await;
    assert_eq!(stored.expect("stored").id, "a");
    let [array] = arrays.as_slice() else { panic!("{arrays:?}") };
    assert_eq!((array.head.first, array.head.count, array.head.limited, array.head.max_failures), (3, 5, true, 0));
    assert_eq!((array.head.key.as_str(), array.items.len()), ("k", 0));
}

#[tokio::test]
async fn items_go_in_bounded_chunks_and_again_after_a_lost_answer() {
    let items: Vec<String> = (0..20_000).map(|index| format!("item {index}")).collect();
    let array = Array { members: Members::Listed(items.clone()), max_failures: None };
    let (stored, arrays) = sent(array, vec![Err(Status::unavailable("restarting")), ok("a")]).await;
    assert_eq!(stored.expect("stored").id, "a");
    assert_eq!(arrays.len(), 2, "asked twice");
    for array in arrays {
        assert_eq!((array.head.first, array.head.count, array.head.limited), (1, 0, false));
        assert_eq!(array.items, items);
        assert!(
            array.chunks > 1 && array.largest <= bounds::ITEM_CHUNK_BYTES + bounds::ITEM_BYTES,
            "{}",
            array.largest
        );
    }
}

#[tokio::test]
async fn a_mistake_in_the_items_seals_nothing() {
    let path = std::env::temp_dir().join(format!("array-{}", std::process::id()));
    let mut text = "fine\n".repeat(50_000).into_bytes();
    text.extend(b"\xff\n");
    std::fs::write(&path, text).expect("a file");
    let (stored, arrays) =
        sent(Array { members: Members::Lines(path.clone()), max_failures: None }, vec![ok("a")]).await;
    std::fs::remove_file(&path).expect("removed");
    let error = stored.expect_err("no text").to_string();
    assert!(error.ends_with(":50001: the line is not UTF-8 text"), "{error}");
    assert!(arrays.is_empty(), "an array was sealed");
}

#[tokio::test]
async fn no_items_are_no_array_and_a_refusal_is_told() {
    let (stored, arrays) =
        sent(Array { members: Members::Listed(Vec::new()), max_failures: None }, vec![ok("a")]).await;
    assert!(stored.expect_err("empty").to_string().starts_with("there are no items"));
    assert!(arrays.is_empty());
    let members = Members::Range { first: 1, count: 2 };
    let refusal = Err(Status::invalid_argument("array.spec: no"));
    let (stored, _) = sent(Array { members, max_failures: None }, vec![refusal]).await;
    assert_eq!(stored.expect_err("refused").to_string(), "cannot submit the array: array.spec: no");
}
