//! The box's end of its link: what an agent's shell makes of connections and messages.

use super::judge::{Check, Wrong, wrong};
use super::net::{Delivery, Introduction, Side};
use super::workbox::{Inside, Workbox};
use super::{Step, World};
use proto::id::{AttemptId, Fence};
use proto::v1;
use sidecar::machine::{Event, LinkId, Machine};
use v1::informer_message::Message;
use v1::sidecar_message::Message as Up;

impl World {
    pub(super) fn send_hello(&mut self, n: usize, link: LinkId, held: Vec<v1::HeldAttempt>) -> Result<(), Wrong> {
        let old = self.boxes[n].plan.old;
        let whole = |held: v1::HeldAttempt| {
            let attempt = held.attempt.as_ref().and_then(|id| AttemptId::from_wire(id).ok());
            let held = v1::HeldAttempt { asked: Some(self.truth.asked_by(attempt)), ..held };
            if old { super::wire::old_held(held) } else { held }
        };
        let held = match held.into_iter().map(whole).map(informer::edge::convert::held).collect() {
            Ok(held) => held,
            Err(faults) => {
                return wrong(Check::EdgeTakesIt, format!("an inventory does not pass the edge: {faults}"));
            }
        };
        let it = &self.boxes[n];
        let newest = proto::PROTOCOL_MAX + u32::from(it.too_new);
        let oldest = if newest > proto::PROTOCOL_MAX { newest } else { proto::PROTOCOL_MIN };
        self.net.introduce(link.0, Introduction { hello: it.hello(), held, protocols: (oldest, newest) });
        self.send_up(link, Up::Hello(v1::Hello::default()));
        Ok(())
    }

    pub(super) fn send_up(&mut self, link: LinkId, message: Up) {
        self.send_to_center(link.0, v1::SidecarMessage { message: Some(message) });
    }

    pub(super) fn hang_up(&mut self, n: usize, link: LinkId) -> Result<(), Wrong> {
        if self.drop_box_side(link.0) {
            self.close_link(link.0, Side::Box, 0);
        }
        if self.boxes[n].link == Some(link.0) {
            self.boxes[n].link = None;
            self.redial(n);
            return self.tell_agent(n, Event::LinkClosed { link });
        }
        Ok(())
    }

    /// The sidecar's lease ends first, as far as clocks go alike: they may drift apart by one in a hundred.
    pub(super) fn on_lease_published(&mut self, n: usize, deadline_ms: u64) -> Result<(), Wrong> {
        let it = &mut self.boxes[n];
        let ends_ms = it.at_boot_ms(deadline_ms);
        let granted_ms = self.truth.lease_ends_ms(it.id) + 3 * super::BEAT_MS / 100;
        if ends_ms > granted_ms {
            let what = format!("sidecar {n} believes in a lease until {ends_ms}, the informer until {granted_ms}");
            return wrong(Check::LeaseEndsFirst, what);
        }
        // One of before lends it, and the informer waits for the end that it reports.
        let lent =
            (it.is_stranger() && !it.plan.old).then(|| self.truth.given_to_another(&self.center.store, it)).flatten();
        if let Some(attempt) = lent {
            let what = format!(
                "sidecar {n} has another id now, and prolongs the lease under which {attempt} was given before"
            );
            return wrong(Check::SecondCopyWaits, what);
        }
        (it.lease_deadline_ms, it.lease_of) = (deadline_ms, Some(it.sidecar));
        Ok(())
    }

    fn redial(&mut self, n: usize) {
        let life = self.boxes[n].life;
        let delay_ms = self.rng.range(1, 1500);
        self.agenda.after(delay_ms, Step::Inside { workbox: n, what: Inside::Dial { life } });
    }

    pub(super) fn dial(&mut self, n: usize) -> Result<(), Wrong> {
        let now_ms = self.agenda.now_ms;
        let reachable = self.center.machine.is_some()
            && self.faults.cut_until_ms(n, true, now_ms) == 0
            && self.faults.cut_until_ms(n, false, now_ms) == 0;
        if self.boxes[n].link.is_some() {
            return Ok(());
        }
        if !reachable {
            self.redial(n);
            return Ok(());
        }
        let link = self.new_session().0;
        self.net.open(link, n);
        self.boxes[n].link = Some(link);
        self.tell_agent(n, Event::LinkOpened { link: LinkId(link) })
    }

    pub(super) fn on_box_link_closed(&mut self, n: usize, link: u64) -> Result<(), Wrong> {
        if !self.drop_box_side(link) {
            return Ok(());
        }
        if self.boxes[n].link == Some(link) {
            self.boxes[n].link = None;
            self.redial(n);
        }
        self.tell_agent(n, Event::LinkClosed { link: LinkId(link) })
    }

    pub(super) fn on_box_heard(
        &mut self,
        n: usize,
        delivery: Delivery,
        message: v1::InformerMessage,
    ) -> Result<(), Wrong> {
        let link = LinkId(delivery.link);
        if self.delayed_by_pause(n, || Step::Deliver(delivery)) {
            return Ok(());
        }
        let now_ms = self.agenda.now_ms;
        let it = &mut self.boxes[n];
        let old = it.plan.old;
        match &message.message {
            Some(Message::Welcome(m)) => {
                it.log_policy = Some(if old { v1::LogPolicy::Unspecified } else { m.log_policy() });
                it.beat_ms = now_ms;
                it.learn(m.informer.clone().unwrap_or_default());
            }
            Some(Message::BeatAck(m)) => {
                if let Some(seen) = &mut it.seen {
                    seen.commit_seq = seen.commit_seq.max(m.commit_seq);
                }
            }
            Some(Message::Assign(m)) => {
                it.highest_fence = it.highest_fence.max(m.fence.map(Fence::from).unwrap_or_default());
            }
            Some(Message::Ping(m)) => {
                let nonce = m.nonce;
                self.send_up(link, Up::Pong(v1::Pong { nonce }));
                return Ok(());
            }
            _ => {}
        }
        // Before its welcome an informer has no say: where a middlebox has lost the welcome, the agent ends the link, and the order
        // is repeated in the next.
        let heeds = |it: &Workbox| it.link == Some(link.0) && it.agent.as_ref().is_some_and(Machine::is_linked);
        let stop = super::wire::stop_in(&message).filter(|_| heeds(&self.boxes[n]));
        if let Some((attempt, why)) = stop {
            if why == v1::Reason::TotalTimeout {
                // Whether it has a process by now or not.
                self.truth.on_fault(attempt.task);
            }
            self.watch_stop(n, attempt);
        }
        let stranger = self.boxes[n].is_stranger();
        match super::wire::heard(message, &self.truth, old, stranger) {
            Some(heard) => self.tell_agent(n, Event::Heard { link, heard }),
            None => Ok(()),
        }
    }
}
