//! What goes wrong, by the seed: crashes, power failures, stalls, cuts, a bad network, slow disks.
//!
//! Not what it leads to. Invariant: from `CALM_AT` on nothing goes wrong any more, and everybody
//! runs.

use std::time::Duration;

use super::network::Weather;
use super::random::Random;
use super::world::{CALM_AT, Happening, NAMES, World};
use crate::protocol::Machine as _;
use crate::simulated;

/// What is drawn once for a run.
pub(super) struct Climate {
    pub(super) has_consensus: bool,
    weather: Weather,
    /// How long the disk of each node takes, in milliseconds.
    disks: [(u64, u64); 3],
    /// After how many entries a snapshot is made.
    pub(super) threshold: u64,
    /// How many of 1000 acts are the last of their process.
    pub(super) deaths_per_mille: usize,
    /// How many answers of stores of 100 are lost, and hang for long.
    pub(super) loss: usize,
    pub(super) hangs: usize,
}

impl Climate {
    pub(super) fn draw(random: &mut Random) -> Self {
        let mut disk = || [(1, 3), (1, 3), (1, 40), (20, 250)][random.below(4)];
        let disks = [disk(), disk(), disk()];
        Self {
            has_consensus: random.chance(50),
            weather: Weather {
                lost: [0, 5, 40][random.below(3)],
                late: [0, 10, 60][random.below(3)],
            },
            disks,
            threshold: [12, 40, 1_000][random.below(3)],
            deaths_per_mille: [0, 3, 10][random.below(3)],
            loss: [0, 2, 8][random.below(3)],
            hangs: [0, 5, 15][random.below(3)],
        }
    }

    pub(super) fn slowness(&self, is_calm: bool, node: usize) -> (u64, u64) {
        if is_calm { (1, 3) } else { self.disks[node] }
    }
}

impl World {
    pub(super) fn plan_misfortune(&mut self) {
        self.wires.lock().weather = self.climate.weather;
        for node in 0..NAMES.len() {
            self.nodes[node].skew = self.random.millis(0, 600_000);
            let at = self.random.millis(0, 300);
            self.schedule(at, Happening::Starts { node });
            for _ in 0..self.random.below(3) {
                let at = self.random.millis(2_000, 19_000);
                self.schedule(at, Happening::Crashes { node });
            }
        }
        for _ in 0..self.random.below(3) {
            let at = self.random.millis(2_000, 19_000);
            self.schedule(at, Happening::PowerFails);
        }
        for _ in 0..=self.random.below(3) {
            let node = self.random.chance(40).then(|| self.random.below(NAMES.len()));
            let (at, millis) = (self.random.millis(2_000, 16_000), self.random.millis(100, 5_000));
            let millis = u64::try_from(millis.as_millis()).unwrap_or(0);
            let jumps = self.random.chance(50);
            self.schedule(at, Happening::Stalls { node, millis, jumps });
            let node = node.unwrap_or(0);
            self.plan_work_before(node, at);
        }
        for _ in 0..=self.random.below(3) {
            let node = self.random.below(NAMES.len());
            let at = self.random.millis(2_000, 17_000);
            let both_ways = self.random.chance(80);
            self.schedule(at, Happening::Cuts { node, both_ways });
            self.plan_work_before(node, at);
            let heals = at + self.random.millis(200, 6_000);
            self.schedule(heals, Happening::Heals);
        }
        self.schedule(CALM_AT, Happening::Calms);
    }

    /// Something to be in the middle of.
    fn plan_work_before(&mut self, node: usize, at: Duration) {
        for _ in 0..2 {
            let request = self.random.below(self.requests.len());
            let before = self.random.millis(20, 150);
            self.schedule(at.saturating_sub(before), Happening::Request { node, request });
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Request { node, request } => self.begin(node, request),
            Happening::AbortWish { node, request } => self.wish_abort(node, request),
            Happening::ByHand { node, request } => self.abort_by_hand(node, request),
            Happening::Arrives(question) => self.arrives(question),
            Happening::Answered { ref to, ref input } => {
                if !self.waits_for(to.node, &happening) {
                    self.step_if_there(to, input.clone());
                }
            }
            Happening::Time { ref of } => {
                if !self.waits_for(of.node, &happening) {
                    self.time_comes(of);
                }
            }
            Happening::Adopts { node, life } => self.adopts(node, life),
            Happening::Guest { node, number } => self.guest(node, number),
            Happening::GuestLeaves { node, life, wait } => self.guest_leaves(node, life, wait),
            Happening::AsksAgain { of } => self.asks_again(&of),
            Happening::Settles { node, life, wait } => self.settle(node, life, wait),
            Happening::Proposes { node, life, commands } => self.propose(node, life, commands),
            Happening::Looks { node } => self.look(node),
            Happening::Starts { node } => self.start(node),
            Happening::Crashes { node } => self.crash(node),
            Happening::PowerFails => self.power_fails(),
            Happening::Stalls { node, millis, jumps } => self.stall(node, millis, jumps),
            Happening::Cuts { node, both_ways } => self.cut(node, both_ways),
            Happening::Heals => self.heal(),
            Happening::Calms => self.calm(),
        }
    }

    /// The process of a node dies, and what its disk did not have yet is lost.
    pub(super) fn crash(&mut self, node: usize) {
        if self.is_calm() {
            return;
        }
        self.die(node);
        let pause = self.random.millis(50, 4_000);
        self.schedule(pause, Happening::Starts { node });
    }

    fn die(&mut self, node: usize) {
        let place = &mut self.nodes[node];
        let Some(process) = place.process.take() else { return };
        place.life += 1;
        place.stalled = None;
        process.raft.die();
        drop(process);
        let lost = simulated::lose_unsynced(&place.folder.join("log"));
        let lost = lost.expect("the folder is there");
        self.witness.note(&format!("{} dies; {lost} writes are lost", NAMES[node]));
        self.witness.count("deaths");
        if lost > 0 {
            self.witness.count("deaths with lost writes");
        }
    }

    fn power_fails(&mut self) {
        if self.is_calm() {
            return;
        }
        self.witness.note("the power fails");
        let pause = self.random.millis(50, 2_000);
        for node in 0..NAMES.len() {
            self.die(node);
            let at = pause + self.random.millis(0, 500);
            self.schedule(at, Happening::Starts { node });
        }
    }

    /// A process stops for a while, the leader if no other is named.
    fn stall(&mut self, node: Option<usize>, millis: u64, jumps: bool) {
        let leads = |node: &usize| {
            let process = self.nodes[*node].process.as_ref();
            process.is_some_and(|process| process.raft.leads_by().is_some())
        };
        let Some(node) = node.or_else(|| (0..NAMES.len()).find(leads)) else { return };
        if self.nodes[node].process.is_none() || self.nodes[node].stalled.is_some() {
            return;
        }
        let until = self.now + Duration::from_millis(millis);
        self.nodes[node].stalled = Some((self.now, until, jumps));
        self.witness.note(&format!("{} stalls for {millis} ms, jumps: {jumps}", NAMES[node]));
        self.witness.count("stalls");
    }

    /// Cuts a node off from the others; or only what it says, and it goes on hearing.
    fn cut(&mut self, node: usize, both_ways: bool) {
        self.witness.note(&format!("{} is cut off, both ways: {both_ways}", NAMES[node]));
        self.witness.count("cuts");
        let mut net = self.wires.lock();
        for other in NAMES.iter().filter(|other| **other != NAMES[node]) {
            net.cut.insert((NAMES[node].to_owned(), (*other).to_owned()));
            if both_ways {
                net.cut.insert(((*other).to_owned(), NAMES[node].to_owned()));
            }
        }
    }

    fn heal(&mut self) {
        self.wires.lock().cut.clear();
        self.witness.note("the network is whole");
    }

    fn calm(&mut self) {
        self.heal();
        self.wires.lock().weather = Weather::default();
        for node in 0..NAMES.len() {
            if let Some((_, until, _)) = &mut self.nodes[node].stalled {
                *until = self.now.min(*until);
            }
            self.start(node);
        }
    }

    /// Whether a process dies at this very act.
    pub(super) fn dies_now(&mut self, node: usize) -> bool {
        let dies = !self.is_calm() && self.random.below(1_000) < self.climate.deaths_per_mille;
        if dies {
            self.crash(node);
        }
        dies
    }

    /// What is driven, for people.
    pub(super) fn driven_by(&self, node: usize) -> Vec<String> {
        let driven = self.nodes[node].process.iter().flat_map(|process| &process.driven);
        driven
            .map(|(id, held)| {
                let (state, epoch) = (held.machine.state(), held.machine.epoch());
                format!("{} drives {id} in {state:?}, epoch {epoch}", NAMES[node])
            })
            .collect()
    }
}
