//! What every simulated process does with a machine, as `unanimity::protocol` tells a caller to.
//!
//! Not what it does with an effect: that is the world's. Invariants: what stands behind a record is
//! carried out when the record is answered, and not before; a process may die before and after
//! each act; time is told at or after the deadline.

use std::collections::VecDeque;
use std::time::Duration;

use unanimity::model::time::Timestamp;
use unanimity::protocol::{Effect, Input, Machine};

/// A machine with what it holds back.
pub(crate) struct Held<M> {
    pub(crate) machine: M,
    pub(crate) effects: VecDeque<Effect>,
    /// A record of it is not answered yet.
    pub(crate) waits_for_record: bool,
    pub(crate) run: u64,
    timer_at: Option<Timestamp>,
}

impl<M> Held<M> {
    pub(crate) fn new(machine: M, run: u64) -> Self {
        let effects = VecDeque::new();
        Self { machine, effects, waits_for_record: false, run, timer_at: None }
    }
}

/// A mistake that a driver may make, planted to see that it is caught.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriverBug {
    /// Effects do not wait behind their record.
    CutIgnored,
    /// Nobody tells a machine the time.
    TimeStandsStill,
}

/// A world whose processes drive machines.
pub(crate) trait Driving {
    /// Which run of which coordination at which process.
    type Address: Clone;
    type Machine;

    fn machine(held: &mut Held<Self::Machine>) -> &mut dyn Machine;
    fn held(&mut self, of: &Self::Address) -> Option<&mut Held<Self::Machine>>;
    fn time(&self) -> Timestamp;
    fn has_bug(&self, bug: DriverBug) -> bool;
    fn note_of(&mut self, of: &Self::Address, text: &str);
    fn break_with(&mut self, invariant: String);
    /// Whether the process dies at this moment; then it is gone.
    fn is_struck(&mut self, of: &Self::Address) -> bool;
    fn carry_out(&mut self, of: &Self::Address, effect: Effect);
    fn plan_time(&mut self, of: Self::Address, delay: Duration);

    fn step(&mut self, of: &Self::Address, input: Input) {
        let now = self.time();
        let Some(held) = self.held(of) else { return };
        let told = format!("{input:?}");
        let result = Self::machine(held).step(now, input);
        self.note_of(of, &told);
        match result {
            Ok(effects) => {
                if let Some(held) = self.held(of) {
                    held.effects.extend(effects);
                }
            }
            Err(error) => {
                return self.break_with(format!("a legal input is an error: {told}: {error}"));
            }
        }
        self.release(of);
        self.plan_timer(of);
    }

    /// Carries out what no record holds back.
    fn release(&mut self, of: &Self::Address) {
        let cut_ignored = self.has_bug(DriverBug::CutIgnored);
        loop {
            let Some(held) = self.held(of) else { return };
            if held.waits_for_record && !cut_ignored {
                return;
            }
            let Some(effect) = held.effects.pop_front() else { return };
            if self.is_struck(of) {
                return;
            }
            self.carry_out(of, effect);
            if self.is_struck(of) {
                return;
            }
        }
    }

    fn plan_timer(&mut self, of: &Self::Address) {
        let now = self.time();
        if self.has_bug(DriverBug::TimeStandsStill) {
            return;
        }
        let Some(held) = self.held(of) else { return };
        let Some(deadline) = Self::machine(held).deadline() else { return };
        if held.timer_at.is_none_or(|at| deadline < at || at < now) {
            held.timer_at = Some(deadline);
            self.plan_time(of.clone(), deadline.since(now));
        }
    }

    fn time_reached(&mut self, of: &Self::Address) {
        let now = self.time();
        let Some(held) = self.held(of) else { return };
        held.timer_at = None;
        if Self::machine(held).deadline().is_none_or(|deadline| deadline > now) {
            return self.plan_timer(of);
        }
        self.step(of, Input::TimeReached);
        let deadline = self.held(of).and_then(|held| Self::machine(held).deadline());
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.break_with("a deadline that was served stays in the past".to_owned());
        }
    }
}
