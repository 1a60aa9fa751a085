//! Who takes the events of a relay: handlers with what each wishes for, and how much each has out.
//!
//! Pure, as `streams`. Invariants: nobody has more out than it takes; who is leaving is given
//! nothing more, and is gone when nothing of it is out.

use std::sync::Arc;
use std::time::Duration;

use super::super::{BusEvent, EventHandler, SubscribeAsk};

/// Names a taker of one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakerId(u64);

/// A handler, and how events are handed to it.
#[derive(Clone)]
pub struct Taker {
    /// The type of events it takes; `None` for all.
    pub kind: Option<String>,
    /// Who is handed them.
    pub handler: Arc<dyn EventHandler>,
    /// How often an event is handed over before it is parked.
    pub attempts_max: u32,
    /// How many are out at once, those that are being settled included.
    pub in_flight_max: usize,
    /// How long it may take for one.
    pub timeout: Duration,
}

impl Taker {
    /// As a subscriber wishes it.
    pub fn of(ask: &SubscribeAsk) -> Self {
        Self {
            kind: ask.kind.clone(),
            handler: Arc::clone(&ask.handler),
            attempts_max: ask.attempts_max.max(1),
            in_flight_max: ask.in_flight_max.max(1),
            timeout: ask.timeout,
        }
    }

    pub(super) fn takes(&self, event: &BusEvent) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == event.kind)
    }
}

struct Member {
    id: TakerId,
    taker: Taker,
    out: usize,
    /// The round in which it was given something last.
    round: u64,
    is_leaving: bool,
}

#[derive(Default)]
pub(super) struct Takers {
    members: Vec<Member>,
    ids: u64,
    rounds: u64,
}

impl Takers {
    pub(super) fn join(&mut self, taker: Taker) -> TakerId {
        self.ids += 1;
        let id = TakerId(self.ids);
        self.members.push(Member { id, taker, out: 0, round: 0, is_leaving: false });
        id
    }

    /// Gives it nothing more.
    pub(super) fn leave(&mut self, id: TakerId) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.is_leaving = true;
        }
    }

    /// Whether it has left and nothing of it is out; it is forgotten then.
    pub(super) fn is_gone(&mut self, id: TakerId) -> bool {
        self.members.retain(|member| member.id != id || !member.is_leaving || member.out > 0);
        self.members.iter().all(|member| member.id != id)
    }

    /// Whether somebody could be given something.
    pub(super) fn has_room(&self) -> bool {
        self.members.iter().any(Member::has_room)
    }

    /// Whether somebody wishes for it, with room for it or not.
    pub(super) fn wish_for(&self, event: &BusEvent) -> bool {
        self.members.iter().any(|member| !member.is_leaving && member.taker.takes(event))
    }

    /// Chooses who takes it: who has least out, and of those who waited longest.
    pub(super) fn choose(&mut self, event: &BusEvent) -> Option<(TakerId, &Taker)> {
        let free = self.members.iter_mut();
        let free = free.filter(|member| member.has_room() && member.taker.takes(event));
        let member = free.min_by_key(|member| (member.out, member.round))?;
        self.rounds += 1;
        member.round = self.rounds;
        member.out += 1;
        Some((member.id, &member.taker))
    }

    /// What it was given is out no more.
    pub(super) fn give_back(&mut self, id: TakerId) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.out -= 1;
        }
    }

    pub(super) fn get(&self, id: TakerId) -> Option<&Taker> {
        self.members.iter().find(|member| member.id == id).map(|member| &member.taker)
    }
}

impl Member {
    fn has_room(&self) -> bool {
        !self.is_leaving && self.out < self.taker.in_flight_max
    }
}
