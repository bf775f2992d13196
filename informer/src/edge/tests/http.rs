//! Plain HTTP beyond the two pages: metrics, and the callbacks of remote services.

use super::front::{dialogue, get};
use super::*;

async fn post(world: &World, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    dialogue(world, format!("{head}{body}").as_bytes()).await
}

fn is(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "not {status}: {answer}");
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let mut world = World::new().await;
    world.submit("counted").await;
    world.client.get(v1::GetRequest { id: "none".to_owned() }).await.unwrap_err();
    let page = get(&world, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("text/plain; version=0.0.4"), "{page}");
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.trim().parse::<f64>().unwrap()
    };
    assert!(value("informer_commits_total ") >= 1.0);
    assert!(value("informer_committed_rows_total{table=\"tasks\"} ") >= 1.0);
    assert!(value("informer_refused_calls_total{code=\"invalid\"} ") >= 1.0);
    assert!(value("informer_network_bytes_total{direction=\"sent\"} ") > 0.0);
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") >= 3.0);
    let documented = include_str!("../../../../docs/metrics.md");
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).filter_map(|line| line.split(' ').next());
    for name in names {
        assert!(documented.contains(&format!("`{name}")), "docs/metrics.md does not explain {name}");
    }
}

#[tokio::test]
async fn a_callback_reaches_the_sidecar_of_its_attempt_only() {
    let mut world = World::new().await;
    let id = world.submit("remote").await;
    let mut watch = world.watch(&id).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    until(&mut watch, v1::TaskState::Running).await;
    let fence = assign.fence.unwrap();
    let path = format!("/v1/callback/{id}.1");
    let good = format!("{path}?token={}-{}", fence.epoch, fence.n);

    is(&post(&world, &path, "x").await, 403);
    is(&post(&world, &format!("{path}?token={}-{}", fence.epoch, fence.n + 1), "x").await, 403);
    is(&post(&world, &good.replace(".1?", ".2?"), "x").await, 404);
    is(&post(&world, &good.replace(&id, &id.replace(&id[..4], "ffff")), "x").await, 404);
    is(&post(&world, "/v1/callback/nonsense?token=1-1", "x").await, 404);
    is(&post(&world, &good, &"x".repeat((64 << 10) + 1)).await, 413);
    is(&get(&world, &good).await, 405);

    is(&post(&world, &good, "{\"state\":\"done\"}").await, 202);
    let callback = loop {
        if let Told::Callback(callback) = sidecar.told().await {
            break callback;
        }
    };
    assert_eq!((callback.attempt, callback.body.as_str()), (assign.attempt, "{\"state\":\"done\"}"));

    drop(sidecar);
    loop {
        let answer = post(&world, &good, "x").await;
        if answer.starts_with("HTTP/1.1 503") {
            return;
        }
        is(&answer, 202);
    }
}
