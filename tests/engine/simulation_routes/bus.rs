//! The simulated bus: messages are handed to one of those that take them, until acknowledged.
//!
//! It keeps what it took, hands it over again when nobody acknowledged it, drops a second one of
//! the same id, and at times hands one message to two. The last word of a saga goes to whoever
//! lives then. Invariant: a message is never lost once it was taken.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimity::model::step::Work;

use super::world::{Happening, World};

/// How long a slip may be at a stop before it is handed over again.
const STOP_WAIT: Duration = Duration::from_secs(6);

/// A slip, as `engine/choreography/token` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slip {
    pub(super) saga: usize,
    pub(super) walk: u32,
    pub(super) place: usize,
    pub(super) work: Work,
    pub(super) has_failed: bool,
}

/// What travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Slip(Slip),
    /// The last word, and whether all was done.
    End {
        saga: usize,
        walk: u32,
        is_done: bool,
    },
}

/// A word, and who waits for the bus to have it: the message that it follows from.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) word: Word,
    pub(super) follows: Option<usize>,
}

struct Kept {
    word: Word,
    /// To whom it was handed, until when.
    with: Vec<(usize, u64)>,
    until: unanimity::model::time::Timestamp,
    is_acknowledged: bool,
}

/// The bus.
#[derive(Default)]
pub(super) struct Bus {
    kept: Vec<Kept>,
    ids: BTreeSet<String>,
}

fn id_of(word: &Word) -> String {
    match word {
        Word::Slip(slip) => {
            format!("{}/{}/{}/{}", slip.saga, slip.walk, slip.place, slip.work.as_str())
        }
        Word::End { saga, walk, .. } => format!("{saga}/{walk}/end"),
    }
}

impl Bus {
    pub(super) fn has(&self, word: &Word) -> bool {
        self.ids.contains(&id_of(word))
    }

    pub(super) fn slip(&self, message: usize) -> Option<&Slip> {
        match &self.kept[message].word {
            Word::Slip(slip) => Some(slip),
            Word::End { .. } => None,
        }
    }

    /// How many slips are not acknowledged.
    pub(super) fn open(&self) -> usize {
        self.kept.iter().filter(|kept| !kept.is_acknowledged).count()
    }
}

impl World {
    /// Sends a word from a process; it takes a moment.
    pub(super) fn send(&mut self, node: usize, message: Message) {
        if self.dies_now(node) {
            return;
        }
        let (life, delay) = (self.nodes[node].life, self.random.millis(1, 20));
        self.schedule(delay, Happening::Sent { node, life, message });
    }

    /// The bus takes it, or not; what was on its way when its process died may be taken too.
    pub(super) fn sent(&mut self, node: usize, life: u64, message: Message) {
        let lives = self.lives(node, life);
        if !lives && self.random.chance(50) {
            return;
        }
        let loss = self.climate.loss;
        if self.chance(loss) {
            return match message.follows {
                _ if !lives => {}
                // The slip that it follows from comes again.
                Some(before) => self.fails(before),
                None => self.send(node, message),
            };
        }
        self.take(message.word);
        // Whoever sent it may not hear that it was taken.
        if let Some(before) = message.follows.filter(|_| lives)
            && !self.chance(loss)
        {
            self.acknowledge(before);
        }
    }

    fn take(&mut self, word: Word) {
        self.check_word(&word);
        if !self.bus.ids.insert(id_of(&word)) {
            return;
        }
        self.note(|| format!("bus: takes {word:?}"));
        if let Word::End { saga, is_done, .. } = word {
            return self.end_is_told(saga, is_done);
        }
        let (with, until) = (Vec::new(), self.now);
        self.bus.kept.push(Kept { word, with, until, is_acknowledged: false });
        let (message, delay) = (self.bus.kept.len() - 1, self.random.millis(1, 20));
        self.schedule(delay, Happening::Handed { message });
        if self.chance(5) {
            let delay = self.random.millis(1, 500);
            self.schedule(delay, Happening::Handed { message });
        }
    }

    pub(super) fn acknowledge(&mut self, message: usize) {
        self.note(|| format!("bus: message {message} is acknowledged"));
        self.check_acknowledged(message);
        self.bus.kept[message].is_acknowledged = true;
    }

    /// Whoever had it says that it could not be done now.
    pub(super) fn fails(&mut self, message: usize) {
        self.bus.kept[message].with.clear();
        let delay = self.random.millis(100, 1_000);
        self.schedule(delay, Happening::Handed { message });
    }

    /// Hands a message to a process that has the store.
    pub(super) fn handed(&mut self, message: usize) {
        if self.bus.kept[message].is_acknowledged {
            return;
        }
        let Some(slip) = self.bus.slip(message).cloned() else { return };
        let operation = self.sagas[slip.saga].route.operation_at(slip.place);
        let operation = operation.expect("a slip stands on its route");
        let journal = self.journal_of(slip.saga, operation);
        let takers = 0..self.nodes.len();
        let takers: Vec<usize> = takers
            .filter(|node| self.nodes[*node].journal == journal)
            .filter(|node| self.nodes[*node].instance.is_some())
            .collect();
        // Nobody is there: it waits for the next look.
        if takers.is_empty() {
            return;
        }
        let node = takers[self.random.below(takers.len())];
        let life = self.nodes[node].life;
        self.bus.kept[message].with.push((node, life));
        self.bus.kept[message].until = self.now + STOP_WAIT;
        self.note(|| format!("n{node} is handed message {message}: {slip:?}"));
        self.stop_comes(node, message, &slip, operation);
    }

    /// Hands over again what nobody has, or had for too long.
    pub(super) fn hand_over_again(&mut self) {
        for message in 0..self.bus.kept.len() {
            let kept = &self.bus.kept[message];
            let is_with = kept.with.iter().any(|(node, life)| self.lives(*node, *life));
            if !kept.is_acknowledged && (!is_with || kept.until <= self.now) {
                self.schedule(Duration::ZERO, Happening::Handed { message });
            }
        }
    }
}
