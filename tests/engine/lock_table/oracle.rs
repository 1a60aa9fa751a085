//! A lock table as simple as it can be, to judge the real one by. It knows only the rules as they
//! are told to users, finds everything by walking one list, and is slow.
//!
//! It can be given a bug, and then stands in for a table that is wrong: so the judge is judged.
//! Not the choice among several circles of one wait: there it follows the table, and checks that
//! what the table chose is a circle, and the victim its youngest.

use unanimity::model::lock::LockMode;

use super::action::{Action, Bug, Line, Told, Why};

/// One who holds or waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) who: usize,
    pub(super) on: usize,
    pub(super) mode: LockMode,
    pub(super) is_held: bool,
    pub(super) is_upgrade: bool,
    /// When the wait or the lease ends.
    pub(super) until: Option<u64>,
    lease: Option<u64>,
}

impl Claim {
    fn conflicts_with(&self, other: &Self) -> bool {
        use LockMode::{Exclusive, IntentExclusive, Shared};
        let modes = (self.mode, other.mode);
        let is_compatible = !matches!(
            modes,
            (Exclusive, _) | (_, Exclusive) | (Shared, IntentExclusive) | (IntentExclusive, Shared)
        );
        self.on == other.on && self.who != other.who && !is_compatible
    }
}

#[derive(Clone, Default)]
pub(super) struct Oracle {
    /// In the order of each resource: who holds, upgrades that wait, others that wait.
    pub(super) claims: Vec<Claim>,
    pub(super) now: u64,
    pub(super) bug: Option<Bug>,
    /// Who is never a victim. The higher the number of a requester, the younger it is.
    pub(super) protected: Vec<usize>,
}

impl Oracle {
    /// Takes a step; `follow` is what a table said to the same, for the choice among circles.
    pub(super) fn apply(
        &mut self,
        action: &Action,
        follow: Option<&[Told]>,
    ) -> Result<Vec<Told>, String> {
        let mut told = Vec::new();
        if let Action::Advance { by } | Action::Drift { by } = action {
            self.now += by;
        }
        if !matches!(action, Action::Drift { .. }) {
            self.end_what_is_due(&mut told);
        }
        match *action {
            Action::Ask { number, who, on, mode, timeout, lease } => {
                let (until, is_held) = (None, false);
                let is_upgrade = self.holds(who, on).next().is_some();
                let claim = Claim { number, who, on, mode, is_held, is_upgrade, until, lease };
                self.ask(claim, timeout, follow, &mut told)?;
            }
            Action::Release { number } => {
                self.leave(|claim| claim.is_held && claim.number == number);
            }
            Action::ReleaseAll { who } => {
                told.extend(
                    self.waiting_of(who).map(|number| Told::Refused(number, Why::Cancelled)),
                );
                self.leave(|claim| claim.who == who);
            }
            Action::Cancel { number } => {
                let is_it = |claim: &Claim| !claim.is_held && claim.number == number;
                if self.claims.iter().any(is_it) {
                    told.push(Told::Refused(number, Why::Cancelled));
                }
                self.leave(is_it);
                if self.bug == Some(Bug::CancelWakesNobody) {
                    return Ok(told);
                }
            }
            Action::Downgrade { number, mode } => self.downgrade(number, mode),
            Action::Renew { number, lease } => {
                let until = Some(self.now + lease);
                let found = self.claims.iter_mut().find(|it| it.is_held && it.number == number);
                if let Some(claim) = found {
                    claim.until = until;
                }
            }
            Action::Advance { .. } | Action::Drift { .. } => {}
        }
        self.grant_whoever_can(&mut told);
        Ok(told)
    }

    fn holds(&self, who: usize, on: usize) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(move |held| held.is_held && held.who == who && held.on == on)
    }

    fn waiting_of(&self, who: usize) -> impl Iterator<Item = u64> {
        let waiting = self.claims.iter().filter(move |claim| !claim.is_held && claim.who == who);
        waiting.map(|claim| claim.number)
    }

    fn leave(&mut self, goes: impl Fn(&Claim) -> bool) {
        self.claims.retain(|claim| !goes(claim));
    }

    fn downgrade(&mut self, number: u64, mode: LockMode) {
        let found = self.claims.iter().position(|it| it.is_held && it.number == number);
        let is_weaker = |held: LockMode| match mode {
            LockMode::IntentShared => true,
            LockMode::Exclusive => held == LockMode::Exclusive,
            LockMode::Shared | LockMode::IntentExclusive => {
                held == mode || held == LockMode::Exclusive
            }
        };
        if let Some(at) = found.filter(|at| is_weaker(self.claims[*at].mode)) {
            let claim = self.claims.remove(at);
            self.add_holder(Claim { mode, ..claim });
        }
    }

    fn end_what_is_due(&mut self, told: &mut Vec<Told>) {
        let now = self.now;
        let is_due = |claim: &Claim| claim.until.is_some_and(|until| until <= now);
        for claim in self.claims.iter().filter(|claim| is_due(claim)) {
            let why = Told::Refused(claim.number, Why::Timeout);
            told.push(if claim.is_held { Told::Lost(claim.number) } else { why });
        }
        if self.bug == Some(Bug::LeasesNeverEnd) {
            told.retain(|line| !matches!(line, Told::Lost(_)));
            return self.leave(|claim| is_due(claim) && !claim.is_held);
        }
        self.leave(is_due);
        // They are gone together, before anybody is granted anything.
        self.grant_whoever_can(told);
    }

    fn ask(
        &mut self,
        claim: Claim,
        timeout: Option<u64>,
        follow: Option<&[Told]>,
        told: &mut Vec<Told>,
    ) -> Result<(), String> {
        let covers = |held: &Claim| {
            use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
            matches!(
                (held.mode, claim.mode),
                (Exclusive, _)
                    | (Shared, Shared | IntentShared)
                    | (IntentExclusive, IntentExclusive | IntentShared)
                    | (IntentShared, IntentShared)
            )
        };
        let is_covered = self.holds(claim.who, claim.on).any(covers);
        let place = self.place_for(&claim);
        let is_barred = self.claims[..place].iter().any(|other| self.bars(other, &claim));
        if is_covered || !is_barred {
            told.push(Told::Granted(claim.number));
            let who = claim.who;
            self.add_holder(claim);
            // One with several waits at once may close a circle by an upgrade past others.
            return self.open_circles(who, follow, told);
        }
        if timeout == Some(0) {
            told.push(Told::Refused(claim.number, Why::Timeout));
            return Ok(());
        }
        let until = timeout.map(|timeout| self.now + timeout);
        let (who, number) = (claim.who, claim.number);
        self.claims.insert(place, Claim { until, ..claim });
        told.push(Told::Waits(number));
        self.open_circles(who, follow, told)
    }

    /// Where one who waits stands: behind the holders, the upgrades before the others.
    fn place_for(&self, claim: &Claim) -> usize {
        let goes_ahead = claim.is_upgrade && self.bug != Some(Bug::UpgradesQueueUp);
        let is_behind = |other: &Claim| {
            goes_ahead && other.on == claim.on && !other.is_held && !other.is_upgrade
        };
        self.claims.iter().position(is_behind).unwrap_or(self.claims.len())
    }

    /// Whether one that stands ahead is in the way.
    fn bars(&self, ahead: &Claim, claim: &Claim) -> bool {
        match self.bug {
            Some(Bug::ReadersOvertake) if !ahead.is_held => false,
            Some(Bug::IntentsAreIgnored) if ahead.mode == LockMode::IntentExclusive => false,
            _ => claim.conflicts_with(ahead),
        }
    }

    fn add_holder(&mut self, mut claim: Claim) {
        let is_new = !claim.is_held;
        claim.is_held = true;
        claim.until = if is_new { claim.lease.map(|lease| self.now + lease) } else { claim.until };
        let waits_here = |other: &Claim| other.on == claim.on && !other.is_held;
        let place = self.claims.iter().position(waits_here).unwrap_or(self.claims.len());
        self.claims.insert(place, claim);
    }

    fn grant_whoever_can(&mut self, told: &mut Vec<Told>) {
        loop {
            let can = |at: &usize| {
                let claim = &self.claims[*at];
                !claim.is_held && !self.claims[..*at].iter().any(|ahead| self.bars(ahead, claim))
            };
            let Some(at) = (0..self.claims.len()).find(can) else { return };
            let claim = self.claims.remove(at);
            told.push(Told::Granted(claim.number));
            self.add_holder(claim);
        }
    }

    /// For each requester those that it waits for.
    pub(super) fn edges(&self) -> Vec<Line> {
        let mut edges = Vec::new();
        for (at, claim) in self.claims.iter().enumerate().filter(|(_, claim)| !claim.is_held) {
            let ahead = self.claims[..at].iter().filter(|ahead| self.bars(ahead, claim));
            edges.extend(ahead.map(|other| (claim.who, other.who)));
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// Whether somebody waits for itself through others, by walking until nothing new is reached.
    pub(super) fn is_in_circle(&self, who: usize) -> bool {
        let edges = self.edges();
        let mut reached = vec![who];
        let mut at = 0;
        while at < reached.len() {
            let here = reached[at];
            for (_, to) in edges.iter().filter(|(from, _)| *from == here) {
                if *to == who {
                    return true;
                }
                if !reached.contains(to) {
                    reached.push(*to);
                }
            }
            at += 1;
        }
        false
    }

    fn open_circles(
        &mut self,
        asker: usize,
        follow: Option<&[Told]>,
        told: &mut Vec<Told>,
    ) -> Result<(), String> {
        if self.bug == Some(Bug::NobodyLooksForCircles) {
            return Ok(());
        }
        if let Some(follow) = follow {
            let circles = follow.iter().filter_map(|line| match line {
                Told::Circle { number, members } => Some((*number, members)),
                _ => None,
            });
            for (number, members) in circles {
                self.check_circle(number, members)?;
                self.give_way(number, members.clone(), told);
            }
        } else {
            while let Some(members) = self.some_circle(vec![asker]) {
                let Some(number) = self.waits_of_victim(&members) else { return Ok(()) };
                self.give_way(number, members, told);
            }
        }
        Ok(())
    }

    fn give_way(&mut self, number: u64, members: Vec<usize>, told: &mut Vec<Told>) {
        told.push(Told::Circle { number, members });
        told.push(Told::Refused(number, Why::Deadlock));
        self.leave(|claim| !claim.is_held && claim.number == number);
        self.grant_whoever_can(told);
    }

    fn check_circle(&self, number: u64, members: &[usize]) -> Result<(), String> {
        let edges = self.edges();
        for (at, who) in members.iter().enumerate() {
            let next = members[(at + 1) % members.len()];
            if !edges.contains(&(*who, next)) {
                return Err(format!("{who} does not wait for {next} in {members:?}: {edges:?}"));
            }
        }
        let youngest = members.iter().filter(|who| !self.protected.contains(who)).max();
        let waits = self.waiting_of(members[0]).any(|wait| wait == number);
        if youngest != members.first() || !waits {
            return Err(format!("wait {number} had to give way in {members:?}"));
        }
        Ok(())
    }

    /// For a table with a bug: some way from the last back to the first, with a victim on it.
    fn some_circle(&self, way: Vec<usize>) -> Option<Vec<usize>> {
        let last = *way.last()?;
        for (_, to) in self.edges().into_iter().filter(|(from, _)| *from == last) {
            if to == way[0] {
                let members = self.turned(way.clone());
                if self.waits_of_victim(&members).is_some() {
                    return Some(members);
                }
                continue;
            }
            if !way.contains(&to) {
                let found = self.some_circle([way.as_slice(), &[to]].concat());
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn turned(&self, mut members: Vec<usize>) -> Vec<usize> {
        let is_candidate = |who: &&usize| match self.bug {
            Some(Bug::ProtectedGiveWay) => true,
            _ => !self.protected.contains(who),
        };
        let candidates = members.iter().filter(is_candidate);
        let victim = match self.bug {
            Some(Bug::TheOldestGivesWay) => candidates.min(),
            _ => candidates.max(),
        };
        let first = victim.and_then(|victim| members.iter().position(|who| who == victim));
        members.rotate_left(first.unwrap_or(0));
        members
    }

    fn waits_of_victim(&self, members: &[usize]) -> Option<u64> {
        let (victim, next) = (members[0], members[1 % members.len()]);
        if self.protected.contains(&victim) && self.bug != Some(Bug::ProtectedGiveWay) {
            return None;
        }
        let found = self.claims.iter().enumerate().find(|(at, claim)| {
            let is_his = !claim.is_held && claim.who == victim;
            let bars_it = |ahead: &Claim| ahead.who == next && self.bars(ahead, claim);
            is_his && self.claims[..*at].iter().any(bars_it)
        });
        found.map(|(_, claim)| claim.number)
    }
}
