//! The task that hands events to one store.
//!
//! Not who waits for it (this folder's `mod.rs`). Invariants: the position that is written is never
//! ahead of what the store acknowledged, so that after a crash an event may come twice and none is
//! left out; what is done under a generation that is over is not written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::crash;
use crate::journal::streams::{ParkedProjection, Projection, Streams};
use crate::journal::{Journal, JournalError};
use crate::model::ids::StoreName;
use crate::model::outcome::Acknowledgement;
use crate::model::stream::StreamEvent;
use crate::observe::{Alert, Severity};
use crate::participants::{EventAsk, Participant};
use crate::protocol::retry::Backoff;
use crate::reply::asked;

use super::super::core::Core;
use super::parked::PREFIX;
use super::{News, POLL, Signals};

/// How many events are read, and handed over, before the position is written.
const PAGE: usize = 256;
/// How often a projection that another process runs is tried to be claimed.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);

/// How handing over one event ended.
enum Applied {
    Done,
    Parked {
        attempts: u32,
        message: String,
    },
    /// The engine ends.
    Ended,
}

/// The task's state.
pub(super) struct Projector {
    core: Weak<Core>,
    signals: Arc<Signals>,
    journal: Arc<dyn Journal>,
    store: StoreName,
    participant: Arc<dyn Participant>,
    timeout: Duration,
    attempts_max: u32,
    backoff: Backoff,
    /// The projection while this process runs it, as far as the store has acknowledged.
    owned: Option<Projection>,
    /// The position that was written last.
    written: u64,
    claim_at: Instant,
}

impl Projector {
    pub(super) fn new(
        core: &Arc<Core>,
        store: StoreName,
        participant: Arc<dyn Participant>,
    ) -> Self {
        let options = &core.ports.options;
        Self {
            core: Arc::downgrade(core),
            signals: Arc::clone(&core.signals),
            journal: Arc::clone(&core.ports.journal),
            store,
            participant,
            timeout: options.commit_timeout,
            attempts_max: options.projection_attempts_max.max(1),
            backoff: options.backoff(0),
            owned: None,
            written: 0,
            claim_at: Instant::now(),
        }
    }

    /// Hands events over until the engine ends.
    pub(super) async fn run(mut self) {
        loop {
            let signals = Arc::clone(&self.signals);
            let woken = signals.appended.notified();
            tokio::pin!(woken);
            // From here on no signal is missed, also not while the journal is asked.
            woken.as_mut().enable();
            if !self.goes_on() {
                return;
            }
            match self.round().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(JournalError::Closed) => return,
                Err(error) => {
                    tracing::warn!(store = %self.store, %error, "its projection waits");
                }
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    fn goes_on(&self) -> bool {
        self.core.upgrade().is_some_and(|core| !core.closed.load(Ordering::SeqCst))
    }

    fn streams(&self) -> Result<&dyn Streams, JournalError> {
        self.journal.streams().ok_or(JournalError::Closed)
    }

    /// Sees who runs it, and does the next events. True when there may be more at once.
    async fn round(&mut self) -> Result<bool, JournalError> {
        let rows = asked(|reply| match self.streams() {
            Ok(streams) => streams.projections(reply),
            Err(error) => reply.send(Err(error)),
        });
        let row = rows.await?.into_iter().find(|row| row.store == self.store);
        if !self.is_owner(row).await? {
            return Ok(false);
        }
        let Some(own) = &self.owned else { return Ok(false) };
        if own.parked.is_some() {
            return Ok(false);
        }
        let streams = self.streams()?;
        let events = asked(|reply| streams.read_all(own.position, PAGE, reply)).await?;
        let is_full = events.len() == PAGE;
        self.hand_over(events).await?;
        Ok(is_full)
    }

    /// Follows what the journal says of the projection; claims it where it may.
    async fn is_owner(&mut self, row: Option<Projection>) -> Result<bool, JournalError> {
        let own = self.journal.instance();
        match row {
            Some(row) if row.owner.as_ref() == Some(own) => {
                let is_same = self.owned.as_ref().is_some_and(|owned| {
                    owned.generation == row.generation && owned.parked == row.parked
                });
                if !is_same {
                    self.take(row);
                }
                return Ok(true);
            }
            Some(row) => {
                self.owned = None;
                self.signals.note_parked(&self.store, false);
                Core::tell(&self.core, News::At { store: row.store, position: row.position });
            }
            None => {}
        }
        if Instant::now() < self.claim_at {
            return Ok(false);
        }
        self.claim_at = Instant::now() + CLAIM_INTERVAL;
        let (streams, store) = (self.streams()?, self.store.clone());
        let claimed = asked(|reply| streams.claim_projection(store, reply)).await?;
        let is_owner = claimed.is_some();
        if let Some(row) = claimed {
            tracing::info!(store = %row.store, position = row.position, "its projection runs here");
            self.take(row);
        }
        Ok(is_owner)
    }

    fn take(&mut self, row: Projection) {
        self.signals.note_parked(&self.store, row.parked.is_some());
        self.written = row.position;
        self.moved(&row);
        self.owned = Some(row);
    }

    fn moved(&self, at: &Projection) {
        Core::tell(&self.core, News::At { store: at.store.clone(), position: at.position });
        self.signals.moved.notify_waiters();
    }

    async fn hand_over(&mut self, events: Vec<StreamEvent>) -> Result<(), JournalError> {
        for event in events {
            let event = Arc::new(event);
            let applied = self.apply(&event).await;
            let Some(own) = &mut self.owned else { return Ok(()) };
            match applied {
                Applied::Ended => return Err(JournalError::Closed),
                Applied::Done => {
                    own.position = event.position;
                    self.owned.iter().for_each(|own| self.moved(own));
                }
                Applied::Parked { attempts, message } => {
                    self.park(&event, attempts, message);
                    break;
                }
            }
        }
        self.write().await
    }

    /// Writes how far it is. A projection that was restarted meanwhile, or taken over, is looked
    /// at anew.
    async fn write(&mut self) -> Result<(), JournalError> {
        let Some(own) = self.owned.clone() else { return Ok(()) };
        if own.position == self.written && own.parked.is_none() {
            return Ok(());
        }
        let position = own.position;
        let streams = self.streams()?;
        let stands = asked(|reply| streams.advance_projection(own, reply)).await;
        crash::point("projection_written", self.store.as_str());
        match stands {
            Ok(true) => self.written = position,
            // Whatever stands is read again; what was not written is handed over again.
            Ok(false) | Err(_) => self.owned = None,
        }
        stands.map(drop)
    }

    fn park(&mut self, event: &StreamEvent, attempts: u32, words: String) {
        let store = &self.store;
        let message = format!(
            "the projection of store '{store}' is parked at event {} (version {} of stream '{}'): \
             its {attempts} tries are spent: {words}; mend the cause, then redrive \
             '{PREFIX}{store}'",
            event.position, event.version, event.stream,
        );
        tracing::error!(
            coordination = %event.coordination,
            %store,
            trouble = message,
            "manual intervention required"
        );
        let Some(core) = self.core.upgrade() else { return };
        if let Some(alerting) = &core.ports.alerting {
            alerting.raise(Alert {
                severity: Severity::High,
                title: "Manual intervention required".to_owned(),
                message,
                coordination: event.coordination.clone(),
            });
        }
        if let Some(own) = &mut self.owned {
            self.signals.note_parked(&self.store, true);
            own.parked = Some(ParkedProjection {
                position: event.position,
                coordination: event.coordination.clone(),
                kind: event.kind.clone(),
                attempts,
                message: words,
                at: core.clock.now(),
            });
        }
    }

    /// Hands one event over until the store has it, or its tries are spent.
    async fn apply(&self, event: &Arc<StreamEvent>) -> Applied {
        let mut attempt = 0;
        loop {
            if !self.goes_on() {
                return Applied::Ended;
            }
            attempt += 1;
            let message = match self.ask(event, attempt).await {
                Acknowledgement::Done => return Applied::Done,
                Acknowledgement::Failed { message } => {
                    return Applied::Parked { attempts: attempt, message };
                }
                Acknowledgement::Unknown { message } => message,
                Acknowledgement::NeverPrepared => "it knows nothing of it".to_owned(),
            };
            if !self.goes_on() {
                return Applied::Ended;
            }
            if attempt >= self.attempts_max {
                return Applied::Parked { attempts: attempt, message };
            }
            tokio::time::sleep(self.backoff.delay(attempt - 1)).await;
        }
    }

    async fn ask(&self, event: &Arc<StreamEvent>, attempt: u32) -> Acknowledgement {
        crash::point("before_apply", self.store.as_str());
        let ask = EventAsk {
            event: Arc::clone(event),
            store: self.store.clone(),
            attempt,
            timeout: self.timeout,
        };
        let asked_at = self.core.upgrade().and_then(|core| core.watch_event());
        let question = asked(|reply| self.participant.apply_event(ask, reply));
        let answer = tokio::time::timeout(self.timeout, question).await;
        crash::point("after_apply", self.store.as_str());
        let answer = answer.unwrap_or_else(|_| Acknowledgement::Unknown {
            message: format!("it gave no answer within {:?}", self.timeout),
        });
        if let (Some(asked_at), Some(core)) = (asked_at, self.core.upgrade()) {
            core.observe_event(event, &self.store, attempt, asked_at, &answer);
        }
        answer
    }
}
