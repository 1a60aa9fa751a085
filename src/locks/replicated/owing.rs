//! What is to be carried out whatever comes, and is proposed until it was: releases, and waits that
//! are given up.
//!
//! Not what is asked for (shared). Invariants: one proposal of these is under way, and what comes
//! meanwhile is in the next; a release is acknowledged when it was carried out, once.

use std::sync::MutexGuard;
use std::time::Instant;

use super::shared::Shared;
use super::state::{Owed, State, Telling};
use super::watch::PAUSE;
use crate::cluster::ClusterError;
use crate::locks::{Grant, LockError};
use crate::protocol::replica::Answer;

impl Shared {
    /// Nobody waits for these any more. The mutex is free when the state is looked at: whoever
    /// tells of a new state holds that one, and wants the mutex.
    pub(super) fn give_back<'s>(&'s self, state: MutexGuard<'s, State>, grants: &[Grant]) {
        self.tell(state);
        if grants.is_empty() {
            return;
        }
        let mut owed = Vec::new();
        self.log.glance(&mut |replica| {
            for grant in grants {
                if let Some(requester) = replica.requester_of(&grant.lock_id) {
                    owed.push(Owed::release(grant.lock_id.clone(), requester.clone(), None));
                }
            }
        });
        self.owe(owed);
    }

    pub(super) fn owe(&self, owed: Vec<Owed>) {
        self.lock().owed.extend(owed);
        self.pay();
    }

    /// Proposes what is owed, unless that is under way; it is tried again until it is carried out.
    pub(super) fn pay(&self) {
        let mut state = self.lock();
        if state.is_paying || state.owed.is_empty() {
            return;
        }
        state.is_paying = true;
        state.pay_at = None;
        let owed = std::mem::take(&mut state.owed);
        drop(state);
        let commands = owed.iter().map(Owed::command).collect();
        let itself = self.itself.clone();
        self.put_raw(commands, move |answers, _| {
            let Some(shared) = itself.upgrade() else { return };
            shared.paid(owed, answers);
        });
    }

    fn paid(&self, owed: Vec<Owed>, answers: Result<Vec<Answer>, ClusterError>) {
        // An ask whose answer was lost is carried out in front of its giving up, or never.
        let mut late = Vec::new();
        if answers.is_ok() {
            self.log.glance(&mut |replica| {
                let waits = owed.iter().filter_map(Owed::wait);
                late = waits.flat_map(|it| replica.grants_of(self.log.instance(), it)).collect();
            });
        }
        let mut state = self.lock();
        late.retain(|grant| !state.held.contains_key(&grant.lock_id));
        state.is_paying = false;
        match answers {
            Ok(answers) => {
                for (owed, answer) in owed.into_iter().zip(answers) {
                    if let Some(lock_id) = owed.lock_id() {
                        state.held.remove(lock_id);
                    }
                    let is_done = answer == Answer::Yes || owed.is_doubtful;
                    if let Some(reply) = owed.reply {
                        state.tellings.push_back(Telling::Released(reply, Ok(is_done)));
                    }
                }
            }
            Err(ClusterError::Closed | ClusterError::Stopped { .. }) => {
                for reply in owed.into_iter().filter_map(|owed| owed.reply) {
                    state.tellings.push_back(Telling::Released(reply, Err(LockError::Closed)));
                }
            }
            Err(error) => {
                let is_doubtful = matches!(error, ClusterError::Unknown { .. });
                let again = owed.into_iter().map(|mut owed| {
                    owed.is_doubtful |= is_doubtful;
                    owed
                });
                let later = std::mem::take(&mut state.owed);
                state.owed = again.chain(later).collect();
                state.pay_at = Some(Instant::now() + PAUSE);
            }
        }
        let is_due = !state.owed.is_empty() && state.pay_at.is_none();
        self.give_back(state, &late);
        if is_due {
            self.pay();
        }
        self.alarm.notify_one();
    }
}
