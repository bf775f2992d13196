//! Submits: more at once than the loop's inbox takes, and one of a million.

use super::{Scene, retry_hint, size};
use crate::chaos::{Case, Family, Outcome, Round};
use crate::client::{self, Api};
use anyhow::{Context as _, Result, bail, ensure};
use proto::v1::submit_result::Result as Submitted;
use proto::{bounds, v1};
use tokio::task::JoinSet;

/// Batches at once. Each has up to a quarter of the inbox under way.
const BATCHES: usize = 16;
/// Tasks of each of them, in the ordinary and in the long run.
const TASKS: (usize, usize) = (3_000, 20_000);
/// Calls of one task each beside them.
const CALLS: usize = 2_000;
/// No more floods than this until one is refused: by then it is shown that there is room for all of them, which the bound denies.
const FLOODS: usize = 10;
/// What a flood may cost, kB: a waiting task is 1 kB; those under way hold their body and a buffer of their stream, unoptimised.
const FLOOD_KB: u64 = 512 << 10;

/// More submits at once than there is room for.
pub static SUBMITS: Case = Case {
    fault: "a flood of submits",
    how: "16 batches and 2,000 single calls at once, over the loop's inbox of 4,096",
    family: Family::Floods,
    needs: &[],
    run: submits,
};

/// What came of a flood.
#[derive(Default)]
struct Answers {
    accepted: Vec<String>,
    refused: usize,
}

fn submits(round: &mut Round) -> Result<Outcome> {
    let tasks = size(round, TASKS.0, TASKS.1);
    let mut scene = Scene::new(round, 0, "1s", FLOOD_KB)?;
    let mut all = Answers::default();
    let mut floods = 0;
    while all.refused == 0 && floods < FLOODS {
        floods += 1;
        let url = scene.world.url().to_owned();
        let flood = scene.runtime.spawn(async move { flood(&url, tasks).await });
        while !flood.is_finished() {
            scene.serve()?;
        }
        let came = scene.runtime.block_on(flood)??;
        all.accepted.extend(came.accepted);
        all.refused += came.refused;
    }
    ensure!(all.refused > 0, "{} submits and none refused", all.accepted.len());
    let mut outcome =
        scene.outcome(&format!("{} submits accepted, {} refused with a hint", all.accepted.len(), all.refused))?;
    // A start from the disk tells what is durable.
    scene.world.kill_informer();
    scene.world.start_informer(&[("INFORMER_LOG", "warn")])?;
    scene.api = scene.runtime.block_on(client::connect(scene.world.url()))?;
    let lost = scene.runtime.block_on(missing(&mut scene.api, &all.accepted))?;
    outcome.lost = lost as u64;
    Ok(outcome)
}

/// Batches and calls, all at once.
async fn flood(url: &str, tasks: usize) -> Result<Answers> {
    let mut under_way: JoinSet<Result<Answers>> = JoinSet::new();
    for _ in 0..BATCHES {
        let mut api = client::connect(url).await?;
        under_way.spawn(async move { batch(&mut api, tasks).await });
    }
    let api = client::connect(url).await?;
    for _ in 0..CALLS {
        let mut api = api.clone();
        under_way.spawn(async move {
            match api.submit(client::request(client::idle_spec("flood"))).await {
                Ok(answer) => Ok(Answers { accepted: vec![answer.into_inner().id], refused: 0 }),
                Err(status) => retry_hint(&status).map(|_| Answers { accepted: Vec::new(), refused: 1 }),
            }
        });
    }
    let mut all = Answers::default();
    while let Some(answers) = under_way.join_next().await {
        let answers = answers??;
        all.accepted.extend(answers.accepted);
        all.refused += answers.refused;
    }
    Ok(all)
}

async fn batch(api: &mut Api, tasks: usize) -> Result<Answers> {
    let requests = tokio_stream::iter((0..tasks).map(|_| client::request(client::idle_spec("flood"))));
    let results = api.submit_batch(requests).await?.into_inner().results;
    ensure!(results.len() == tasks, "{} of {tasks} submits were answered", results.len());
    let mut answers = Answers::default();
    for result in results {
        match result.result {
            Some(Submitted::Ok(ok)) => answers.accepted.push(ok.id),
            // In a batch the code stands for the status of a call.
            Some(Submitted::Failure(failure)) if failure.code == "busy" => answers.refused += 1,
            other => bail!("answered {other:?}"),
        }
    }
    Ok(answers)
}

/// How many of these the list does not have.
async fn missing(api: &mut Api, ids: &[String]) -> Result<usize> {
    let mut request = v1::ListRequest { name: "flood".to_owned(), page_size: bounds::PAGE, ..Default::default() };
    let mut there = std::collections::BTreeSet::new();
    loop {
        let page = api.list(request.clone()).await?.into_inner();
        there.extend(page.tasks.into_iter().map(|task| task.id));
        if page.next_page_token.is_empty() {
            return Ok(ids.iter().filter(|id| !there.contains(*id)).count());
        }
        request.page_token = page.next_page_token;
    }
}

/// Members.
const MEMBERS: u32 = 1_000_000;
/// What an array may cost, kB: its items pass in chunks, its members are runs.
const ARRAY_KB: u64 = 64 << 10;

/// An array of a million.
pub static ARRAY: Case = Case {
    fault: "an array of a million",
    how: "submitted by one call (long run: each member with an item of its own), begun, cancelled",
    family: Family::Floods,
    needs: &[],
    run: array,
};

fn array(round: &mut Round) -> Result<Outcome> {
    let items = size(round, 0, MEMBERS);
    let mut scene = Scene::new(round, 1, "1s", ARRAY_KB)?;
    let (url, items) = (scene.world.url().to_owned(), (0..items).map(|n| format!("item {n}")).collect());
    let submitted = scene.runtime.spawn(async move {
        let mut api = client::connect(&url).await?;
        client::submit_array(&mut api, "million", MEMBERS, items).await
    });
    // Before the array is whole, and when it is.
    scene.serve()?;
    let id = scene.runtime.block_on(submitted)??;
    scene.serve()?;
    let mut api = scene.api.clone();
    let status = |api: &mut Api, runtime: &tokio::runtime::Runtime| -> Result<v1::ArrayStatus> {
        let task = runtime.block_on(api.get(v1::GetRequest { id: id.clone() }))?.into_inner();
        task.array.with_context(|| format!("{id} is no array"))
    };
    let mut begun = v1::ArrayStatus::default();
    crate::world::wait_for("members have ended", || {
        begun = status(&mut api, &scene.runtime).ok()?;
        (begun.succeeded >= 2).then_some(())
    })?;
    scene.serve()?;
    let cancel = v1::CancelRequest { id: id.clone(), ..Default::default() };
    scene.runtime.block_on(api.cancel(cancel))?;
    let task = scene.world.wait_state(&id, &["cancelled", "failed", "succeeded"])?;
    scene.serve_work()?;
    let ended = status(&mut api, &scene.runtime)?;
    let mut outcome =
        scene.outcome(&format!("{} of {MEMBERS} members ran before it was cancelled", ended.succeeded))?;
    let counted = ended.pending + ended.live + ended.succeeded + ended.failed + ended.cancelled;
    if counted != MEMBERS || ended.pending + ended.live + ended.failed > 0 || task["state"] != "cancelled" {
        outcome.violations.push(format!("its members do not add up: {ended:?}, {}", task["state"]));
    }
    Ok(outcome)
}
