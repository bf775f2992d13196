//! More of everything than there is room for. In each case somebody else is served meanwhile, what is refused may be tried again and
//! says so, what was accepted is there afterwards, and the informer's memory stays below a bound.

pub mod links;
pub mod readers;
pub mod submits;
pub mod work;

use super::{Case, Outcome, Round};
use crate::client::{self, Api};
use crate::world::{DEADLINE, World, processes_with};
use anyhow::{Context as _, Result, bail, ensure};
use proto::v1;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The cases of this family.
pub static CASES: &[&Case] = &[
    &links::RECONNECT,
    &submits::SUBMITS,
    &submits::ARRAY,
    &readers::LOGS,
    &readers::CHANGES,
    &readers::SILENCE,
    &work::OUTPUT,
    &work::SERVICE,
];

/// What an informer without a flood may have in use, also in a build without optimisation. Each case adds what its own flood is allowed.
const INFORMER_KB: u64 = 96 << 10;

/// A world under a flood, and another client of it.
pub(super) struct Scene {
    pub(super) world: World,
    pub(super) runtime: Runtime,
    pub(super) api: Api,
    /// What others were served meanwhile.
    served: u32,
    /// Beyond [`INFORMER_KB`], kB.
    allowed_kb: u64,
}

impl Scene {
    /// An informer, with the round's mistake, and so many sidecars. It may use so much more than without the flood, kB.
    pub(super) fn new(round: &Round, sidecars: usize, beat: &'static str, allowed_kb: u64) -> Result<Self> {
        raise_files()?;
        let mut world = World::empty()?;
        world.beat = beat;
        if let Some((variable, bug)) = round.bug {
            world.set(variable, bug.into());
        }
        world.start_informer(&[("INFORMER_LOG", "warn")])?;
        for n in 0..sidecars {
            world.start_sidecar(n, &[], &[])?;
        }
        world.wait_linked(sidecars)?;
        // Two: one that waits must not keep the other from answering pings.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let api = runtime.block_on(client::connect(world.url()))?;
        Ok(Self { world, runtime, api, served: 0, allowed_kb })
    }

    /// Another client submits, asks for its task, lists, and asks for sidecars; also after the informer was started again.
    pub(super) fn serve(&mut self) -> Result<()> {
        let url = self.world.url().to_owned();
        let served = self.runtime.block_on(async {
            let mut api = client::connect(&url).await?;
            let id = submit_patiently(&mut api, client::idle_spec("other")).await?;
            let task = api.get(v1::GetRequest { id: id.clone() }).await?.into_inner();
            ensure!(task.id == id, "asked for {id}, told of {}", task.id);
            let list = v1::ListRequest { name: "other".to_owned(), ..Default::default() };
            ensure!(api.list(list).await?.into_inner().tasks.iter().any(|task| task.id == id), "{id} is not listed");
            Ok(())
        });
        served.with_context(|| format!("another client is not served\n{}", self.world.log("informer.log")))?;
        self.served += 1;
        Ok(())
    }

    /// Another client's task runs on a sidecar and its output comes back.
    pub(super) fn serve_work(&mut self) -> Result<()> {
        let output = self.world.informer(&["run", "--", "echo", "served"])?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && output.stdout == b"served\n", "another task does not run: {complaint}");
        self.served += 1;
        Ok(())
    }

    /// The end of a case: what happened, with what others were served and what memory it took, judged.
    pub(super) fn outcome(&self, happened: &str) -> Result<Outcome> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.informer()?))?;
        let kb = |field: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a line of its status")?;
            Ok(line.split_whitespace().next().context("a number")?.parse()?)
        };
        let (now_kb, peak_kb, bound_kb) = (kb("VmRSS:")?, kb("VmHWM:")?, INFORMER_KB + self.allowed_kb);
        let happened = format!(
            "{happened}; {} served meanwhile; informer {} MiB, at most {} MiB of {}",
            self.served,
            now_kb >> 10,
            peak_kb >> 10,
            bound_kb >> 10
        );
        let mut outcome = Outcome { happened, ..Outcome::default() };
        if peak_kb > bound_kb {
            outcome.violations.push(format!("invariant 11: the informer used {peak_kb} kB, more than {bound_kb} kB"));
        }
        if self.served == 0 {
            outcome.violations.push("nobody else was served".to_owned());
        }
        if self.world.log("informer.log").contains("panicked") {
            outcome.violations.push(format!("the informer panicked\n{}", self.world.log("informer.log")));
        }
        Ok(outcome)
    }

    fn informer(&self) -> Result<i32> {
        let named =
            |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "informer\n");
        let dir = self.world.dir().as_os_str().as_encoded_bytes();
        processes_with(dir).into_iter().find(named).context("the informer does not run")
    }

    /// How many of these tasks there are not, or which did not end as they should.
    pub(super) fn lost(&mut self, ids: &[String], wanted: Option<v1::TaskState>) -> Result<u64> {
        let mut lost = 0;
        for id in ids {
            let found = self.runtime.block_on(self.api.get(v1::GetRequest { id: id.clone() }));
            let right = match found {
                Ok(task) => wanted.is_none_or(|wanted| task.into_inner().state() == wanted),
                Err(status) if status.code() == Code::NotFound => false,
                Err(status) => return Err(status.into()),
            };
            lost += u64::from(!right);
        }
        Ok(lost)
    }
}

/// Submits as a client should: again after a refusal that says when.
async fn submit_patiently(api: &mut Api, spec: v1::TaskSpec) -> Result<String> {
    let begin = Instant::now();
    loop {
        match api.submit(client::request(spec.clone())).await {
            Ok(answer) => return Ok(answer.into_inner().id),
            Err(status) if begin.elapsed() < DEADLINE => tokio::time::sleep(retry_hint(&status)?).await,
            Err(status) => bail!("refused all the time: {status}"),
        }
    }
}

/// When a refused call may be tried again.
///
/// # Errors
/// It was refused for another reason than a bound, or says nothing about it.
pub(super) fn retry_hint(status: &Status) -> Result<Duration> {
    ensure!(status.code() == Code::ResourceExhausted, "refused otherwise: {status}");
    let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
    hint.with_context(|| format!("refused without a hint: {status}"))
}

/// As many open files as may be had, for this process and those it starts: ten thousand links are as many sockets at each end.
fn raise_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// So many in the ordinary run, so many where times are judged too.
pub(super) const fn size<T: Copy>(round: &Round, ordinary: T, long: T) -> T {
    if round.timed { long } else { ordinary }
}
