//! What the cluster tells without being asked: grants, refusals, losses, a state that was replaced.
//!
//! Not the answers to proposals (shared). Invariants: effects are taken in the order of the log;
//! managers of one process share its instance, and each looks at its own waits only.

use std::sync::Weak;

use super::shared::{SESSION_ENDED, Shared};
use crate::cluster::ReplicaEar;
use crate::locks::{LockError, LockId, WaitId};
use crate::protocol::replica::{Effect, Replica};

/// The manager's ear at the cluster.
pub(super) struct Ear(pub(super) Weak<Shared>);

impl ReplicaEar for Ear {
    fn happened(&self, effects: &[Effect]) {
        if let Some(shared) = self.0.upgrade() {
            shared.happened(effects);
        }
    }

    fn replaced(&self, replica: &Replica) {
        if let Some(shared) = self.0.upgrade() {
            shared.replaced(replica);
        }
    }
}

impl Shared {
    fn happened(&self, effects: &[Effect]) {
        let own = self.log.instance();
        let ended = Effect::SessionEnded { instance: own.clone() };
        let is_over = effects.contains(&ended);
        let mut came = Vec::new();
        let mut state = self.lock();
        for (at, effect) in effects.iter().enumerate() {
            match effect {
                Effect::Granted { wait, grants, .. } if self.is_own(*wait) => {
                    came.push((*wait, grants.clone()));
                }
                Effect::Refused { instance, wait, error } if instance == own => {
                    let is_given_up = *error != LockError::Cancelled || !is_over;
                    let error = if is_given_up { error.clone() } else { self.ended() };
                    state.refuse(*wait, error);
                }
                Effect::Lost { instance, lock_id, reason, .. } if instance == own => {
                    state.lose(lock_id, reason);
                }
                Effect::Deadlock(deadlock) => {
                    // Its victim is told by the next effect: its process tells, and no other.
                    let is_ours = matches!(effects.get(at + 1),
                        Some(Effect::Refused { instance, .. }) if instance == own);
                    state.found(deadlock, is_ours);
                }
                _ => {}
            }
        }
        self.tell(state);
        for (wait, grants) in came {
            self.came(wait, grants);
        }
    }

    fn is_own(&self, wait: WaitId) -> bool {
        wait.0 >> 32 == self.own_waits
    }

    /// Effects were missed.
    fn replaced(&self, replica: &Replica) {
        let own = self.log.instance();
        let mut came = Vec::new();
        let mut state = self.lock();
        let gone: Vec<LockId> = state.held.keys().cloned().collect();
        for lock_id in gone.iter().filter(|id| replica.holder_of(id) != Some(own)) {
            state.lose(lock_id, SESSION_ENDED);
        }
        let waiting = state.waits.iter().filter(|(_, wait)| wait.is_waiting);
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            if replica.is_waiting(own, id) {
                continue;
            }
            let grants = replica.grants_of(own, id);
            if grants.is_empty() {
                state.refuse(id, self.ended());
            } else {
                came.push((id, grants));
            }
        }
        drop(state);
        // The state is held by whoever tells of it: nothing is proposed or told before it is free.
        let itself = self.itself.clone();
        self.handle.spawn(async move {
            let Some(shared) = itself.upgrade() else { return };
            shared.tell(shared.lock());
            for (wait, grants) in came {
                shared.came(wait, grants);
            }
        });
    }
}
