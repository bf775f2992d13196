//! Links between boxes and the informer: ordered streams that delay and break, and when they are rough also lose, repeat and
//! overtake, as a broken proxy would.

use super::judge::Wrong;
use super::{Agenda, Faults, Rng, Step, World};
use informer::machine::{Held, Hello};
use proto::v1;
use std::collections::BTreeMap;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Center,
    Box,
}

/// Something that arrives.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub link: u64,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    ToCenter(Box<v1::SidecarMessage>),
    ToBox(Box<v1::InformerMessage>),
    /// This side learns that the link is gone.
    Closed(Side),
}

struct Link {
    workbox: usize,
    center_open: bool,
    box_open: bool,
    /// Nothing overtakes: the last arrival in each direction.
    last_to_center_ms: u64,
    last_to_box_ms: u64,
    introduction: Option<Introduction>,
}

/// A hello with its inventory, and the protocols that its sender speaks.
pub(super) struct Introduction {
    pub hello: Hello,
    pub held: Vec<Held>,
    pub protocols: (u32, u32),
}

/// All links of a history.
#[derive(Default)]
pub(super) struct Net {
    links: BTreeMap<u64, Link>,
}

impl Net {
    pub(super) fn introduction(&mut self, link: u64) -> Option<Introduction> {
        self.links.get_mut(&link)?.introduction.take()
    }

    pub(super) fn workbox_of(&self, link: u64) -> Option<usize> {
        self.links.get(&link).map(|link| link.workbox)
    }

    pub(super) fn introduce(&mut self, link: u64, introduction: Introduction) {
        if let Some(link) = self.links.get_mut(&link) {
            link.introduction = Some(introduction);
        }
    }

    pub(super) fn open(&mut self, id: u64, workbox: usize) {
        let link = Link {
            workbox,
            center_open: true,
            box_open: true,
            last_to_center_ms: 0,
            last_to_box_ms: 0,
            introduction: None,
        };
        self.links.insert(id, link);
    }

    pub(super) fn is_open_at(&self, id: u64, side: Side) -> bool {
        self.links.get(&id).is_some_and(|link| match side {
            Side::Center => link.center_open,
            Side::Box => link.box_open,
        })
    }
}

/// When a message sent now arrives, none if it is lost; and whether it arrives twice.
fn arrivals(
    link: &mut Link,
    to_center: bool,
    agenda: &Agenda,
    faults: &Faults,
    delay_ms: u64,
    rng: &mut Rng,
) -> Vec<u64> {
    let now_ms = agenda.now_ms;
    let free_ms = faults.cut_until_ms(link.workbox, to_center, now_ms).max(now_ms);
    let rough = faults.is_rough(link.workbox, now_ms);
    let delay_ms = if faults.is_dripping(link.workbox, now_ms) { delay_ms + 800 } else { delay_ms };
    let last_ms = if to_center { &mut link.last_to_center_ms } else { &mut link.last_to_box_ms };
    let mut at_ms = free_ms + rng.range(1, delay_ms);
    if rough && rng.chance(30) {
        return Vec::new();
    }
    if !(rough && rng.chance(50)) {
        at_ms = at_ms.max(*last_ms);
    }
    *last_ms = (*last_ms).max(at_ms);
    if rough && rng.chance(50) { vec![at_ms, at_ms + rng.range(1, 400)] } else { vec![at_ms] }
}

impl World {
    pub(super) fn send_to_center(&mut self, id: u64, message: v1::SidecarMessage) {
        let Some(link) = self.net.links.get_mut(&id).filter(|link| link.box_open) else { return };
        for at_ms in arrivals(link, true, &self.agenda, &self.faults, self.script.delay_ms, &mut self.rng) {
            let content = Content::ToCenter(Box::new(message.clone()));
            self.agenda.at(at_ms, Step::Deliver(Delivery { link: id, content }));
        }
    }

    pub(super) fn send_to_box(&mut self, id: u64, message: v1::InformerMessage) {
        let Some(link) = self.net.links.get_mut(&id).filter(|link| link.center_open) else { return };
        for at_ms in arrivals(link, false, &self.agenda, &self.faults, self.script.delay_ms, &mut self.rng) {
            let content = Content::ToBox(Box::new(message.clone()));
            self.agenda.at(at_ms, Step::Deliver(Delivery { link: id, content }));
        }
    }

    /// One side ends a link; the other learns it when it learns it: `silence_ms` later if this side could say nothing.
    pub(super) fn close_link(&mut self, id: u64, side: Side, silence_ms: u64) {
        let Some(link) = self.net.links.get_mut(&id) else { return };
        let other = match side {
            Side::Center => {
                link.center_open = false;
                Side::Box
            }
            Side::Box => {
                link.box_open = false;
                Side::Center
            }
        };
        let to_center = other == Side::Center;
        let free_ms = self.faults.cut_until_ms(link.workbox, to_center, self.agenda.now_ms).max(self.agenda.now_ms);
        let last_ms = if to_center { link.last_to_center_ms } else { link.last_to_box_ms };
        let at_ms = (free_ms + silence_ms + self.rng.range(1, self.script.delay_ms)).max(last_ms);
        self.agenda.at(at_ms, Step::Deliver(Delivery { link: id, content: Content::Closed(other) }));
    }

    pub(super) fn break_all_links(&mut self, side: Side, silence_ms: u64) {
        let open: Vec<u64> = self.net.links.keys().copied().filter(|id| self.net.is_open_at(*id, side)).collect();
        for id in open {
            self.close_link(id, side, silence_ms);
        }
    }

    pub(super) fn on_delivery(&mut self, delivery: Delivery) -> Result<(), Wrong> {
        let Some(workbox) = self.net.links.get(&delivery.link).map(|link| link.workbox) else { return Ok(()) };
        let to_center = matches!(delivery.content, Content::ToCenter(_) | Content::Closed(Side::Center));
        if to_center && self.delayed_by_center(|| Step::Deliver(delivery.clone())) {
            return Ok(());
        }
        match delivery.content.clone() {
            Content::ToCenter(message) if self.net.is_open_at(delivery.link, Side::Center) => {
                self.on_center_heard(&delivery, *message)
            }
            Content::ToBox(message) if self.net.is_open_at(delivery.link, Side::Box) => {
                self.on_box_heard(workbox, delivery, *message)
            }
            Content::ToCenter(_) | Content::ToBox(_) => Ok(()),
            Content::Closed(Side::Center) => {
                if let Some(link) = self.net.links.get_mut(&delivery.link).filter(|link| link.center_open) {
                    link.center_open = false;
                    let session = informer::machine::SessionId(delivery.link);
                    return self.tell_center(informer::machine::Event::LinkClosed { session });
                }
                Ok(())
            }
            Content::Closed(Side::Box) => self.on_box_link_closed(workbox, delivery.link),
        }
    }

    /// The box's side of a link is gone, for whatever reason; false if it was already.
    pub(super) fn drop_box_side(&mut self, id: u64) -> bool {
        match self.net.links.get_mut(&id) {
            Some(link) if link.box_open => {
                link.box_open = false;
                true
            }
            _ => false,
        }
    }
}
