//! Bounded read-only questions about the machine's state.

use super::Machine;
use super::event::{Now, SessionId};
use super::sidecar::{Link, Sidecar};
use super::task::Attempt;
use proto::id::{SidecarId, TaskId};
use proto::{bounds, v1};

impl Machine {
    /// Every sidecar, for people, in the order of ids; `all` includes lost ones. At most [`proto::bounds::SIDECARS`].
    #[must_use]
    pub fn sidecars(&self, now: Now, all: bool) -> Vec<v1::Sidecar> {
        self.sidecars
            .iter()
            .filter(|(_, sidecar)| all || sidecar.link != Link::Lost)
            .map(|(id, sidecar)| describe(*id, sidecar, now))
            .collect()
    }

    /// One sidecar, for people.
    #[must_use]
    pub fn sidecar(&self, now: Now, id: SidecarId) -> Option<v1::Sidecar> {
        self.sidecars.get(&id).map(|sidecar| describe(id, sidecar, now))
    }

    /// The session to ask for an attempt's log, if its sidecar is linked.
    #[must_use]
    pub fn session_of(&self, sidecar: &str) -> Option<SessionId> {
        self.sidecars.get(&sidecar.parse().ok()?)?.session()
    }

    /// Latest progress of the task's newest running attempt.
    #[must_use]
    pub fn progress(&self, task: TaskId) -> Option<&v1::Progress> {
        self.tasks
            .get(&task)?
            .attempts
            .iter()
            .rev()
            .filter(|attempt| !attempt.fenced)
            .find_map(|a| a.progress.as_deref())
    }

    /// How many sidecars are in each state, by the number of [`v1::SidecarState`].
    #[must_use]
    pub fn sidecar_states(&self) -> [u64; 6] {
        let mut counts = [0; 6];
        for sidecar in self.sidecars.values() {
            counts[state(sidecar) as usize] += 1;
        }
        counts
    }

    /// How many tasks are held, and how many of them are ready.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.tasks.len(), self.ready.len())
    }
}

fn state(sidecar: &Sidecar) -> v1::SidecarState {
    match sidecar.link {
        Link::Lost => v1::SidecarState::Lost,
        Link::Down | Link::Up { suspect: true, .. } => v1::SidecarState::Suspect,
        Link::Up { .. } if sidecar.is_draining() => v1::SidecarState::Draining,
        Link::Up { .. } if sidecar.quarantined => v1::SidecarState::Quarantined,
        Link::Up { .. } => v1::SidecarState::Live,
    }
}

fn describe(id: SidecarId, sidecar: &Sidecar, now: Now) -> v1::Sidecar {
    let tells_nothing = sidecar.unknown.is_none();
    let unknown = sidecar.unknown.as_deref().unwrap_or_default();
    v1::Sidecar {
        id: id.to_string(),
        state: state(sidecar).into(),
        host: sidecar.host.clone(),
        labels: sidecar.labels.clone(),
        total: Some(v1::Resources { cpu_millis: sidecar.cpu_millis, memory_bytes: sidecar.memory_bytes }),
        allocated: Some(v1::Resources {
            cpu_millis: sidecar.taken_cpu_millis,
            memory_bytes: sidecar.taken_memory_bytes,
        }),
        slots: sidecar.slots,
        running: u32::try_from(sidecar.taken.len()).unwrap_or(u32::MAX),
        load: Some(sidecar.load),
        last_beat_age_ms: now.mono_ms.saturating_sub(sidecar.heard_ms),
        window: sidecar.window,
        speed_permille: sidecar.speed_permille,
        version: sidecar.version.clone(),
        fencing: if sidecar.weak_fencing { "weak" } else { "strong" }.to_owned(),
        drain: sidecar.drain.into(),
        set_aside: Some(sidecar.apart).filter(|_| tells_nothing || !unknown.is_empty()),
        set_aside_count: u32::try_from(unknown.len()).unwrap_or(u32::MAX),
        set_aside_attempts: unknown.iter().take(bounds::ASIDE_NAMED).map(ToString::to_string).collect(),
    }
}

/// The newest attempt that is not fenced.
pub(super) fn current(attempts: &[Attempt]) -> Option<&Attempt> {
    attempts.iter().rev().find(|attempt| !attempt.fenced)
}
