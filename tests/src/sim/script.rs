//! What a history is made of, drawn from its seed before anything is played. So a part of it can be left out, and the rest stays as
//! it was: that is how a failing history is shrunk.

use super::coverage::What;
use super::faults::{Kind, Strike};
use super::flow::FlowScript;
use super::{FAULTS_END_MS, Mode, Options, Rng, SAFETY_END_MS};
use informer::machine::NewArray;
use proto::{store, v1};
use std::collections::BTreeSet;

/// Longest time between the two faults of a pair, ms.
const TOGETHER_MS: u64 = 3000;
/// Most tasks of one history. Few, so that their copies and losses meet each other.
const MOST_TASKS: u64 = 14;

/// What tasks, clients and operators do besides plain submits. Each history draws its own set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Arrays of a few members.
    Arrays,
    /// `on_disconnect: stop`.
    Stop,
    /// At most one copy.
    Exclusive,
    /// Declared outputs, staged and published.
    Outputs,
    /// Services with a restart policy.
    Services,
    /// A longest wait for a sidecar.
    QueueTimeouts,
    /// A longest time for everything.
    TotalTimeouts,
    /// A start time in the future.
    StartTimes,
    /// Executors by type.
    Types,
    /// Cancels of tasks, arrays and members.
    Cancels,
    /// `retry` by the operator.
    Retries,
    /// Drains of each mode.
    Drains,
    /// Another payload under a key in use.
    Conflicts,
    /// `replace_after`.
    Patience,
    /// Machines that can spawn nothing, inputs that cannot be fetched.
    BadStarts,
    /// Inputs that are fetched before the start.
    Inputs,
    /// Progress, and the agent's watch over it.
    Watches,
    /// Logs that go up.
    Logs,
    /// Ended tasks are forgotten.
    Pruning,
    /// Orderly ends of agents.
    Leaving,
    /// Labels and weak fencing.
    Labels,
    /// Sidecars and informers of an older protocol.
    Skew,
    /// Tasks that need a whole machine.
    Big,
}

impl Feature {
    /// All.
    pub const ALL: [Self; 23] = [
        Self::Arrays,
        Self::Stop,
        Self::Exclusive,
        Self::Outputs,
        Self::Services,
        Self::QueueTimeouts,
        Self::TotalTimeouts,
        Self::StartTimes,
        Self::Types,
        Self::Cancels,
        Self::Retries,
        Self::Drains,
        Self::Conflicts,
        Self::Patience,
        Self::BadStarts,
        Self::Inputs,
        Self::Watches,
        Self::Logs,
        Self::Pruning,
        Self::Leaving,
        Self::Labels,
        Self::Skew,
        Self::Big,
    ];
}

/// One machine with an agent.
#[derive(Debug, Clone)]
pub(super) struct BoxPlan {
    pub slots: u32,
    pub clock_offset_ms: u64,
    /// How much faster its clock runs than true time.
    pub drift_ppm: i64,
    pub weak_fencing: bool,
    pub kinds: Vec<String>,
    pub zone: &'static str,
    /// Its agent is of the first protocol: it knows no executors, drains or log policies.
    pub old: bool,
    pub keep_attempts: usize,
}

impl BoxPlan {
    /// Less than its slots could take, so that the books matter.
    pub(super) fn cpu_millis(&self) -> u64 {
        400 + 600 * u64::from(self.slots)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        memory_bytes(self.cpu_millis())
    }
}

/// Memory goes in step with processors: a book that forgets one of the two is wrong as soon as the other is right.
fn memory_bytes(cpu_millis: u64) -> u64 {
    cpu_millis << 20
}

/// One task.
#[derive(Debug, Clone)]
pub(super) struct TaskPlan {
    pub submit_at_ms: u64,
    pub facts: store::Facts,
    pub array: Option<NewArray>,
    pub start_in_ms: u64,
    pub outputs: bool,
    pub inputs: bool,
    /// Its processes end by themselves only if somebody stops them.
    pub endless: bool,
}

/// Something that a client or an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// The same submit again.
    Again {
        task: usize,
    },
    /// Another payload under the key.
    Conflict {
        task: usize,
    },
    Cancel {
        task: usize,
        member: Option<u32>,
    },
    Retry {
        task: usize,
        member: Option<u32>,
    },
    Drain {
        workbox: usize,
        mode: v1::DrainMode,
    },
    Put {
        embedded: bool,
        replace: bool,
    },
    Delete,
    Prune,
    /// The agent is told to end, and starts again.
    Leave {
        workbox: usize,
        stop_tasks: bool,
    },
    AcceptRestored,
}

/// The whole.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub features: BTreeSet<Feature>,
    pub boxes: Vec<BoxPlan>,
    pub tasks: Vec<TaskPlan>,
    pub acts: Vec<(u64, Act)>,
    pub strikes: Vec<Strike>,
    /// Longest delay of a message, ms.
    pub delay_ms: u64,
    /// Longest ordinary commit, ms.
    pub commit_ms: u64,
    pub informer_drift_ppm: i64,
    pub logs: v1::LogPolicy,
    /// In some histories: workflows.
    pub flow: Option<FlowScript>,
}

/// The type of typed tasks.
pub(super) const TYPE: &str = "render";

impl Script {
    /// Whether a strike may hope to meet this.
    pub(super) fn has(&self, what: What) -> bool {
        match what {
            What::Committing => self.features.contains(&Feature::Outputs),
            What::Stopping => self.features.contains(&Feature::Cancels) || self.features.contains(&Feature::Drains),
            _ => true,
        }
    }

    /// What the seed says, less what the options leave out.
    pub(super) fn of(options: &Options) -> Self {
        let mut script = Self::draw(options.seed, options.mode);
        let keep = &options.keep;
        if let Some(most) = keep.boxes {
            script.boxes.truncate(most.max(1));
        }
        if keep.plain {
            (script.delay_ms, script.commit_ms) = (2, 1);
        }
        script
    }

    fn draw(seed: u64, mode: Mode) -> Self {
        let rng = &mut Rng::of(seed, &[1]);
        let mut features: BTreeSet<Feature> = Feature::ALL.into_iter().filter(|_| rng.chance(400)).collect();
        if !features.contains(&Feature::Exclusive) && !features.contains(&Feature::Stop) {
            features.remove(&Feature::Labels);
        }
        let has = |feature| features.contains(&feature);
        let count = rng.range(1, 3);
        let boxes: Vec<BoxPlan> = (0..count).map(|n| draw_box(rng, n == 0, &features)).collect();
        let tasks = (0..rng.range(2, MOST_TASKS)).map(|_| draw_task(rng, &features, &boxes)).collect::<Vec<_>>();
        let acts = draw_acts(rng, &features, tasks.len(), boxes.len());
        let strikes = draw_strikes(&mut Rng::of(seed, &[2]), mode, boxes.len(), has(Feature::Skew));
        Self {
            boxes,
            tasks,
            acts,
            strikes,
            delay_ms: if rng.chance(200) { rng.range(50, 700) } else { rng.range(1, 30) },
            commit_ms: if rng.chance(200) { rng.range(20, 300) } else { rng.range(1, 8) },
            informer_drift_ppm: rng.range(0, 10_000).cast_signed() - 5_000,
            logs: if has(Feature::Logs) {
                rng.pick(&[v1::LogPolicy::Always, v1::LogPolicy::OnFailure])
            } else {
                v1::LogPolicy::Never
            },
            features,
            flow: FlowScript::draw(seed, mode),
        }
    }
}

fn draw_box(rng: &mut Rng, first: bool, features: &BTreeSet<Feature>) -> BoxPlan {
    let has = |feature| features.contains(&feature);
    // The first box can run anything, so that nothing waits for ever.
    let old = !first && has(Feature::Skew) && rng.chance(400);
    let mut kinds = vec!["command".to_owned()];
    if !old && (first || rng.chance(500)) {
        kinds.push("typed".to_owned());
        if has(Feature::Types) && rng.chance(300) {
            kinds.push(format!("{}{TYPE}", proto::check::TYPE));
        }
    }
    BoxPlan {
        slots: rng.range(1, 4) as u32,
        clock_offset_ms: rng.range(0, 1_000_000),
        drift_ppm: rng.range(0, 10_000).cast_signed() - 5_000,
        weak_fencing: !first && has(Feature::Labels) && rng.chance(400),
        kinds,
        zone: if first || rng.chance(500) { "a" } else { "b" },
        old,
        keep_attempts: rng.range(1, 4) as usize,
    }
}

fn draw_task(rng: &mut Rng, features: &BTreeSet<Feature>, boxes: &[BoxPlan]) -> TaskPlan {
    let has = |feature| features.contains(&feature);
    let service = has(Feature::Services) && rng.chance(300);
    let outputs = !service && has(Feature::Outputs) && rng.chance(500);
    let max_failures = rng.chance(400).then(|| rng.range(0, 2) as u32);
    let (first, count) = (rng.range(0, 3) as u32, rng.range(1, 5) as u32);
    let array = NewArray { first, count, items: false, max_failures };
    let is_array = !service && has(Feature::Arrays) && rng.chance(300);
    let mut facts = draw_facts(rng, features, service);
    if has(Feature::Big) && rng.chance(300) {
        facts.cpu_millis = boxes[0].cpu_millis();
    }
    facts.memory_bytes = memory_bytes(facts.cpu_millis);
    let restarts = facts.restart.is_some_and(|policy| policy.max_restarts == 0 && policy.when != 3);
    TaskPlan {
        submit_at_ms: rng.range(0, FAULTS_END_MS / 2),
        array: is_array.then_some(array),
        start_in_ms: if has(Feature::StartTimes) && rng.chance(300) { rng.range(1, 20_000) } else { 0 },
        outputs,
        inputs: has(Feature::Inputs) && rng.chance(400),
        endless: restarts,
        facts,
    }
}

fn draw_facts(rng: &mut Rng, features: &BTreeSet<Feature>, service: bool) -> store::Facts {
    let has = |feature| features.contains(&feature);
    let exclusive = has(Feature::Exclusive) && rng.chance(400);
    let timeouts = v1::Timeouts {
        queue_ms: if has(Feature::QueueTimeouts) && rng.chance(400) { rng.range(500, 20_000) } else { 0 },
        total_ms: if has(Feature::TotalTimeouts) && rng.chance(400) { rng.range(2_000, 40_000) } else { 0 },
        ..Default::default()
    };
    let when = rng.range(1, 3) as i32;
    let policy = v1::RestartPolicy {
        when,
        backoff_ms: rng.range(1, 2000),
        backoff_cap_ms: 5000,
        max_restarts: if rng.chance(300) { 0 } else { rng.range(1, 4) as u32 },
    };
    let typed = has(Feature::Types) && rng.chance(400);
    let labelled = has(Feature::Labels) && rng.chance(300);
    store::Facts {
        name: rng.pick(&["job", "encode"]).to_owned(),
        kind: if typed { format!("{}{TYPE}", proto::check::TYPE) } else { "command".to_owned() },
        cpu_millis: rng.range(1, 4) * 250,
        owner: rng.pick(&["heavy", "light"]).to_owned(),
        priority: rng.range(0, 2) as i32,
        retry: Some(draw_retry(rng)),
        timeouts: Some(timeouts),
        exclusive,
        accept_weak_fencing: has(Feature::Labels) && rng.chance(300),
        stop_on_disconnect: exclusive || has(Feature::Stop) && rng.chance(400),
        replace_after_ms: if has(Feature::Patience) && rng.chance(400) { rng.range(1000, 9000) } else { 0 },
        require: if labelled { [("zone".to_owned(), "a".to_owned())].into() } else { Default::default() },
        restart: service.then_some(policy),
        ..Default::default()
    }
}

fn draw_retry(rng: &mut Rng) -> v1::Retry {
    v1::Retry {
        max_attempts: rng.range(1, 4) as u32,
        max_infrastructure: rng.range(1, 8) as u32,
        no_infrastructure_retry: rng.chance(80),
        backoff_ms: rng.range(1, 2000),
        backoff_cap_ms: 5000,
        final_codes: if rng.chance(200) { vec![3] } else { Vec::new() },
        ..Default::default()
    }
}

fn draw_acts(rng: &mut Rng, features: &BTreeSet<Feature>, tasks: usize, boxes: usize) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    let wanted = |feature: Feature| features.contains(&feature);
    let mut add = |rng: &mut Rng, most: u64, draw: &dyn Fn(&mut Rng) -> Act| {
        for _ in 0..rng.range(1, most) {
            acts.push((rng.range(500, FAULTS_END_MS - 5_000), draw(rng)));
        }
    };
    let task = |rng: &mut Rng| rng.range(0, tasks as u64 - 1) as usize;
    let member = |rng: &mut Rng| rng.chance(600).then(|| rng.range(0, 7) as u32);
    let workbox = |rng: &mut Rng| rng.range(0, boxes as u64 - 1) as usize;
    add(rng, 3, &|rng| Act::Again { task: task(rng) });
    if wanted(Feature::Conflicts) {
        add(rng, 4, &|rng| Act::Conflict { task: task(rng) });
    }
    if wanted(Feature::Cancels) {
        add(rng, 6, &|rng| Act::Cancel { task: task(rng), member: member(rng) });
    }
    if wanted(Feature::Retries) {
        add(rng, 8, &|rng| Act::Retry { task: task(rng), member: member(rng) });
    }
    if wanted(Feature::Drains) {
        use v1::DrainMode as M;
        let modes = [M::Unspecified, M::Finish, M::HandBack, M::Stop];
        add(rng, 8, &|rng| Act::Drain { workbox: workbox(rng), mode: rng.pick(&modes) });
    }
    if wanted(Feature::Types) {
        add(rng, 5, &|rng| Act::Put { embedded: rng.chance(200), replace: rng.chance(500) });
        add(rng, 2, &|_| Act::Delete);
    }
    if wanted(Feature::Pruning) {
        add(rng, 5, &|_| Act::Prune);
    }
    if wanted(Feature::Leaving) {
        add(rng, 4, &|rng| Act::Leave { workbox: workbox(rng), stop_tasks: rng.chance(500) });
    }
    add(rng, 2, &|_| Act::AcceptRestored);
    acts
}

/// A third of the kinds is left out of each history: what always strikes together hides what each does alone.
fn draw_strikes(rng: &mut Rng, mode: Mode, boxes: usize, skew: bool) -> Vec<Strike> {
    if rng.chance(50) {
        return Vec::new();
    }
    let weights: Vec<u64> = Kind::ALL
        .into_iter()
        .map(|kind| match kind {
            Kind::NewerAgent | Kind::OlderInformer if !skew => 0,
            _ if rng.chance(500) => 0,
            _ => rng.range(1, 10),
        })
        .collect();
    let total: u64 = weights.iter().sum();
    let every_ms = rng.range(700, 9000);
    let end_ms = if mode == Mode::Safety { SAFETY_END_MS } else { FAULTS_END_MS };
    let (mut at_ms, mut strikes) = (0, Vec::new());
    loop {
        at_ms += rng.range(1, 2 * every_ms);
        if at_ms >= end_ms || total == 0 {
            return strikes;
        }
        let mut left = rng.range(0, total - 1);
        let kind = Kind::ALL.into_iter().zip(&weights).find_map(|(kind, weight)| {
            if left < *weight {
                return Some(kind);
            }
            left -= weight;
            None
        });
        let Some(kind) = kind else { continue };
        // Blips are shorter than a lease, cuts longer; both must be met.
        let length_ms = if rng.chance(400) { rng.range(50, 2500) } else { rng.range(2500, 15_000) };
        let workbox = rng.range(0, boxes as u64 - 1) as usize;
        let strike = Strike { at_ms, kind, workbox, length_ms, luck: rng.bits() };
        strikes.push(strike);
        // A box whose disk hangs may lose its network, too: what was assigned in between waits for the one, its lease for the other.
        if kind == Kind::HangLedger && strike.luck.is_multiple_of(3) && at_ms + TOGETHER_MS < end_ms {
            let at_ms = at_ms + 1 + strike.luck % TOGETHER_MS;
            strikes.push(Strike { at_ms, kind: Kind::Cut, length_ms: 2 * length_ms, luck: strike.luck / 3, ..strike });
        }
    }
}
