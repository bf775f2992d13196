//! The keeper of a box, its records, and the processes: what the agent orders and is told.

use super::workbox::{Inside, Record};
use super::{BEAT_MS, FENCE_GRACE_MS, Step, World};
use proto::id::{AttemptId, Fence};
use proto::v1;
use sidecar::machine::{Event, Facts, Found, FoundState, Note, Notice, Refusal};

impl World {
    pub(super) fn on_inside(&mut self, n: usize, what: Inside) -> Result<(), String> {
        match what {
            Inside::AgentStart => self.start_agent(n),
            Inside::Dial { life } if life == self.boxes[n].life => self.dial(n),
            Inside::KeeperStart { life } if life == self.boxes[n].life => {
                self.start_keeper(n)?;
                self.find_keeper(n);
                Ok(())
            }
            Inside::KeeperFound { life, keeper_life } if self.is_now(n, life, keeper_life) => self.on_keeper_found(n),
            Inside::Start { keeper_life, attempt, fence } if keeper_life == self.boxes[n].keeper_life => {
                self.start_process(n, attempt, fence)
            }
            Inside::Stop { keeper_life, attempt, why } if keeper_life == self.boxes[n].keeper_life => {
                self.stop_process(n, attempt, why);
                Ok(())
            }
            Inside::ProcessEnd { attempt, token, ending } => self.on_process_end(n, attempt, token, *ending),
            Inside::LeaseCheck { attempt, token } => {
                self.check_lease(n, attempt, token);
                Ok(())
            }
            Inside::Noticed { life, keeper_life, attempt, notice } if self.is_now(n, life, keeper_life) => {
                let again = Step::Inside {
                    workbox: n,
                    what: Inside::Noticed { life, keeper_life, attempt, notice: notice.clone() },
                };
                if self.delayed_by_pause(n, again).is_none() {
                    return Ok(());
                }
                self.tell_agent(n, Event::Noticed { attempt, notice })
            }
            Inside::Published { life, attempt } if life == self.boxes[n].life => {
                self.truth.on_published(attempt);
                self.tell_agent(n, Event::OutputsPublished { attempt, failure: None })
            }
            Inside::LogSent { life, attempt } if life == self.boxes[n].life => {
                self.tell_agent(n, Event::LogSent { attempt, failure: None })
            }
            Inside::Purged { life, attempt } if life == self.boxes[n].life => {
                self.boxes[n].records.remove(&attempt);
                self.tell_agent(n, Event::Purged { attempt })
            }
            // Of an earlier life.
            Inside::Dial { .. }
            | Inside::KeeperStart { .. }
            | Inside::KeeperFound { .. }
            | Inside::Start { .. }
            | Inside::Stop { .. }
            | Inside::Noticed { .. }
            | Inside::Published { .. }
            | Inside::LogSent { .. }
            | Inside::Purged { .. } => Ok(()),
        }
    }

    fn is_now(&self, n: usize, life: u64, keeper_life: u64) -> bool {
        let it = &self.boxes[n];
        it.life == life && it.keeper_life == keeper_life && it.keeper_alive
    }

    /// The agent connects to its keeper, or starts one.
    pub(super) fn find_keeper(&mut self, n: usize) {
        let it = &self.boxes[n];
        let (life, keeper_life) = (it.life, it.keeper_life);
        let what =
            if it.keeper_alive { Inside::KeeperFound { life, keeper_life } } else { Inside::KeeperStart { life } };
        self.inside(n, 50, what);
    }

    fn start_keeper(&mut self, n: usize) -> Result<(), String> {
        if self.boxes[n].keeper_alive {
            return Ok(());
        }
        self.boxes[n].keeper_alive = true;
        self.boxes[n].keeper_life += 1;
        // What lives without its monitor is ended; its end is not known.
        let orphans: Vec<AttemptId> = self.boxes[n].alive().filter(|id| self.boxes[n].is_orphan(*id)).collect();
        for attempt in orphans {
            self.end_process(n, attempt);
        }
        for record in self.boxes[n].records.values_mut() {
            let open = matches!(record.state, FoundState::Starting | FoundState::Running(_));
            if open && !record.alive {
                record.state = FoundState::Lost;
            }
        }
        Ok(())
    }

    fn on_keeper_found(&mut self, n: usize) -> Result<(), String> {
        let found = |(id, record): (&AttemptId, &Record)| Found {
            attempt: *id,
            note: Some(record.note),
            state: record.state.clone(),
        };
        let listing = self.boxes[n].records.iter().map(found).collect();
        self.tell_agent(n, Event::KeeperConnected { listing })
    }

    /// Kills the keeper alone: monitors, processes and records live on.
    pub(super) fn crash_keeper(&mut self, n: usize) -> Result<(), String> {
        if !self.boxes[n].keeper_alive {
            return Ok(());
        }
        self.boxes[n].keeper_alive = false;
        self.boxes[n].keeper_life += 1;
        self.tell_agent(n, Event::KeeperGone)?;
        let life = self.boxes[n].life;
        self.inside(n, 2000, Inside::KeeperStart { life });
        Ok(())
    }

    /// Kills agent, keeper and monitors; after a reboot nothing runs, otherwise `continue` processes run on without a monitor.
    pub(super) fn crash_box(&mut self, n: usize, reboot: bool) {
        self.crash_agent(n);
        let it = &mut self.boxes[n];
        it.keeper_alive = false;
        it.keeper_life += 1;
        let running: Vec<AttemptId> = it.alive().collect();
        for attempt in running {
            let Some(record) = self.boxes[n].records.get_mut(&attempt) else { continue };
            record.token = u64::MAX;
            if reboot || record.note.facts.stop_on_disconnect {
                self.end_process(n, attempt);
            }
        }
    }

    pub(super) fn end_process(&mut self, n: usize, attempt: AttemptId) {
        if let Some(record) = self.boxes[n].records.get_mut(&attempt) {
            record.alive = false;
        }
        self.truth.on_process_gone(attempt);
    }

    fn notice(&mut self, n: usize, attempt: AttemptId, notice: Notice) {
        let it = &self.boxes[n];
        if it.keeper_alive {
            let (life, keeper_life) = (it.life, it.keeper_life);
            self.agenda
                .after(1, Step::Inside { workbox: n, what: Inside::Noticed { life, keeper_life, attempt, notice } });
        }
    }

    fn start_process(&mut self, n: usize, attempt: AttemptId, fence: Fence) -> Result<(), String> {
        let refuse = |refusal| Notice::Refused { refusal, message: "simulated".to_owned() };
        let it = &mut self.boxes[n];
        if it.records.contains_key(&attempt) {
            self.notice(n, attempt, refuse(Refusal::Exists));
            return Ok(());
        }
        let boot_ms = self.agenda.now_ms + it.clock_offset_ms;
        if boot_ms >= it.lease_deadline_ms {
            self.notice(n, attempt, refuse(Refusal::NoLease));
            return Ok(());
        }
        let plan = self.truth.draw_process(&mut self.rng, attempt);
        it.next_token += 1;
        let token = it.next_token;
        let started = v1::Started { unix_ms: self.agenda.now_ms, pid: token as u32, ..Default::default() };
        let note = Note { fence, facts: Facts { stop_on_disconnect: plan.stop_on_disconnect } };
        let state = FoundState::Running(started.clone());
        it.records.insert(attempt, Record { note, state, alive: true, token, stopping: false });
        let busy = it.alive().count();
        if busy > it.slots as usize {
            return Err(format!("box {n} runs {busy} processes in {} slots", it.slots));
        }
        self.reached.processes += 1;
        self.truth.on_spawned(attempt)?;
        self.notice(n, attempt, Notice::Spawned(started));
        let end = Inside::ProcessEnd { attempt, token, ending: Box::new(plan.ending) };
        self.agenda.after(plan.runs_ms, Step::Inside { workbox: n, what: end });
        if plan.stop_on_disconnect {
            self.watch_lease(n, attempt, token);
        }
        Ok(())
    }

    fn watch_lease(&mut self, n: usize, attempt: AttemptId, token: u64) {
        let it = &self.boxes[n];
        let at_ms = it.lease_deadline_ms.saturating_sub(it.clock_offset_ms);
        self.agenda.at(at_ms, Step::Inside { workbox: n, what: Inside::LeaseCheck { attempt, token } });
    }

    /// The monitor's timer: it reads the page again, and ends a `stop` attempt whose lease is over.
    fn check_lease(&mut self, n: usize, attempt: AttemptId, token: u64) {
        let it = &self.boxes[n];
        let Some(record) = it.records.get(&attempt).filter(|record| record.alive && record.token == token) else {
            return;
        };
        if record.stopping {
            return;
        }
        if self.agenda.now_ms + it.clock_offset_ms < it.lease_deadline_ms {
            self.watch_lease(n, attempt, token);
        } else {
            self.end_within(n, attempt, FENCE_GRACE_MS, v1::Reason::Fenced);
        }
    }

    fn stop_process(&mut self, n: usize, attempt: AttemptId, why: v1::Reason) {
        let alive = self.boxes[n].records.get(&attempt).is_some_and(|record| record.alive && !record.stopping);
        if alive && !self.boxes[n].is_orphan(attempt) {
            self.end_within(n, attempt, 2 * BEAT_MS, why);
        }
    }

    fn end_within(&mut self, n: usize, attempt: AttemptId, grace_ms: u64, why: v1::Reason) {
        // Strictly before the grace is over: at its end the KILL has done its work.
        let delay_ms = self.rng.range(0, grace_ms - 1);
        let it = &mut self.boxes[n];
        it.next_token += 1;
        let token = it.next_token;
        if let Some(record) = it.records.get_mut(&attempt) {
            record.token = token;
            record.stopping = true;
        }
        let ending = Box::new(v1::Ending { reason: why.into(), signal: Some(15), ..Default::default() });
        let what = Inside::ProcessEnd { attempt, token, ending };
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what });
    }

    fn on_process_end(&mut self, n: usize, attempt: AttemptId, token: u64, ending: v1::Ending) -> Result<(), String> {
        let Some(record) = self.boxes[n].records.get_mut(&attempt).filter(|record| record.alive) else { return Ok(()) };
        if record.token == u64::MAX {
            // Its monitor is dead: it ends and nobody records it.
            self.end_process(n, attempt);
            return Ok(());
        }
        if record.token != token {
            return Ok(());
        }
        record.state = FoundState::Ended(Box::new(ending.clone()));
        self.end_process(n, attempt);
        self.truth.on_ended(attempt, &ending);
        self.notice(n, attempt, Notice::Ended(Box::new(ending)));
        Ok(())
    }
}
