//! What is done to a lock table and what it says, with numbers for names; and the real table
//! behind that.
//!
//! Invariant held here: tokens grow with every grant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use unanimity::model::lock::{
    Deadlock, Grant, LockError, LockId, LockMode, RequesterId, ResourceId, WaitId,
};
use unanimity::model::time::Timestamp;
use unanimity::protocol::lock_table::{Answer, Ask, Effect, LockTable};

use super::oracle::Oracle;

/// One step. Times are in milliseconds; a claim has the number of its ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Ask {
        number: u64,
        who: usize,
        on: usize,
        mode: LockMode,
        timeout: Option<u64>,
        lease: Option<u64>,
    },
    Release {
        number: u64,
    },
    ReleaseAll {
        who: usize,
    },
    Cancel {
        number: u64,
    },
    Downgrade {
        number: u64,
        mode: LockMode,
    },
    Renew {
        number: u64,
        lease: u64,
    },
    /// Time goes on, and the table is told.
    Advance {
        by: u64,
    },
    /// Time goes on, and the table hears of it by the next step only.
    Drift {
        by: u64,
    },
}

/// One thing that is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    Granted(u64),
    Waits(u64),
    Refused(u64, Why),
    Lost(u64),
    Circle { number: u64, members: Vec<usize> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Timeout,
    Cancelled,
    Deadlock,
}

/// Who waits for whom.
pub(super) type Line = (usize, usize);

/// What can be wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    ReadersOvertake,
    IntentsAreIgnored,
    CancelWakesNobody,
    UpgradesQueueUp,
    LeasesNeverEnd,
    NobodyLooksForCircles,
    TheOldestGivesWay,
    ProtectedGiveWay,
}

pub(super) const BUGS: [Bug; 8] = [
    Bug::ReadersOvertake,
    Bug::IntentsAreIgnored,
    Bug::CancelWakesNobody,
    Bug::UpgradesQueueUp,
    Bug::LeasesNeverEnd,
    Bug::NobodyLooksForCircles,
    Bug::TheOldestGivesWay,
    Bug::ProtectedGiveWay,
];

/// Who holds (true) and who waits, in the order of each resource.
pub(super) type Seen = Vec<(usize, usize, LockMode, bool)>;

/// Something that claims to be a lock table.
pub(super) trait Subject {
    fn apply(&mut self, action: &Action) -> Vec<Told>;
    fn seen(&self) -> Seen;
    fn edges(&self) -> Vec<Line>;
}

impl Subject for Oracle {
    fn apply(&mut self, action: &Action) -> Vec<Told> {
        self.apply(action, None).expect("what it chooses itself it does not doubt")
    }

    fn seen(&self) -> Seen {
        let mut seen: Seen =
            self.claims.iter().map(|it| (it.on, it.who, it.mode, it.is_held)).collect();
        seen.sort_by_key(|(on, ..)| *on);
        seen
    }

    fn edges(&self) -> Vec<Line> {
        self.edges()
    }
}

/// The real table.
#[derive(Clone)]
pub(super) struct Real {
    pub(super) table: LockTable,
    now: Timestamp,
    locks: BTreeMap<u64, (LockId, usize)>,
    last_token: u64,
    /// Those of the step.
    tokens: BTreeSet<u64>,
    protected: Vec<usize>,
}

impl Real {
    pub(super) fn new(protected: Vec<usize>) -> Self {
        let (now, locks) = (Timestamp(0), BTreeMap::new());
        let (table, tokens) = (LockTable::new(1_000, 1), BTreeSet::new());
        Self { table, now, locks, last_token: 0, tokens, protected }
    }

    /// Whether the table calls something in use that nobody holds or waits for.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.table.waiting() == 0 && self.table.deadline().is_none()
    }

    /// Forgets the ids of claims that are gone.
    pub(super) fn forget_all_but(&mut self, living: impl Fn(u64) -> bool) {
        self.locks.retain(|number, _| living(*number));
    }

    fn keep(&mut self, number: u64, who: usize, grant: Grant) -> Told {
        // One step may grant before and after its own answer, so the order counts between steps.
        assert!(grant.fencing_token > self.last_token, "a token does not grow");
        assert!(self.tokens.insert(grant.fencing_token), "a token came twice");
        self.locks.insert(number, (grant.lock_id, who));
        Told::Granted(number)
    }

    fn ask(&mut self, action: &Action, effects: &mut Vec<Effect>) -> Option<Answer> {
        let Action::Ask { number, who, on, mode, timeout, lease } = *action else { return None };
        let (resource, requester) = (resource(on), requester(who));
        let ask = Ask {
            resource: &resource,
            mode,
            requester: &requester,
            timeout: timeout.map(Duration::from_millis),
            lease: lease.map(Duration::from_millis),
            working_since: Timestamp(i64::try_from(who).expect("is small")),
            is_protected: self.protected.contains(&who),
        };
        // The number must be known with its requester when the answer comes later.
        self.locks.insert(number, (LockId::from_text("none yet"), who));
        Some(self.table.ask(self.now, WaitId(number), &ask, effects))
    }

    fn answered(&mut self, number: u64, answer: Answer) -> Told {
        match answer {
            Answer::Granted(grant) => self.keep(number, self.locks[&number].1, grant),
            Answer::Refused(error) => Told::Refused(number, why(&error)),
            Answer::Waits => Told::Waits(number),
        }
    }

    fn told(&mut self, effect: Effect, next: Option<&Effect>) -> Told {
        match effect {
            Effect::Granted { wait, grant } => {
                let who = self.locks[&wait.0].1;
                self.keep(wait.0, who, grant)
            }
            Effect::Refused { wait, error } => Told::Refused(wait.0, why(&error)),
            Effect::Lost { lock_id, .. } => {
                let found = self.locks.iter().find(|(_, (id, _))| *id == lock_id);
                Told::Lost(*found.expect("what is lost was granted").0)
            }
            Effect::Deadlock(Deadlock { cycle, .. }) => {
                let Some(Effect::Refused { wait, .. }) = next else {
                    panic!("the victim is told next");
                };
                Told::Circle { number: wait.0, members: cycle.iter().map(number_of).collect() }
            }
        }
    }
}

impl Subject for Real {
    fn apply(&mut self, action: &Action) -> Vec<Told> {
        let mut effects = Vec::new();
        let held = |number: u64| {
            let (id, who) = self.locks.get(&number).cloned().unwrap_or((LockId::from_text("?"), 0));
            (id, requester(who))
        };
        let now = self.now;
        let mut first = None;
        match *action {
            Action::Ask { .. } => first = self.ask(action, &mut effects),
            Action::Release { number } => {
                let (id, who) = held(number);
                self.table.release(now, &id, &who, &mut effects);
            }
            Action::ReleaseAll { who } => {
                self.table.release_all(now, &requester(who), &mut effects);
            }
            Action::Cancel { number } => {
                self.table.cancel(now, WaitId(number), &mut effects);
            }
            Action::Downgrade { number, mode } => {
                let (id, who) = held(number);
                let grant = self.table.downgrade(now, (&id, &who), mode, &mut effects);
                if let Some(grant) = grant {
                    self.keep(number, number_of(&who), grant);
                }
            }
            Action::Renew { number, lease } => {
                let id = held(number).0;
                self.table.renew(now, &id, Duration::from_millis(lease), &mut effects);
            }
            Action::Advance { by } => {
                self.now = self.now + Duration::from_millis(by);
                self.table.time_reached(self.now, &mut effects);
            }
            Action::Drift { by } => self.now = self.now + Duration::from_millis(by),
        }
        let all = effects.clone();
        let mut told: Vec<Told> = Vec::new();
        for (at, effect) in effects.into_iter().enumerate() {
            told.push(self.told(effect, all.get(at + 1)));
        }
        // What was due at this time was granted before, with earlier tokens.
        if let (Some(answer), Action::Ask { number, .. }) = (first, action) {
            told.push(self.answered(*number, answer));
        }
        self.last_token = self.tokens.pop_last().unwrap_or(self.last_token);
        self.tokens.clear();
        told
    }

    fn seen(&self) -> Seen {
        let infos = self.table.status(None).into_iter().map(|info| {
            let on = info.resource.as_str()[1..].parse().expect("a number");
            (on, number_of(&info.requester), info.mode, info.lock_id.is_some())
        });
        infos.collect()
    }

    fn edges(&self) -> Vec<Line> {
        let graph = self.table.wait_for_graph();
        let lines = graph.iter().flat_map(|(waiter, blockers)| {
            blockers.iter().map(|blocker| (number_of(waiter), number_of(blocker)))
        });
        let mut lines: Vec<Line> = lines.collect();
        lines.sort_unstable();
        lines
    }
}

fn why(error: &LockError) -> Why {
    match error {
        LockError::Timeout { blockers, .. } => {
            assert!(blockers.contains('\''), "somebody is named: {blockers:?}");
            Why::Timeout
        }
        LockError::Cancelled => Why::Cancelled,
        LockError::Deadlock(_) => Why::Deadlock,
        other => panic!("{other}"),
    }
}

pub(super) fn resource(number: usize) -> ResourceId {
    // Names stand in the order of the numbers.
    ResourceId::new(&format!("r{number:03}")).expect("a short name")
}

pub(super) fn requester(number: usize) -> RequesterId {
    RequesterId::new(&format!("q{number}")).expect("a short name")
}

fn number_of(requester: &RequesterId) -> usize {
    requester.as_str()[1..].parse().expect("a number")
}
