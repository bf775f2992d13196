//! Sidecars: all of them at once.

use super::{Scene, size};
use crate::chaos::{Case, Family, Outcome, Round, now};
use crate::client;
use crate::logical::Fleet;
use anyhow::{Context as _, Result};
use proto::v1;
use std::time::Duration;
use tokio::time::timeout;

/// Sidecars, in the ordinary and in the long run.
const LINKS: (usize, usize) = (300, 10_000);
/// What a connected sidecar may cost the informer, kB: its buffers when it says hello with all others, in a build without optimisation.
const LINK_KB: u64 = 96;
/// Tasks that wait meanwhile.
const TASKS: usize = 50;
/// No storm lasts longer, or it is a failure.
const STORM: Duration = Duration::from_secs(300);

/// An informer that was down meets all its sidecars at once.
pub static RECONNECT: Case = Case {
    fault: "all sidecars reconnect at once",
    how: "logical sidecars of one load process; the informer is killed and started",
    family: Family::Floods,
    needs: &[],
    run: reconnect,
};

fn reconnect(round: &mut Round) -> Result<Outcome> {
    let links = size(round, LINKS.0, LINKS.1);
    // The default: at ten thousand beats a second a client process of one machine would measure itself.
    let mut scene = Scene::new(round, 0, "5s", links as u64 * LINK_KB)?;
    let mut fleet = scene.runtime.block_on(Fleet::link(scene.world.url(), links, 1))?;
    let mut ids = Vec::new();
    for _ in 0..TASKS {
        let request = client::request(client::idle_spec("waits"));
        ids.push(scene.runtime.block_on(scene.api.submit(request))?.into_inner().id);
    }
    let fault = now();
    scene.world.kill_informer();
    scene.runtime.block_on(fleet.beating.wait_for(|beating| *beating == 0))?;
    scene.world.start_informer(&[("INFORMER_LOG", "warn")])?;
    let listens = now();
    loop {
        scene.serve()?;
        if *fleet.beating.borrow() == links {
            break;
        }
        // One of them more, or all: then it is asked again.
        let came = scene.runtime.block_on(async { timeout(STORM, fleet.beating.changed()).await });
        came.with_context(|| format!("not all beat after {STORM:?}"))??;
    }
    let recovered = now() - listens;
    scene.api = scene.runtime.block_on(client::connect(scene.world.url()))?;
    fleet.open(true);
    scene.runtime.block_on(client::wait_ended(&mut scene.api, "waits"))?;
    let mut outcome = scene.outcome(&format!(
        "{links} links back; all beat {:.1} s after it listened, {:.1} s after the kill",
        recovered.as_secs_f64(),
        (listens - fault + recovered).as_secs_f64()
    ))?;
    outcome.recovered = Some(recovered);
    outcome.lost = scene.lost(&ids, Some(v1::TaskState::Succeeded))?;
    Ok(outcome)
}
