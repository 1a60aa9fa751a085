//! The last resource in the simulated world: a store that commits with a row, and its questions.
//!
//! Not the rules. Invariant, unless a bug is planted: for one id the first row stands, and what is
//! committed there and its row are one.

use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Decision};
use unanimity::model::time::Timestamp;
use unanimity::protocol::{Ask, Effect, Input, Machine, Standing};

use super::bugs::Bug;
use super::store::{Kept, Store};
use super::world::{Address, Happening, World};

/// What a last resource is asked.
#[derive(Clone, Debug)]
pub(super) enum RowAsk {
    Decide { read_only: Vec<StoreName> },
    Forbid,
    Read,
}

/// A question on its way to one.
#[derive(Clone, Debug)]
pub(super) struct LastQuestion {
    to: usize,
    life: u64,
    asker: (usize, u64),
    of_use_until: Timestamp,
    from: Address,
    ask: RowAsk,
    /// Whether its asker still waits: a connection may be lost while the question is on its way.
    is_answered: bool,
}

impl Store {
    /// The first row stands.
    fn put_row(&mut self, id: &CoordinationId, row: (Decision, Vec<StoreName>)) -> Standing {
        self.rows.entry(id.clone()).or_insert(row);
        self.standing(id)
    }

    pub(super) fn standing(&self, id: &CoordinationId) -> Standing {
        self.rows.get(id).map_or(Standing::Open, |(decision, read_only)| Standing::Decided {
            decision: *decision,
            read_only: read_only.clone(),
        })
    }

    /// Commits with the row, or rolls back.
    fn decide(&mut self, id: &CoordinationId, read_only: Vec<StoreName>, bug: Option<Bug>) -> bool {
        if self.rows.contains_key(id) {
            return false;
        }
        if bug != Some(Bug::RowNotWritten) {
            self.put_row(id, (Decision::Commit, read_only));
        }
        self.kept.insert(id.clone(), Kept::Committed);
        self.promised.insert(id.clone());
        true
    }

    fn forbid(&mut self, id: &CoordinationId, bug: Option<Bug>) -> Standing {
        let row = (Decision::Abort, Vec::new());
        if bug == Some(Bug::NoRowOfAbort) && !self.rows.contains_key(id) {
            return Standing::Decided { decision: row.0, read_only: row.1 };
        }
        self.put_row(id, row)
    }

    /// Told a decision: its row answers.
    pub(super) fn told_as_last(&mut self, id: &CoordinationId, ask: Ask) -> Acknowledgement {
        let (standing, wanted) = match ask {
            Ask::Commit => (self.standing(id), Decision::Commit),
            _ => (self.forbid(id, None), Decision::Abort),
        };
        match standing {
            Standing::Decided { decision, .. } if decision == wanted => Acknowledgement::Done,
            Standing::Decided { decision, .. } => {
                Acknowledgement::Failed { message: format!("its row says {}", decision.as_str()) }
            }
            _ => Acknowledgement::NeverPrepared,
        }
    }
}

impl World {
    /// The last resource's row of a coordination, if it has one.
    pub(super) fn row_decision(&self, id: &CoordinationId) -> Option<Decision> {
        let rows = self.stores.iter().find_map(|store| store.rows.get(id));
        rows.map(|(decision, _)| *decision)
    }

    /// Takes a proposal or a read to the last resource, if the machine has one.
    pub(super) fn ask_last_resource(&mut self, of: &Address, effect: &Effect) -> bool {
        let driven = &self.nodes[of.node].driven[&of.id];
        let Some((party, until)) = driven.machine.last_resource() else { return false };
        let store = driven.machine.request().stores[party].clone();
        let to = self.stores.iter().position(|known| known.name == store);
        let to = to.expect("requests name only the world's stores");
        let ask = match effect {
            Effect::Propose { decision: Decision::Commit } => {
                RowAsk::Decide { read_only: driven.machine.read_only_stores() }
            }
            Effect::Propose { decision: Decision::Abort } => RowAsk::Forbid,
            _ => RowAsk::Read,
        };
        self.check_locks(of);
        let life = self.stores[to].life;
        let asker = (of.node, self.nodes[of.node].life);
        let from = of.clone();
        let is_answered = !(matches!(ask, RowAsk::Decide { .. }) && self.chance(8));
        let question =
            LastQuestion { to, life, asker, of_use_until: until, from, ask, is_answered };
        let mut delay = self.delay();
        if !is_answered {
            let input = self.mistaken_loss(lost(&question.ask), true);
            let soon = self.delay();
            self.schedule(soon, Happening::Answered { to: of.clone(), input });
            delay += self.random.millis(10, 9_000);
        }
        self.schedule(delay, Happening::LastAsked(question));
        true
    }

    pub(super) fn last_asked(&mut self, question: LastQuestion) {
        let (asker, life) = question.asker;
        if self.stores[question.to].is_inside && self.nodes[asker].life != life {
            return;
        }
        let id = question.from.id.clone();
        let is_decide = matches!(question.ask, RowAsk::Decide { .. });
        if is_decide
            && self.stores[question.to].is_busy_for(&id)
            && self.now < question.of_use_until
        {
            let later = std::time::Duration::from_millis(200);
            return self.schedule(later, Happening::LastAsked(question));
        }
        let refuses = self.chance(10) || self.stores[question.to].is_busy_for(&id);
        let (bug, store) = (self.bug, &mut self.stores[question.to]);
        let is_lost = store.life != question.life;
        let input = match question.ask.clone() {
            _ if is_lost => lost(&question.ask),
            RowAsk::Decide { .. } if refuses => refused(),
            RowAsk::Decide { read_only } => {
                if store.decide(&id, read_only, bug) {
                    Input::Proposed { taken: true }
                } else {
                    refused()
                }
            }
            RowAsk::Forbid => {
                let standing = store.forbid(&id, bug);
                let is_abort =
                    matches!(standing, Standing::Decided { decision: Decision::Abort, .. });
                Input::Proposed { taken: is_abort }
            }
            RowAsk::Read => Input::DecisionRead(store.standing(&id)),
        };
        self.note(|| format!("   s{} {id} {:?}: {input:?}", question.to, question.ask));
        let loss = self.climate.loss.max(5);
        let input = if self.chance(loss) { lost(&question.ask) } else { input };
        let input = self.mistaken_loss(input, is_decide);
        let delay = self.delay();
        if question.is_answered {
            self.schedule(delay, Happening::Answered { to: question.from, input });
        }
    }

    /// What a driver with a mistake makes of a lost answer.
    fn mistaken_loss(&self, input: Input, is_decide: bool) -> Input {
        let is_lost = input == Input::Proposed { taken: false };
        let is_bug = self.bug == Some(Bug::LostDecideIsRefused);
        if is_decide && is_lost && is_bug { refused() } else { input }
    }
}

fn refused() -> Input {
    Input::ProposalRefused { reason: "it rolled back".to_owned() }
}

fn lost(ask: &RowAsk) -> Input {
    match ask {
        RowAsk::Read => Input::DecisionRead(Standing::Unknown),
        _ => Input::Proposed { taken: false },
    }
}
