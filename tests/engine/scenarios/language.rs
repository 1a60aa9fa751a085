//! The language of two-phase commit's scenarios: commands in, what the machine asked for out, as
//! text.
//!
//! Commands: `stores a b/lists c/single` `consensus` `timeout 30s` `eventual`, and `strong a/k
//! b/k/read a` for operations under locks (before `begin`);
//! `begin` (or `build` alone) `vote a commit|read_only|abort|unknown "why"`
//! `ack a done|failed|unknown|never_prepared "why"` `advance 30s` `abort "why"`
//! `locked` `refused "why"` `lost "why"` `resolve commit "why"` `proposed taken|lost`
//! `last a` makes a store the last resource (before `begin`), `refused_last "why"` is its word that
//! it rolled back; `read commit|abort|open|unknown [read_only a b]`; `recorded` and `overruled
//! commit` answer the record that everything else waits behind; `crash` loses what was not on disk,
//! `crash later` only what the journal had not accepted; `resume` continues from the records left.
//!
//! Invariant: nothing that stands behind a record is shown before the record is answered.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{InstanceId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Decision, Outcome, Receipt, Vote};
use unanimity::model::record::{Durability, Reason, Record};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::lock_plan::locks_of;
use unanimity::protocol::retry::Backoff;
use unanimity::protocol::two_phase::{PartyPlan, Plan, Rule, TwoPhase};
use unanimity::protocol::{Effect, Input, Machine, Standing};

/// One scenario while it runs.
pub(super) trait Stage {
    /// Runs one command; gives back what is to be seen.
    fn run(&mut self, command: &str) -> String;

    /// The numbers of the rules that were taken.
    fn rules(&self) -> Vec<u8>;
}

/// One scenario of two-phase commit while it runs.
pub(super) struct TwoPhaseStage {
    now: Timestamp,
    parties: Vec<PartyPlan>,
    consensus: bool,
    last: Option<StoreName>,
    timeout_seconds: f64,
    consistency: &'static str,
    operations: Vec<Value>,
    epoch: u32,
    machine: Option<TwoPhase>,
    held: VecDeque<Effect>,
    /// The durability of the record that is not answered yet.
    waits_for: Option<Durability>,
    /// Everything that was handed to the journal, and how many of it are certain and on disk.
    records: Vec<(Timestamp, Record)>,
    accepted: usize,
    durable: usize,
    rules: Vec<Rule>,
    output: String,
}

impl TwoPhaseStage {
    pub(super) fn new() -> Self {
        Self {
            now: Timestamp(0),
            parties: Vec::new(),
            consensus: false,
            last: None,
            timeout_seconds: 300.0,
            consistency: "session",
            operations: Vec::new(),
            epoch: 0,
            machine: None,
            held: VecDeque::new(),
            waits_for: None,
            records: Vec::new(),
            accepted: 0,
            durable: 0,
            rules: Vec::new(),
            output: String::new(),
        }
    }

    /// What is said before the begin; false where it is no such command.
    fn set_up(&mut self, words: &[&str]) -> bool {
        match words {
            ["stores", names @ ..] => {
                self.parties = names.iter().map(|name| party_plan(name)).collect();
            }
            ["consensus"] => {
                self.consensus = true;
            }
            ["last", store] => {
                self.last = Some(StoreName::new(store).expect("a short name"));
            }
            ["eventual"] => {
                self.consistency = "eventual";
            }
            ["strong", operations @ ..] => {
                self.consistency = "strong";
                self.operations = operations.iter().map(|words| operation(words)).collect();
            }
            ["timeout", time] => {
                self.timeout_seconds = duration(time).as_secs_f64();
            }
            _ => return false,
        }
        self.say("ready");
        true
    }

    fn perform(&mut self, words: &[&str]) {
        if self.set_up(words) {
            return;
        }
        match words {
            ["build"] => self.build(),
            ["begin"] => {
                if self.machine.is_none() {
                    self.build();
                }
                self.step(Input::Started);
            }
            ["vote", store, vote @ ..] => {
                let (party, vote) = (self.party(store), vote_of(vote));
                self.step(Input::Voted { party, vote });
            }
            ["ack", store, answer @ ..] => {
                let (party, answer) = (self.party(store), answer_of(answer));
                self.step(Input::Acknowledged { party, answer });
            }
            ["locked"] => {
                let locks = self.machine.as_ref().map_or(0, |machine| machine.locks().len());
                self.step(Input::Locked { tokens: (1..=locks as u64).collect() });
            }
            ["refused", message] => {
                let reason = Reason::new("transaction.aborted.lock_timeout", *message);
                self.step(Input::LockRefused { reason });
            }
            ["lost", message] => self.step(Input::LockLost { message: (*message).to_owned() }),
            ["abort", reason] => self.step(Input::AbortRequested { reason: (*reason).to_owned() }),
            ["resolve", decision, reason] => {
                let (decision, reason) = (decision_of(decision), (*reason).to_owned());
                self.step(Input::Resolved { decision, reason });
            }
            ["proposed", answer] => self.step(Input::Proposed { taken: *answer == "taken" }),
            ["refused_last", reason] => {
                self.step(Input::ProposalRefused { reason: (*reason).to_owned() });
            }
            ["read", answer, rest @ ..] => self.step(Input::DecisionRead(standing(answer, rest))),
            ["advance", time] => self.advance(duration(time)),
            ["recorded"] => self.recorded(),
            ["overruled", decision] => {
                assert!(self.waits_for.take().is_some(), "no record waits for an answer");
                self.held.clear();
                self.step(Input::Overruled(decision_of(decision)));
            }
            ["crash", rest @ ..] => self.crash(rest == ["later"]),
            ["resume"] => self.resume(),
            _ => panic!("there is no command {words:?}"),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.output, "{}", line.as_ref());
    }

    fn party(&self, store: &str) -> usize {
        let found = self.parties.iter().position(|party| party.store.as_str() == store);
        found.unwrap_or_else(|| panic!("there is no store {store}"))
    }

    fn plan(&self) -> Plan {
        let mut request = CoordinationRequest::check(RequestParts {
            id: "c1".into(),
            kind: "two_phase_commit".into(),
            stores: self.parties.iter().map(|party| party.store.to_string()).collect(),
            operations: self.operations.clone(),
            timeout_seconds: self.timeout_seconds,
            consistency: self.consistency.into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the scenario names its stores");
        if let Some(last) = &self.last {
            request.set_last_resource(last);
        }
        Plan {
            locks: locks_of(&request).into(),
            request: Arc::new(request),
            owner: InstanceId::new("n1").expect("it is short"),
            epoch: self.epoch,
            parties: self.parties.clone(),
            consensus: self.consensus,
            prepare_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(10),
            abort_wait: Duration::from_secs(1),
            backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(8), seed: 7 },
        }
    }

    fn build(&mut self) {
        self.machine = Some(TwoPhase::new(self.plan(), self.now));
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
            let line = self.shown(&effect);
            self.say(line);
            if let Effect::Record { record, durability } = effect {
                self.records.push((self.now, record));
                self.waits_for = (durability != Durability::Lazy).then_some(durability);
            }
        }
    }

    fn recorded(&mut self) {
        let durability = self.waits_for.take().expect("a record waits for an answer");
        self.accepted = self.records.len();
        if durability == Durability::Forced {
            self.durable = self.records.len();
        }
        self.release();
    }

    /// Time goes on, and each deadline on the way is served.
    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let deadline = self.machine.as_ref().and_then(Machine::deadline);
            let Some(at) = deadline.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.say(format!("at {:?}", self.now.since(Timestamp(0))));
            self.step(Input::TimeReached);
        }
        self.now = until;
    }

    fn crash(&mut self, later: bool) {
        self.machine = None;
        self.held.clear();
        self.waits_for = None;
        self.records.truncate(if later { self.accepted } else { self.durable });
        let kinds: Vec<_> = self.records.iter().map(|(_, record)| record.kind()).collect();
        self.say(format!("left on disk: {}", kinds.join(", ")));
    }

    fn resume(&mut self) {
        if self.machine.is_none() {
            self.epoch += 1;
            self.machine = Some(TwoPhase::from_records(self.plan(), &self.records));
        }
        self.accepted = self.records.len();
        self.durable = self.records.len();
        self.step(Input::Resumed);
    }

    fn shown(&self, effect: &Effect) -> String {
        match effect {
            Effect::Record { record, durability } => {
                format!("record {} ({})", shown_record(record), shown_durability(*durability))
            }
            Effect::Acquire { locks, timeout } => {
                let locks = locks.iter().map(|lock| format!("{} {}", lock.resource, lock.mode));
                let wait = timeout.map_or("for ever".to_owned(), |time| format!("for {time:?}"));
                format!("acquire {}, {wait}", locks.collect::<Vec<_>>().join(", "))
            }
            Effect::Release => "release".to_owned(),
            Effect::Propose { decision } => format!("propose {}", decision.as_str()),
            Effect::ReadDecision => "read decision".to_owned(),
            Effect::Ask { party, ask, timeout } => {
                let store = &self.parties[*party].store;
                let receipt = self.machine.as_ref().and_then(|machine| machine.receipt(*party));
                let shown = receipt.map_or(String::new(), |it| format!(" showing {}", it.as_str()));
                format!("ask {store} {}{shown}, of use for {timeout:?}", ask.as_str())
            }
            Effect::Execute { .. }
            | Effect::Walk { .. }
            | Effect::EnterTurns { .. }
            | Effect::LeaveTurn { .. }
            | Effect::AwaitProjections => unreachable!("two-phase commit has no steps"),
            Effect::Answer(outcome) => format!("answer {}", shown_outcome(outcome)),
            Effect::Finish(outcome) => format!("finish {}", shown_outcome(outcome)),
            Effect::Publish(event) => format!("publish {}", event.name()),
            Effect::Alert { message } => format!("alert: {message}"),
            Effect::Close => "close".to_owned(),
        }
    }
}

impl Stage for TwoPhaseStage {
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

pub(super) fn shown_durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Lazy => "lazy",
        Durability::Accepted => "accepted",
        Durability::Forced => "forced",
    }
}

pub(super) fn shown_record(record: &Record) -> String {
    match record {
        Record::Begin { request, owner, epoch, locks } if locks.is_empty() => {
            let last = request.last_resource().map(|last| &request.stores[last]);
            let last = last.map_or(String::new(), |last| format!(", {last} decides"));
            format!("begin by {owner}, epoch {epoch}{last}")
        }
        Record::Begin { owner, epoch, locks, .. } => {
            format!("begin by {owner}, epoch {epoch}, holding tokens {locks:?}")
        }
        Record::Decision { decision, reason, read_only, receipts } => {
            let mut line = format!("decision {}", decision.as_str());
            for store in read_only {
                let _ = write!(line, ", {store} read-only");
            }
            for (store, receipt) in receipts {
                let _ = write!(line, ", {store} gave {}", receipt.as_str());
            }
            if let Some(reason) = reason {
                let _ = write!(line, ", {}: {}", reason.code, reason.message);
            }
            line
        }
        Record::Heuristic { store, expected, message } => {
            format!("heuristic of {store} against {}: {message}", expected.as_str())
        }
        Record::End { outcome, .. } => format!("end as {}", outcome.state.as_str()),
        other => other.kind().to_owned(),
    }
}

pub(super) fn shown_outcome(outcome: &Outcome) -> String {
    let mut line = format!("{:?}, {}", outcome.kind, outcome.state.as_str()).to_lowercase();
    if let Some(code) = &outcome.code {
        let _ = write!(line, ", {code}");
    }
    if let Some(message) = &outcome.message {
        let _ = write!(line, ": {message}");
    }
    line
}

fn party_plan(name: &str) -> PartyPlan {
    let (name, traits) = name.split_once('/').unwrap_or((name, ""));
    PartyPlan {
        store: StoreName::new(name).expect("a short name"),
        lists_prepared: traits.contains("lists"),
        single_writer: traits.contains("single"),
    }
}

/// `a/k/read`: a read of the key k of store a; `a`: a write of no key.
fn operation(words: &str) -> Value {
    let mut fields = vec![("type".to_owned(), Value::from("put"))];
    for (name, word) in ["store", "key", "access"].into_iter().zip(words.split('/')) {
        fields.push((name.to_owned(), Value::from(word)));
    }
    Value::Map(fields)
}

pub(super) fn words_of(rest: &[&str]) -> String {
    rest.first().copied().unwrap_or_default().to_owned()
}

fn vote_of(words: &[&str]) -> Vote {
    match words {
        ["commit"] => Vote::Commit,
        ["commit", receipt] => Vote::Prepared { receipt: Receipt::new(receipt) },
        ["read_only"] => Vote::ReadOnly,
        ["abort", rest @ ..] => Vote::Abort { reason: words_of(rest) },
        ["unknown", rest @ ..] => Vote::Unknown { reason: words_of(rest) },
        _ => panic!("there is no vote {words:?}"),
    }
}

fn answer_of(words: &[&str]) -> Acknowledgement {
    match words {
        ["done"] => Acknowledgement::Done,
        ["never_prepared"] => Acknowledgement::NeverPrepared,
        ["failed", rest @ ..] => Acknowledgement::Failed { message: words_of(rest) },
        ["unknown", rest @ ..] => Acknowledgement::Unknown { message: words_of(rest) },
        _ => panic!("there is no acknowledgement {words:?}"),
    }
}

pub(super) fn decision_of(word: &str) -> Decision {
    Decision::parse(word).unwrap_or_else(|| panic!("{word} is neither commit nor abort"))
}

pub(super) fn standing(word: &str, rest: &[&str]) -> Standing {
    let names = rest.iter().filter(|name| **name != "read_only");
    let read_only = names.map(|name| StoreName::new(name).expect("a short name")).collect();
    match word {
        "open" => Standing::Open,
        "unknown" => Standing::Unknown,
        _ => Standing::Decided { decision: decision_of(word), read_only },
    }
}

pub(super) fn duration(text: &str) -> Duration {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').expect("a time ends in s or ms"), 1_000),
    };
    Duration::from_millis(number.parse::<u64>().expect("a time is a whole number") * unit)
}

/// Words, with what is between double quotes as one.
pub(super) fn split(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
