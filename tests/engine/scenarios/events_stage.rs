//! The language of event sourcing's scenarios: commands in, what the machine asked for out.
//!
//! Commands: `stores a b`, `timeout 30s`, `eventual` (before `begin`); `begin` (or `build` alone);
//! `recorded` answers the record that everything else waits behind, `refused s 2 3` answers the
//! begin: stream s was expected at version 2, and is at 3. `projected a`, `advance 30s`,
//! `abort "why"`, `resolve commit "why"`; `crash` loses what was not on disk, `resume` continues
//! from the records that are left.
//!
//! Invariant: nothing that stands behind a record is shown before the record is answered.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use unanimity::model::ids::{InstanceId, StreamId};
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::event_sourcing::{EventSourcing, Plan, Rule};
use unanimity::protocol::{Effect, Input, Machine};

use super::language::{
    Stage, decision_of, duration, shown_durability, shown_outcome, shown_record, split,
};

/// One scenario of event sourcing while it runs.
pub(super) struct EventsStage {
    now: Timestamp,
    stores: Vec<String>,
    timeout_seconds: f64,
    consistency: &'static str,
    epoch: u32,
    machine: Option<EventSourcing>,
    held: VecDeque<Effect>,
    waits_for: Option<Durability>,
    records: Vec<(Timestamp, Record)>,
    durable: usize,
    rules: Vec<Rule>,
    output: String,
}

impl EventsStage {
    pub(super) fn new() -> Self {
        Self {
            now: Timestamp(0),
            stores: Vec::new(),
            timeout_seconds: 300.0,
            consistency: "session",
            epoch: 0,
            machine: None,
            held: VecDeque::new(),
            waits_for: None,
            records: Vec::new(),
            durable: 0,
            rules: Vec::new(),
            output: String::new(),
        }
    }

    fn perform(&mut self, words: &[&str]) {
        match words {
            ["stores", names @ ..] => {
                self.stores = names.iter().map(|name| (*name).to_owned()).collect();
                self.say("ready");
            }
            ["eventual"] => {
                self.consistency = "eventual";
                self.say("ready");
            }
            ["timeout", time] => {
                self.timeout_seconds = duration(time).as_secs_f64();
                self.say("ready");
            }
            ["build"] => self.build(),
            ["begin"] => {
                if self.machine.is_none() {
                    self.build();
                }
                self.step(Input::Started);
            }
            ["recorded"] => self.recorded(),
            ["refused", stream, expected, actual] => {
                assert!(self.waits_for.take().is_some(), "no record waits for an answer");
                self.held.clear();
                self.records.clear();
                self.step(Input::VersionRefused {
                    stream: StreamId::new(stream).expect("it is short"),
                    expected: expected.parse().expect("a version is a number"),
                    actual: actual.parse().expect("a version is a number"),
                });
            }
            ["projected", store] => {
                let found = self.stores.iter().position(|name| name == store);
                self.step(Input::Projected { party: found.unwrap_or(self.stores.len()) });
            }
            ["abort", reason] => self.step(Input::AbortRequested { reason: (*reason).to_owned() }),
            ["resolve", decision, reason] => {
                let (decision, reason) = (decision_of(decision), (*reason).to_owned());
                self.step(Input::Resolved { decision, reason });
            }
            ["advance", time] => self.advance(time),
            ["crash"] => self.crash(),
            ["resume"] => {
                self.epoch += 1;
                self.machine = Some(EventSourcing::from_records(self.plan(), &self.records));
                self.durable = self.records.len();
                self.step(Input::Resumed);
            }
            _ => panic!("there is no command {words:?}"),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.output, "{}", line.as_ref());
    }

    fn plan(&self) -> Plan {
        let operation = Value::Map(vec![
            ("store".into(), self.stores[0].as_str().into()),
            ("type".into(), "happened".into()),
            ("stream".into(), "s".into()),
        ]);
        let request = CoordinationRequest::check(RequestParts {
            id: "c1".into(),
            kind: "event_sourcing".into(),
            stores: self.stores.clone(),
            operations: vec![operation],
            timeout_seconds: self.timeout_seconds,
            consistency: self.consistency.into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the scenario names its stores");
        Plan {
            request: Arc::new(request),
            owner: InstanceId::new("n1").expect("it is short"),
            epoch: self.epoch,
            no_locks: Arc::default(),
        }
    }

    fn build(&mut self) {
        self.machine = Some(EventSourcing::new(self.plan(), self.now));
        self.say("state New");
    }

    fn step(&mut self, input: Input) {
        let machine = self.machine.as_mut().expect("it has begun");
        let before = machine.state();
        let result = machine.step(self.now, input);
        let after = machine.state();
        self.rules.extend(machine.rules_taken());
        match result {
            Ok(effects) => self.held.extend(effects),
            Err(error) => self.say(format!("error: {error}")),
        }
        self.release();
        if before != after {
            self.say(format!("state {}", after.as_str()));
        }
    }

    /// Shows what no record holds back.
    fn release(&mut self) {
        while self.waits_for.is_none() {
            let Some(effect) = self.held.pop_front() else { return };
            self.say(shown(&effect));
            if let Effect::Record { record, durability } = effect {
                self.records.push((self.now, record));
                self.waits_for = (durability != Durability::Lazy).then_some(durability);
            }
        }
    }

    fn recorded(&mut self) {
        assert!(self.waits_for.take().is_some(), "no record waits for an answer");
        self.durable = self.records.len();
        self.release();
    }

    fn advance(&mut self, time: &str) {
        let until = self.now + duration(time);
        while let Some(at) =
            self.machine.as_ref().and_then(Machine::deadline).filter(|at| *at <= until)
        {
            self.now = self.now.max(at);
            self.say(format!("at {:?}", self.now.since(Timestamp(0))));
            self.step(Input::TimeReached);
        }
        self.now = until;
    }

    fn crash(&mut self) {
        self.machine = None;
        self.held.clear();
        self.waits_for = None;
        self.records.truncate(self.durable);
        let kinds: Vec<_> = self.records.iter().map(|(_, record)| record.kind()).collect();
        self.say(format!("left on disk: {}", kinds.join(", ")));
    }
}

fn shown(effect: &Effect) -> String {
    match effect {
        Effect::Record { record, durability } => {
            format!("record {} ({})", shown_record(record), shown_durability(*durability))
        }
        Effect::AwaitProjections => "await projections".to_owned(),
        Effect::Answer(outcome) => format!("answer {}", shown_outcome(outcome)),
        Effect::Finish(outcome) => format!("finish {}", shown_outcome(outcome)),
        Effect::Publish(event) => format!("publish {}", event.name()),
        Effect::Close => "close".to_owned(),
        other => panic!("events have no {other:?}"),
    }
}

impl Stage for EventsStage {
    fn run(&mut self, command: &str) -> String {
        let words = split(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.output.clear();
        self.perform(&words);
        if self.output.is_empty() { "nothing\n".to_owned() } else { self.output.clone() }
    }

    fn rules(&self) -> Vec<u8> {
        self.rules.iter().map(|rule| *rule as u8).collect()
    }
}
