//! The language of the scenarios of coordinations by steps: sagas and eventual consistency.
//!
//! Commands before `begin`: `steps a b/pivot c/after=a+b` names the operations with their traits:
//! `@s2` the store (else `s`), `/after=` what it depends on, `/pivot`, `/nothing` to undo, `/no`
//! way to undo, `/retries=0`, `/timeout=5s`, `/key=k`; and `strong`, `early` (the level
//! "eventual"), `consensus`, `timeout 30s`.
//! Then: `begin`; `done a "result"` `failed a "why"` `refuses a "why"` `unknown a "why"` answer the
//! try that is out, `late a 1 done` that one; `recorded` `overruled abort` `locked` `refused "why"`
//! `lost "why"` `abort "why"` `resolve commit "why"` `redrive a` `proposed taken|lost`
//! `read commit|abort|open|unknown` `turn 0` `advance 30s` `view` `deadline`; `late-time 1s` is time
//! of which the machine is not told; `crash` loses what was not on disk, `resume` continues from
//! the records that are left.
//!
//! Invariant: nothing that stands behind a record is shown before the record is answered.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::InstanceId;
use unanimity::model::record::{Durability, Reason, Record};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::eventual::{self, Eventual};
use unanimity::protocol::lock_plan::locks_of;
use unanimity::protocol::retry::Backoff;
use unanimity::protocol::saga::{self, Saga};
use unanimity::protocol::{Effect, Input, Machine};

use super::language::{
    Stage, decision_of, duration, shown_durability, shown_outcome, shown_record, split, standing,
    words_of,
};

/// The machine that is played.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Saga,
    Eventual,
}

/// Either machine.
enum Played {
    Saga(Box<Saga>),
    Eventual(Box<Eventual>),
}

impl Played {
    fn machine(&self) -> &dyn Machine {
        match self {
            Self::Saga(machine) => &**machine,
            Self::Eventual(machine) => &**machine,
        }
    }

    fn machine_mut(&mut self) -> &mut dyn Machine {
        match self {
            Self::Saga(machine) => &mut **machine,
            Self::Eventual(machine) => &mut **machine,
        }
    }

    fn state(&self) -> &'static str {
        match self {
            Self::Saga(machine) => machine.state().as_str(),
            Self::Eventual(machine) => machine.state().as_str(),
        }
    }

    fn rules(&self) -> Vec<u8> {
        match self {
            Self::Saga(machine) => machine.rules_taken().map(|rule| rule as u8).collect(),
            Self::Eventual(machine) => machine.rules_taken().map(|rule| rule as u8).collect(),
        }
    }
}

/// One scenario while it runs.
pub(super) struct StepStage {
    kind: Kind,
    now: Timestamp,
    operations: Vec<Value>,
    consensus: bool,
    timeout_seconds: f64,
    consistency: &'static str,
    epoch: u32,
    played: Option<Played>,
    /// For each operation the try that was asked last, once it is carried out.
    out: Vec<(Work, u32)>,
    held: VecDeque<Effect>,
    /// The durability of the record that is not answered yet.
    waits_for: Option<Durability>,
    /// Everything that was handed to the journal, and how many of it are on disk.
    records: Vec<(Timestamp, Record)>,
    durable: usize,
    rules: Vec<u8>,
    output: String,
}

impl StepStage {
    pub(super) fn saga() -> Self {
        Self::new(Kind::Saga)
    }

    pub(super) fn eventual() -> Self {
        Self::new(Kind::Eventual)
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            now: Timestamp(0),
            operations: Vec::new(),
            consensus: false,
            timeout_seconds: 300.0,
            consistency: "session",
            epoch: 0,
            played: None,
            out: Vec::new(),
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
            ["steps", names @ ..] => {
                self.operations = names.iter().map(|name| operation(name, self.kind)).collect();
                self.out = vec![(Work::Execute, 1); names.len()];
                self.say("ready");
            }
            ["consensus"] => {
                self.consensus = true;
                self.say("ready");
            }
            ["strong"] => {
                self.consistency = "strong";
                self.say("ready");
            }
            ["early"] => {
                self.consistency = "eventual";
                self.say("ready");
            }
            ["timeout", time] => {
                self.timeout_seconds = duration(time).as_secs_f64();
                self.say("ready");
            }
            ["begin"] if self.played.is_some() => self.step(Input::Started),
            ["begin"] => match self.build() {
                Ok(played) => {
                    self.played = Some(played);
                    self.step(Input::Started);
                }
                Err(error) => self.say(format!("refused: {error}")),
            },
            ["advance", time] => self.advance(duration(time)),
            ["late-time", time] => self.now = self.now + duration(time),
            ["recorded"] => self.recorded(),
            ["overruled", decision] => {
                assert!(self.waits_for.take().is_some(), "no record waits for an answer");
                self.held.clear();
                self.step(Input::Overruled(decision_of(decision)));
            }
            ["crash"] => self.crash(),
            ["resume"] => self.resume(),
            ["view"] => self.view(),
            ["deadline"] => {
                let at = self.played.as_ref().and_then(|played| played.machine().deadline());
                self.say(
                    at.map_or("none".to_owned(), |at| format!("{:?}", at.since(Timestamp(0)))),
                );
            }
            _ => {
                let input = self.input(words);
                self.step(input);
            }
        }
    }

    fn input(&self, words: &[&str]) -> Input {
        match words {
            ["late", name, attempt, answer, rest @ ..] => Input::StepAnswered {
                step: self.index(name),
                work: Work::Execute,
                attempt: attempt.parse().expect("an attempt is a number"),
                answer: answer_of(answer, rest),
            },
            [answer @ ("done" | "failed" | "refuses" | "unknown"), name, rest @ ..] => {
                let step = self.index(name);
                let (work, attempt) = self.out.get(step).copied().unwrap_or((Work::Execute, 1));
                Input::StepAnswered { step, work, attempt, answer: answer_of(answer, rest) }
            }
            ["redrive", name] => Input::Redriven { step: self.index(name) },
            ["turn", turn] => Input::TurnCame { turn: turn.parse().expect("a turn is a number") },
            ["locked"] => {
                let locks = self.played.as_ref().map_or(0, |it| it.machine().locks().len());
                Input::Locked { tokens: (1..=locks as u64).collect() }
            }
            ["refused", message] => {
                let reason = Reason::new("transaction.aborted.lock_timeout", *message);
                Input::LockRefused { reason }
            }
            ["lost", message] => Input::LockLost { message: (*message).to_owned() },
            ["abort", reason] => Input::AbortRequested { reason: (*reason).to_owned() },
            ["resolve", decision, reason] => {
                let (decision, reason) = (decision_of(decision), (*reason).to_owned());
                Input::Resolved { decision, reason }
            }
            ["proposed", answer] => Input::Proposed { taken: *answer == "taken" },
            ["read", answer, rest @ ..] => Input::DecisionRead(standing(answer, rest)),
            _ => panic!("there is no command {words:?}"),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.output, "{}", line.as_ref());
    }

    fn index(&self, name: &str) -> usize {
        let is_it = |body: &Value| body.get("operation_id").and_then(Value::as_text) == Some(name);
        let found = self.operations.iter().position(is_it);
        // Whoever names a step that is not there gets what the machine says to that.
        found.unwrap_or(99)
    }

    fn name(&self, step: usize) -> String {
        let id = self.operations[step].get("operation_id").and_then(Value::as_text);
        id.expect("every operation of a scenario has an id").to_owned()
    }

    fn request(&self) -> Arc<CoordinationRequest> {
        let mut stores: Vec<String> = Vec::new();
        for body in &self.operations {
            let store = body.get("store").and_then(Value::as_text).unwrap_or_default();
            if !stores.iter().any(|known| known == store) {
                stores.push(store.to_owned());
            }
        }
        if stores.is_empty() {
            stores.push("s".to_owned());
        }
        let kind = match self.kind {
            Kind::Saga => "saga_orchestration",
            Kind::Eventual => "eventual_consistency",
        };
        let request = CoordinationRequest::check(RequestParts {
            id: "c1".into(),
            kind: kind.into(),
            stores,
            operations: self.operations.clone(),
            timeout_seconds: self.timeout_seconds,
            consistency: self.consistency.into(),
            metadata: Value::Map(Vec::new()),
        });
        Arc::new(request.expect("a scenario's request is right"))
    }

    fn saga_plan(&self) -> Result<saga::Plan, saga::CheckError> {
        let request = self.request();
        Ok(saga::Plan {
            steps: saga::check(&request, |_| false)?,
            locks: locks_of(&request).into(),
            request,
            owner: InstanceId::new("n1").expect("it is short"),
            epoch: self.epoch,
            consensus: self.consensus,
            lock_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(10),
            abort_wait: Duration::from_secs(1),
            backoff: backoff(),
        })
    }

    fn eventual_plan(&self) -> Result<eventual::Plan, eventual::CheckError> {
        let request = self.request();
        Ok(eventual::Plan {
            steps: eventual::check(&request)?,
            request,
            owner: InstanceId::new("n1").expect("it is short"),
            epoch: self.epoch,
            step_timeout: Duration::from_secs(10),
            backoff: backoff(),
        })
    }

    fn build(&self) -> Result<Played, String> {
        match self.kind {
            Kind::Saga => {
                let plan = self.saga_plan().map_err(|error| error.to_string())?;
                Ok(Played::Saga(Box::new(Saga::new(plan, self.now))))
            }
            Kind::Eventual => {
                let plan = self.eventual_plan().map_err(|error| error.to_string())?;
                Ok(Played::Eventual(Box::new(Eventual::new(plan, self.now))))
            }
        }
    }

    fn step(&mut self, input: Input) {
        let played = self.played.as_mut().expect("the scenario has begun");
        let before = played.state();
        let result = played.machine_mut().step(self.now, input);
        let (after, rules) = (played.state(), played.rules());
        self.rules.extend(rules);
        match result {
            Ok(effects) => self.held.extend(effects),
            Err(error) => self.say(format!("error: {error}")),
        }
        self.release();
        if before != after {
            self.say(format!("state {after}"));
        }
    }

    /// Shows what no record holds back.
    fn release(&mut self) {
        while self.waits_for.is_none() {
            let Some(effect) = self.held.pop_front() else { return };
            let line = self.shown(&effect);
            self.say(line);
            match effect {
                Effect::Record { record, durability } => {
                    self.records.push((self.now, record));
                    self.waits_for = (durability != Durability::Lazy).then_some(durability);
                }
                Effect::Execute { step, work, attempt, .. } => self.out[step] = (work, attempt),
                _ => {}
            }
        }
    }

    fn recorded(&mut self) {
        assert!(self.waits_for.take().is_some(), "no record waits for an answer");
        self.durable = self.records.len();
        self.release();
    }

    /// Time goes on, and each deadline on the way is served.
    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let deadline = self.played.as_ref().and_then(|played| played.machine().deadline());
            let Some(at) = deadline.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.say(format!("at {:?}", self.now.since(Timestamp(0))));
            self.step(Input::TimeReached);
        }
        self.now = until;
    }

    fn crash(&mut self) {
        self.played = None;
        self.held.clear();
        self.waits_for = None;
        self.records.truncate(self.durable);
        let kinds: Vec<_> = self.records.iter().map(|(_, record)| record.kind()).collect();
        self.say(format!("left on disk: {}", kinds.join(", ")));
    }

    fn resume(&mut self) {
        if self.played.is_none() {
            self.epoch += 1;
            self.played = Some(match self.kind {
                Kind::Saga => {
                    let plan = self.saga_plan().expect("it was checked when it began");
                    Played::Saga(Box::new(Saga::from_records(plan, &self.records)))
                }
                Kind::Eventual => {
                    let plan = self.eventual_plan().expect("it was checked when it began");
                    Played::Eventual(Box::new(Eventual::from_records(plan, &self.records)))
                }
            });
        }
        self.durable = self.records.len();
        self.step(Input::Resumed);
    }

    fn view(&mut self) {
        let view = self.played.as_ref().expect("the scenario has begun").machine().view();
        self.say(shown_outcome(&view.outcome));
        let counts = &view.outcome;
        self.say(format!(
            "{} completed, {} failed",
            counts.operations_completed, counts.operations_failed
        ));
        for step in view.steps {
            let mut line = format!("{}: {}", step.operation_id, step.state.as_str());
            let _ = write!(line, ", {} tries", step.attempts);
            if step.compensation_attempts > 0 {
                let _ = write!(line, ", {} to undo it", step.compensation_attempts);
            }
            if let Some(result) = step.result {
                let _ = write!(line, ", gave {}", result.to_json());
            }
            if let Some(note) = step.note {
                let _ = write!(line, ", {note}");
            }
            self.say(line);
        }
    }

    fn shown(&self, effect: &Effect) -> String {
        match effect {
            Effect::Record { record, durability } => {
                format!("record {} ({})", self.record(record), shown_durability(*durability))
            }
            Effect::Acquire { locks, timeout } => {
                let locks = locks.iter().map(|lock| format!("{} {}", lock.resource, lock.mode));
                let wait = timeout.map_or("for ever".to_owned(), |time| format!("for {time:?}"));
                format!("acquire {}, {wait}", locks.collect::<Vec<_>>().join(", "))
            }
            Effect::Release => "release".to_owned(),
            Effect::Propose { decision } => format!("propose {}", decision.as_str()),
            Effect::ReadDecision => "read decision".to_owned(),
            Effect::Ask { .. } => unreachable!("a coordination by steps does not prepare"),
            Effect::Execute { step, work, attempt, context, timeout } => {
                let mut line = format!("{} {}, try {attempt}", work.as_str(), self.name(*step));
                for (at, (step, result)) in context.iter().enumerate() {
                    let sign = if at == 0 { ", with" } else { "," };
                    let _ = write!(line, "{sign} {}={}", self.name(*step), result.to_json());
                }
                let _ = write!(line, ", of use for {timeout:?}");
                line
            }
            Effect::EnterTurns { turns } => {
                let turns = turns.iter().map(|turn| {
                    format!("{}/{}", turn.store, turn.key.as_deref().unwrap_or_default())
                });
                format!("stand in line for {}", turns.collect::<Vec<_>>().join(", "))
            }
            Effect::LeaveTurn { turn } => format!("leave line {turn}"),
            Effect::AwaitProjections => "await projections".to_owned(),
            Effect::Walk { walk } => format!("walk {walk}"),
            Effect::Answer(outcome) => format!("answer {}", shown_outcome(outcome)),
            Effect::Finish(outcome) => format!("finish {}", shown_outcome(outcome)),
            Effect::Publish(event) => format!("publish {}", event.name()),
            Effect::Alert { message } => format!("alert: {message}"),
            Effect::Close => "close".to_owned(),
        }
    }

    fn record(&self, record: &Record) -> String {
        let name = |step: &u32| self.name(*step as usize);
        match record {
            Record::StepStarted { step, work, attempt } => {
                format!("started {} {}, try {attempt}", work.as_str(), name(step))
            }
            Record::StepDone { step, work, result } => {
                format!("done {} {}: {}", work.as_str(), name(step), result.to_json())
            }
            Record::StepFailed { step, work, message, is_unknown, is_final } => {
                let what = if *is_unknown { "unknown" } else { "failed" };
                let end = if *is_final { ", for good" } else { "" };
                format!("{what} {} {}{end}: {message}", work.as_str(), name(step))
            }
            Record::Parked { step, work, message } => {
                format!("parked {} {}: {message}", work.as_str(), name(step))
            }
            Record::Redriven { step } => format!("redriven {}", name(step)),
            other => shown_record(other),
        }
    }
}

impl Stage for StepStage {
    fn run(&mut self, command: &str) -> String {
        let words = split(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.output.clear();
        self.perform(&words);
        if self.output.is_empty() { "nothing\n".to_owned() } else { self.output.clone() }
    }

    fn rules(&self) -> Vec<u8> {
        self.rules.clone()
    }
}

pub(super) fn backoff() -> Backoff {
    Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(8), seed: 7 }
}

fn answer_of(word: &str, rest: &[&str]) -> StepAnswer {
    let message = words_of(rest);
    match word {
        "done" if rest.is_empty() => StepAnswer::Done { result: Value::Null },
        "done" => StepAnswer::Done { result: Value::Text(message) },
        "failed" => StepAnswer::Failed { message, retryable: true },
        "refuses" => StepAnswer::Failed { message, retryable: false },
        "unknown" => StepAnswer::Unknown { message },
        _ => panic!("there is no answer {word}"),
    }
}

/// `charge@payments/after=reserve/pivot/no`.
fn operation(words: &str, kind: Kind) -> Value {
    let mut traits = words.split('/');
    let name = traits.next().unwrap_or_default();
    let (name, store) = name.split_once('@').unwrap_or((name, "s"));
    let mut fields = vec![
        ("operation_id".to_owned(), Value::from(name)),
        ("store".to_owned(), Value::from(store)),
        ("type".to_owned(), Value::from("do")),
    ];
    let compensation = Value::Map(vec![("type".to_owned(), Value::from("undo"))]);
    let mut undo = Some(compensation).filter(|_| kind == Kind::Saga);
    for word in traits {
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let whole = || Value::Int(value.parse().expect("a whole number"));
        match word {
            "no" => undo = None,
            "nothing" => undo = Some(Value::Null),
            "badly" => undo = Some(Value::Map(Vec::new())),
            "undo" => undo = Some(Value::from(value)),
            "pivot" if value.is_empty() => fields.push(("pivot".to_owned(), Value::Bool(true))),
            "after" => {
                let ids = value.split('+').filter(|id| !id.is_empty()).map(Value::from);
                fields.push(("depends_on".to_owned(), Value::List(ids.collect())));
            }
            "retries" => fields.push(("max_retries".to_owned(), whole())),
            "timeout" => fields.push(("timeout_seconds".to_owned(), whole())),
            other => fields.push((other.to_owned(), Value::from(value))),
        }
    }
    fields.extend(undo.map(|undo| ("compensation".to_owned(), undo)));
    Value::Map(fields)
}
