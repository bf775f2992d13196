//! "Why is it not running?" has an answer for every task that is not terminal.

use super::array::Members;
use super::event::Now;
use super::outcome::reason_word;
use super::placement::Unfit;
use super::shared::ClassId;
use super::sidecar::{Link, Sidecar};
use super::task::{Attempt, Phase, State, Task, WaitsFor};
use super::timer::Timer;
use super::{Machine, view};
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::time::span;
use proto::{bounds, v1};
use std::collections::BTreeSet;

/// Sidecars named in a summary, which is one line: the details tell of all.
const NAMED: usize = 2;

/// A copy that is set aside on a sidecar.
struct Apart {
    number: u32,
    sidecar: SidecarId,
    over: bool,
}

impl Apart {
    fn named(&self, machine: &Machine) -> String {
        let sidecar = machine.sidecars.get(&self.sidecar);
        let host = sidecar.map_or("an unknown host", |sidecar| sidecar.host.as_str());
        let (number, id) = (self.number, self.sidecar);
        match sidecar.map(|sidecar| sidecar.link) {
            _ if self.over => format!("attempt {number} has ended on sidecar {host} ({id})"),
            Some(Link::Lost) | None => format!("attempt {number} may run on sidecar {host} ({id}), which is lost"),
            Some(Link::Up { .. } | Link::Down) => format!("attempt {number} runs on sidecar {host} ({id})"),
        }
    }

    fn told(&self, machine: &Machine, id: TaskId, task: &Task) -> String {
        let mut named = self.named(machine);
        if let Some(attempt) = self.same_as(machine, id, task) {
            named.push_str(&format!(" (it was given to sidecar {}, which is lost)", attempt.sidecar));
        }
        let applied = match view::current(&task.attempts).filter(|_| self.may_be_taken_up(machine, id, task)) {
            Some(current) => {
                format!(
                    "nothing of it is applied, unless attempt {} comes to nothing and it is taken up",
                    current.number
                )
            }
            None => "nothing of it is applied".to_owned(),
        };
        let held = task.aside.iter().any(|aside| (aside.sidecar, aside.number) == (self.sidecar, self.number));
        let linked = machine.sidecars.get(&self.sidecar).is_some_and(|sidecar| sidecar.session().is_some());
        if self.over {
            format!("{named}, set aside: its record stays there, and {applied}")
        } else if task.cancelling && held && linked {
            format!("{named}, set aside: it is being stopped")
        } else {
            let sidecar = self.sidecar;
            format!("{named}, set aside: {applied}; it ends by itself, or by `informer drain {sidecar} --stop --wait`")
        }
    }

    fn fence(&self, machine: &Machine, id: TaskId) -> Option<Fence> {
        let told = AttemptId { task: id, number: self.number };
        machine.sidecars.get(&self.sidecar)?.strangers.get(&told).map(|stranger| stranger.fence)
    }

    /// The attempt of this store that it is, by its fence, which is given once: a sidecar that lost its id tells it under a new one.
    fn same_as<'a>(&self, machine: &Machine, id: TaskId, task: &'a Task) -> Option<&'a Attempt> {
        let fence = self.fence(machine, id)?;
        task.attempt(self.number).filter(|attempt| attempt.fence == fence && attempt.phase == Phase::PresumedLost)
    }

    fn may_be_taken_up(&self, machine: &Machine, id: TaskId, task: &Task) -> bool {
        self.fence(machine, id).is_some_and(|fence| !task.waits() && machine.could_adopt(task, self.number, fence))
    }
}

impl Machine {
    /// Why the task stands where it stands, in sentences; `None` if the machine does not hold it (then it is terminal or
    /// unknown). Details name at most [`bounds::WHY_DETAILS`] sidecars or conditions.
    #[must_use]
    pub fn why(&self, now: Now, id: TaskId) -> Option<v1::WhyResponse> {
        let Some(task) = self.tasks.get(&id) else { return self.why_unstarted(now, id) };
        let (summary, mut details) = match &task.state {
            State::Waiting { until_ms: u64::MAX, .. } if self.copies_aside(task).any(|(_, lost)| !lost) => {
                self.why_held_for(id, task)
            }
            State::Waiting { until_ms, why } => (why_waiting(task, now, *until_ms, *why), Vec::new()),
            State::Ready { .. } => self.why_held_back(now, task).unwrap_or_else(|| self.why_ready(task)),
            State::Assigned => (self.where_it_is(task, "is on its way to"), why_preparing(task)),
            State::Running if task.members.is_some() => {
                ("all of its members have started, and some have not ended".to_owned(), Vec::new())
            }
            State::Running => self.why_running(task),
            State::Committing { .. } => {
                (self.where_it_is(task, "has succeeded and publishes its outputs on"), Vec::new())
            }
            State::Ended { .. } => (format!("it has ended: {}", task.state_word()), Vec::new()),
        };
        if task.cancelling && !task.is_ended() {
            details.push("a cancel is accepted; the task ends when its process has stopped".to_owned());
        }
        let apart = self.apart(id, task);
        details.extend(self.copies(id, task, &apart));
        // Before the sidecars, of which there may be more than details are told.
        let is_told = |copy: &&Apart| !summary.contains(&copy.named(self));
        let apart: Vec<String> = apart.iter().filter(is_told).map(|copy| copy.told(self, id, task)).collect();
        details.splice(0..0, apart);
        if !task.is_ended() {
            details.splice(0..0, why_tried_again(task));
        }
        details.extend(task.members().map(why_members));
        details.truncate(bounds::WHY_DETAILS);
        Some(v1::WhyResponse { summary, details, state: task.wire_state().into() })
    }

    /// A member without a row waits with its array.
    fn why_unstarted(&self, now: Now, id: TaskId) -> Option<v1::WhyResponse> {
        let array = id.array()?;
        let members = self.tasks.get(&array)?.members()?;
        if !members.pending.contains(id.index()?) {
            return None;
        }
        let why = self.why(now, array)?;
        let summary = format!("it has not started; of its array: {}", why.summary);
        Some(v1::WhyResponse { summary, state: v1::TaskState::Ready.into(), ..why })
    }

    /// Copies from after the backup that this store was restored from keep it from starting.
    fn why_held_for(&self, id: TaskId, task: &Task) -> (String, Vec<String>) {
        let copies: Vec<String> =
            self.apart(id, task).iter().filter(|copy| !copy.over).map(|copy| copy.named(self)).collect();
        let more = copies.len().saturating_sub(NAMED);
        let mut named = copies[..copies.len().min(NAMED)].join(", ");
        if more > 0 {
            named.push_str(&format!(", and {more} more"));
        }
        let ends = "it goes on when they have ended there, or their sidecar is lost and their lease is over; `informer cancel` ends it";
        let summary = format!(
            "{named}, set aside: the informer was restored from a backup that does not know of it, and no two copies may run at once"
        );
        (summary, vec![ends.to_owned()])
    }

    /// What is set aside of a task: told in this informer's time, or before it and not heard of since.
    fn apart(&self, id: TaskId, task: &Task) -> Vec<Apart> {
        let over = |attempt: AttemptId, sidecar: SidecarId| {
            let sidecar = self.sidecars.get(&sidecar);
            sidecar.and_then(|sidecar| sidecar.strangers.get(&attempt)).is_some_and(|stranger| stranger.over)
        };
        let told = self.strangers_of(id).map(|(attempt, sidecar)| (attempt.number, sidecar));
        let held = task.aside.iter().map(|aside| (aside.number, aside.sidecar));
        let all: BTreeSet<(u32, SidecarId)> = told.chain(held).collect();
        let apart = |(number, sidecar)| Apart { number, sidecar, over: over(AttemptId { task: id, number }, sidecar) };
        all.into_iter().map(apart).collect()
    }

    /// No sidecar may start it yet, since a copy may run that this informer has not heard of.
    fn why_held_back(&self, now: Now, task: &Task) -> Option<(String, Vec<String>)> {
        let held = self.held_back(self.shared.class(task.alike.lane.class))?;
        let (until_ms, because, more) = match held {
            Unfit::HeldBack => (
                self.timers.due(Timer::Restored),
                "the informer was restored from a backup".to_owned(),
                "an operator who knows that no copy of it runs starts the informer with `serve --accept-restored`"
                    .to_owned(),
            ),
            Unfit::Unheard(count) => (
                self.timers.due(Timer::Unheard),
                format!("{count} sidecars that were linked have not told since the informer's start what they run"),
                "it goes on as soon as they have linked".to_owned(),
            ),
            Unfit::Label(..) | Unfit::Kind(_) | Unfit::WeakFencing | Unfit::Full { .. } => return None,
        };
        let left = span(until_ms.unwrap_or(now.mono_ms).saturating_sub(now.mono_ms));
        let summary =
            format!("it is ready, and a copy of it may run unknown to the informer for another {left}: {because}");
        Some((summary, vec![more]))
    }

    fn why_ready(&self, task: &Task) -> (String, Vec<String>) {
        let (ahead, more) = task.spot().map_or((0, false), |spot| self.ready.ahead_of(spot));
        let ahead = match (ahead, more) {
            (0, false) => "no task is before it".to_owned(),
            (1, false) => "1 task is before it".to_owned(),
            (ahead, false) => format!("{ahead} tasks are before it"),
            (ahead, true) => format!("more than {ahead} tasks are before it"),
        };
        let class = task.alike.lane.class;
        let known: Vec<_> = self.sidecars.iter().filter(|(_, sidecar)| sidecar.link != Link::Lost).collect();
        let details = known
            .iter()
            .take(bounds::WHY_DETAILS)
            .map(|(id, sidecar)| {
                // What would keep it away for ever is worth more than what passes.
                let reason = self
                    .unfit_because(sidecar, class)
                    .filter(|_| sidecar.closed_because().is_none() || self.never_fits(sidecar, class))
                    .map(|unfit| unfit.to_string())
                    .or_else(|| sidecar.closed_because().map(|closed| closed.to_string()))
                    .or_else(|| {
                        let kept = sidecar.kept_for?;
                        Some(format!("is kept free for task {kept}, which has waited too long for as much room"))
                    })
                    .unwrap_or_else(|| "has room and will take it next".to_owned());
                format!("sidecar {} ({id}) {reason}", sidecar.host)
            })
            .collect();
        let summary = if known.is_empty() {
            "it is ready, and no sidecar is linked; start one with `sidecar run`".to_owned()
        } else if known.iter().all(|(_, sidecar)| self.never_fits(sidecar, class)) {
            "it is ready, and no linked sidecar can ever take it; start one that can, or cancel it".to_owned()
        } else {
            match self.kept_away(&known, class) {
                Some(because) => format!("it is ready, and {because}; {ahead}"),
                None => format!("it is ready and waits for a sidecar with room; {ahead}"),
            }
        };
        (summary, details)
    }

    /// What keeps it from every sidecar that could take it, where that is not their work but how they themselves stand.
    fn kept_away(&self, known: &[(&SidecarId, &Sidecar)], class: ClassId) -> Option<String> {
        let mut because = Vec::new();
        for (id, sidecar) in known.iter().filter(|(_, sidecar)| !self.never_fits(sidecar, class)) {
            let closed = sidecar.closed_because().filter(|closed| !closed.is_for_want_of_room())?;
            // Two of one host are told apart by their ids.
            let alone = known.iter().filter(|(_, other)| other.host == sidecar.host).count() == 1;
            because.push(if alone {
                format!("sidecar {} {closed}", sidecar.host)
            } else {
                format!("sidecar {} ({id}) {closed}", sidecar.host)
            });
        }
        let more = because.len().saturating_sub(NAMED);
        because.truncate(NAMED);
        let named = because.join(", ");
        match more {
            0 => Some(named),
            more => Some(format!("{named}, and {more} more take nothing now")),
        }
    }

    fn why_running(&self, task: &Task) -> (String, Vec<String>) {
        let missing = view::current(&task.attempts).is_some_and(|attempt| attempt.phase == Phase::PresumedLost);
        if missing {
            let summary =
                "its sidecar is lost and it may still run there; it is replaced after the silence it asked for";
            return (summary.to_owned(), Vec::new());
        }
        (self.where_it_is(task, "runs on"), Vec::new())
    }

    fn where_it_is(&self, task: &Task, verb: &str) -> String {
        let Some(attempt) = view::current(&task.attempts) else { return format!("it {verb} a sidecar") };
        let sidecar = self.sidecars.get(&attempt.sidecar);
        let host = sidecar.map_or("an unknown host", |sidecar| sidecar.host.as_str());
        let link = match sidecar.map(|sidecar| sidecar.link) {
            Some(Link::Up { suspect: false, .. }) => "",
            Some(Link::Up { suspect: true, .. }) => ", which missed a beat",
            Some(Link::Down) => ", which is not linked at the moment",
            Some(Link::Lost) | None => ", which is lost",
        };
        format!("it {verb} sidecar {host} ({}), attempt {}{link}", attempt.sidecar, attempt.number)
    }

    /// Copies that may overlap with the current attempt, or with the one that is to come: while a task waits for its next attempt, the
    /// newest one is such a copy too.
    fn copies(&self, id: TaskId, task: &Task, apart: &[Apart]) -> Vec<String> {
        let current = match task.state {
            State::Waiting { .. } | State::Ready { .. } => None,
            _ => view::current(&task.attempts).map(|attempt| attempt.number),
        };
        let accepted = match (current, task.alike.facts.stop_on_disconnect) {
            (Some(_), _) => "whichever copy ends first is accepted",
            (None, false) => "if it ends before its replacement does, its result is accepted",
            (None, true) => "until its replacement starts, its result is accepted",
        };
        // What another sidecar tells of is told of there.
        let told_apart = |attempt: &Attempt| {
            apart.iter().any(|copy| copy.same_as(self, id, task).is_some_and(|same| same.number == attempt.number))
        };
        let others = task.attempts.iter().filter(|attempt| Some(attempt.number) != current && !told_apart(attempt));
        others
            .filter_map(|attempt| match attempt.phase {
                Phase::PresumedLost if attempt.fenced => Some(format!(
                    "attempt {} may still run on lost sidecar {}; its result no longer counts",
                    attempt.number, attempt.sidecar
                )),
                Phase::PresumedLost => Some(format!(
                    "attempt {} may still run on lost sidecar {}; {accepted}",
                    attempt.number, attempt.sidecar
                )),
                Phase::Assigned | Phase::Running => {
                    Some(format!("attempt {} is being stopped on sidecar {}", attempt.number, attempt.sidecar))
                }
                _ => None,
            })
            .collect()
    }
}

fn why_members(members: &Members) -> String {
    format!(
        "of {} members {} have not started, {} are under way, {} succeeded, {} failed, {} were cancelled",
        members.count,
        members.pending.len(),
        members.live,
        members.succeeded,
        members.failed,
        members.cancelled_rows + members.cancelled.len()
    )
}

fn why_waiting(task: &Task, now: Now, until_ms: u64, why: WaitsFor) -> String {
    if until_ms == u64::MAX {
        return "it waits until its old copy has stopped, since no two may run at once".to_owned();
    }
    let left = span(until_ms.saturating_sub(now.mono_ms));
    match why {
        WaitsFor::StartTime => format!("it waits for its start time, in {left}"),
        WaitsFor::BackOff if task.is_service() => format!("it is restarted in {left}"),
        WaitsFor::BackOff => format!("it is tried again in {left}"),
        WaitsFor::OldCopy => {
            format!("its old copy may run for another {left} on a sidecar out of reach, and no two may run at once")
        }
    }
}

/// How its inputs come in, if its sidecar tells.
fn why_preparing(task: &Task) -> Vec<String> {
    let progress = view::current(&task.attempts).and_then(|attempt| attempt.progress.as_deref());
    progress.map(|progress| progress.note.clone()).filter(|note| !note.is_empty()).into_iter().collect()
}

/// What happened to it before, however it stands now: a service that is up again, or a task that is tried again, still shows why it
/// is not at its first attempt.
fn why_tried_again(task: &Task) -> Vec<String> {
    let ended = |attempt: &Attempt| attempt.ending.as_deref().map(|ending| (attempt.number, told(ending)));
    let last = task.attempts.iter().rev().find_map(ended);
    let counted = match (task.is_service(), task.infra_failures) {
        (true, 0) if task.restarts == 0 => None,
        (true, losses) => Some(format!("restarted {} times in a row, lost {losses} times", task.restarts)),
        (false, 0) if task.own_failures == 0 => None,
        (false, losses) => {
            Some(format!("{} failures of its own, {losses} of the infrastructure so far", task.own_failures))
        }
    };
    let last = last.map(|(number, told)| format!("attempt {number} ended: {told}"));
    last.into_iter().chain(counted).collect()
}

/// An ending in one line: the reason, and what shows it best.
fn told(ending: &v1::Ending) -> String {
    let reason = match ending.reason() {
        v1::Reason::Unspecified => "succeeded".to_owned(),
        _ => reason_word(ending),
    };
    let shown = match (ending.message.as_str(), ending.exit_code, ending.signal) {
        ("", Some(code), _) => format!("exit code {code}"),
        ("", None, Some(signal)) => format!("signal {signal}"),
        ("", None, None) => return reason,
        (message, ..) => message.to_owned(),
    };
    format!("{reason} ({shown})")
}
