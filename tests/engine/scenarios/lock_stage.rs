//! The language of the lock table's scenarios: one command each for a fact, and what follows.
//!
//! Commands: `ask a X r [timeout 5s] [lease 5s] [since 5] [protected]` with the modes IS, IX, S, X;
//! `now a X r` takes it at once or not at all, `many a X r S q` all at once or none;
//! `release a X r` `release all a` `cancel a r` `downgrade a X r S` `renew a X r 5s` (the latest
//! such grant or wait), `advance 5s`, `show` (who holds and who waits), `graph`, `close`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use unanimity::model::lock::{Grant, LockId, LockMode, RequesterId, ResourceId, WaitId};
use unanimity::model::time::Timestamp;
use unanimity::protocol::lock_table::{Answer, Ask, Effect, LockTable};

use super::language::{Stage, duration};

/// So few may wait that a scenario can try the bound.
const WAITS_MAX: usize = 4;

/// A grant, or a wait, by its words.
type Words = (String, String, String);

/// One scenario of the lock table while it runs.
pub(super) struct LockStage {
    now: Timestamp,
    table: LockTable,
    grants: BTreeMap<Words, Vec<LockId>>,
    waits: BTreeMap<WaitId, Words>,
    last_wait: u64,
    output: String,
}

impl LockStage {
    pub(super) fn new() -> Self {
        Self {
            now: Timestamp(0),
            table: LockTable::new(WAITS_MAX, 1),
            grants: BTreeMap::new(),
            waits: BTreeMap::new(),
            last_wait: 0,
            output: String::new(),
        }
    }

    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.output, "{}", line.as_ref());
    }

    fn perform(&mut self, words: &[&str]) {
        let mut effects = Vec::new();
        match words {
            ["ask", who, mode, on, rest @ ..] => self.ask([who, mode, on], rest, &mut effects),
            ["now", who, mode, on] => {
                let (resource, requester) = (resource(on), requester(who));
                let ask = ask_of(&resource, &requester, mode);
                match self.table.ask_now(self.now, &ask, &mut effects) {
                    Some(grant) => self.granted(who, &grant),
                    None => self.say("not now"),
                }
            }
            ["many", who, wishes @ ..] => self.ask_many(who, wishes, &mut effects),
            ["release", "all", who] => {
                let count = self.table.release_all(self.now, &requester(who), &mut effects);
                self.say(format!("{count} let go"));
            }
            ["release", who, mode, on] => {
                let id = self.grant(who, mode, on);
                let answer = self.table.release(self.now, &id, &requester(who), &mut effects);
                self.grants
                    .values_mut()
                    .for_each(|ids| ids.retain(|other| !answer || *other != id));
                self.say(if answer { "let go" } else { "not held" });
            }
            ["cancel", who, on] => {
                let is_it = |words: &Words| words.0 == *who && words.2 == *on;
                let found = self.waits.iter().rev().find(|(_, words)| is_it(words));
                let wait = found.map_or(WaitId(0), |(wait, _)| *wait);
                if !self.table.cancel(self.now, wait, &mut effects) {
                    self.say("waits no more");
                }
            }
            ["downgrade", who, mode, on, to] => {
                let (id, name) = (self.grant(who, mode, on), requester(who));
                let lock = (&id, &name);
                match self.table.downgrade(self.now, lock, mode_of(to), &mut effects) {
                    Some(grant) => self.granted(who, &grant),
                    None => self.say("not held, or not weaker"),
                }
            }
            ["renew", who, mode, on, lease] => {
                let id = self.grant(who, mode, on);
                let answer = self.table.renew(self.now, &id, duration(lease), &mut effects);
                self.say(if answer { "renewed" } else { "not held" });
            }
            ["advance", time] => self.advance(duration(time)),
            ["show"] => self.show(),
            ["graph"] => {
                for (waiter, blockers) in self.table.wait_for_graph() {
                    let names: Vec<&str> = blockers.iter().map(RequesterId::as_str).collect();
                    self.say(format!("{waiter} waits for {}", names.join(", ")));
                }
            }
            ["close"] => self.table.close(&mut effects),
            _ => panic!("there is no command {words:?}"),
        }
        self.tell(effects);
    }

    fn ask(&mut self, [who, mode, on]: [&str; 3], rest: &[&str], effects: &mut Vec<Effect>) {
        let (resource, requester) = (resource(on), requester(who));
        let mut ask = ask_of(&resource, &requester, mode);
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            let mut value = || *rest.next().expect("a value follows");
            match *word {
                "timeout" => ask.timeout = Some(duration(value())),
                "lease" => ask.lease = Some(duration(value())),
                "since" => ask.working_since = Timestamp(value().parse().expect("a number")),
                "protected" => ask.is_protected = true,
                other => panic!("there is no {other}"),
            }
        }
        self.last_wait += 1;
        let wait = WaitId(self.last_wait);
        let words = (who.to_owned(), mode.to_owned(), on.to_owned());
        match self.table.ask(self.now, wait, &ask, effects) {
            Answer::Granted(grant) => self.granted(who, &grant),
            Answer::Refused(error) => self.say(format!("{who} refused: {error}")),
            Answer::Waits => {
                self.waits.insert(wait, words);
                self.say(format!("{who} waits for {mode} on {on}"));
            }
        }
    }

    fn ask_many(&mut self, who: &str, wishes: &[&str], effects: &mut Vec<Effect>) {
        let name = requester(who);
        let resources: Vec<ResourceId> = wishes.chunks(2).map(|wish| resource(wish[1])).collect();
        let wishes = wishes.chunks(2).zip(&resources);
        let asks: Vec<Ask<'_>> = wishes.map(|(wish, on)| ask_of(on, &name, wish[0])).collect();
        match self.table.ask_many(self.now, &asks, effects) {
            Ok(Some(grants)) => grants.iter().for_each(|grant| self.granted(who, grant)),
            Ok(None) => self.say("not all are free"),
            Err(error) => self.say(format!("{who} refused: {error}")),
        }
    }

    fn granted(&mut self, who: &str, grant: &Grant) {
        let Grant { resource, mode, fencing_token, .. } = grant;
        let words = (who.to_owned(), short(*mode).to_owned(), resource.to_string());
        self.say(format!("{who} holds {} on {resource}, token {fencing_token}", words.1));
        self.grants.entry(words).or_default().push(grant.lock_id.clone());
    }

    /// The latest such grant; one that never was, if there is none.
    fn grant(&mut self, who: &str, mode: &str, on: &str) -> LockId {
        let words = (who.to_owned(), mode.to_owned(), on.to_owned());
        let found = self.grants.get_mut(&words).and_then(|ids| ids.last().cloned());
        found.unwrap_or_else(|| LockId::new(&resource(on), mode_of(mode), 999))
    }

    /// Time goes on, and each deadline on the way is served.
    fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.table.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.say(format!("at {:?}", self.now.since(Timestamp(0))));
            let mut effects = Vec::new();
            self.table.time_reached(self.now, &mut effects);
            self.tell(effects);
        }
        self.now = until;
    }

    fn tell(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Granted { wait, grant } => {
                    let words = self.waits.remove(&wait).expect("it waited");
                    self.granted(&words.0, &grant);
                }
                Effect::Refused { wait, error } => {
                    let words = self.waits.remove(&wait).expect("it waited");
                    self.say(format!("{} refused: {error}", words.0));
                }
                Effect::Lost { lock_id, requester, reason } => {
                    self.say(format!("{requester} lost {lock_id}: {reason}"));
                }
                Effect::Deadlock(deadlock) => {
                    let names: Vec<&str> = deadlock.cycle.iter().map(RequesterId::as_str).collect();
                    self.say(format!("deadlock of {}", names.join(", ")));
                }
            }
        }
    }

    fn show(&mut self) {
        for info in self.table.status(None) {
            let mode = short(info.mode);
            let mut line = format!("{}: {} {} {mode}", info.resource, info.requester, info.state());
            if let Some(until) = info.expires_at {
                let _ = write!(line, " until {:?}", until.since(Timestamp(0)));
            }
            self.say(line);
        }
    }
}

impl Stage for LockStage {
    fn run(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.output.clear();
        self.perform(&words);
        if self.output.is_empty() { "nothing\n".to_owned() } else { self.output.clone() }
    }

    fn rules(&self) -> Vec<u8> {
        self.table.rules_taken().map(|rule| rule as u8).collect()
    }
}

fn ask_of<'a>(resource: &'a ResourceId, requester: &'a RequesterId, mode: &str) -> Ask<'a> {
    Ask {
        resource,
        mode: mode_of(mode),
        requester,
        timeout: None,
        lease: None,
        working_since: Timestamp(0),
        is_protected: false,
    }
}

fn resource(name: &str) -> ResourceId {
    ResourceId::new(name).expect("a short name")
}

fn requester(name: &str) -> RequesterId {
    RequesterId::new(name).expect("a short name")
}

fn short(mode: LockMode) -> &'static str {
    match mode {
        LockMode::IntentShared => "IS",
        LockMode::IntentExclusive => "IX",
        LockMode::Shared => "S",
        LockMode::Exclusive => "X",
    }
}

fn mode_of(word: &str) -> LockMode {
    let found = LockMode::ALL.into_iter().find(|mode| short(*mode) == word);
    found.unwrap_or_else(|| panic!("there is no mode {word}"))
}
