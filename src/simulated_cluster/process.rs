//! One process: the real node and the real journal on a runtime of its own, and what it drives.
//!
//! Not what it does with its machines (`driver`, `locking`). What the real parts tell goes into an
//! inbox, which the world empties after each tick. Invariant: nothing here keeps a process alive:
//! dropping it is its death.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::driving::Held;
use super::locking::Locks;
use super::network::{Link, Wires};
use super::planted::Bug;
use super::witness::Shared;
use super::world::{Address, NAMES};
use crate::cluster::{ClusterError, Look, ReplicaEar, ReplicatedLog};
use crate::consensus::raft::transport::PeerAddress;
use crate::consensus::raft::{RaftNode, RaftOptions};
use crate::journal::ReplicatedJournal;
use crate::journal::{Answer as Told, AnswerSink, Journal, JournalError, OpenCoordination};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId};
use crate::protocol::Input;
use crate::protocol::replica::{Answer, Command, Effect, Entry, Position, Proposal, Replica};
use crate::protocol::two_phase::TwoPhase;
use crate::reply::Reply;

pub(super) const ELECTION: Duration = Duration::from_millis(400);
/// How long a process counts as alive without a word.
const LEASE: Duration = Duration::from_millis(2_500);

/// What a process hears.
pub(super) enum Word {
    Journal(Vec<(u64, Told)>),
    OwnerDied,
    Adopted(Result<Vec<OpenCoordination>, JournalError>),
    LockAnswer {
        wait: u64,
        result: Result<Vec<Answer>, ClusterError>,
    },
    /// A wait was given up, if that was heard.
    Settled {
        wait: u64,
        is_heard: bool,
    },
    /// These were not carried out, or nobody knows.
    Again(Vec<Command>),
    Effects(Vec<Effect>),
    Replaced,
    Step(Address, Input),
}

/// What it has heard and not read.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<VecDeque<Word>>>);

impl Inbox {
    pub(super) fn put(&self, word: Word) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(word);
    }

    pub(super) fn take(&self) -> Option<Word> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl AnswerSink for Inbox {
    fn answered(&self, answers: Vec<(u64, Told)>) {
        self.put(Word::Journal(answers));
    }

    fn owner_died(&self) {
        self.put(Word::OwnerDied);
    }

    fn health_changed(&self, _trouble: Option<JournalError>) {}
}

struct Ear {
    inbox: Inbox,
    own: InstanceId,
    bug: Option<Bug>,
    has_dropped: AtomicBool,
}

impl Ear {
    fn concerns(&self, effect: &Effect) -> bool {
        match effect {
            Effect::Granted { instance, .. } => {
                let drops = *instance == self.own && self.bug == Some(Bug::FirstWaitNotWoken);
                let is_dropped = drops && !self.has_dropped.swap(true, Ordering::Relaxed);
                *instance == self.own && !is_dropped
            }
            Effect::Refused { instance, .. } | Effect::Lost { instance, .. } => {
                *instance == self.own
            }
            Effect::Deadlock(_) | Effect::SessionEnded { .. } => false,
        }
    }
}

impl ReplicaEar for Ear {
    fn happened(&self, effects: &[Effect]) {
        let own: Vec<Effect> = effects.iter().filter(|it| self.concerns(it)).cloned().collect();
        if !own.is_empty() {
            self.inbox.put(Word::Effects(own));
        }
    }

    fn replaced(&self, _replica: &Replica) {
        self.inbox.put(Word::Replaced);
    }
}

/// The node's port, with the witness beside it.
pub(super) struct Watched {
    raft: Arc<RaftNode>,
    witness: Shared,
    bug: Option<Bug>,
}

fn index_of(log: &dyn ReplicatedLog) -> u64 {
    let mut index = 0;
    log.glance(&mut |replica| index = replica.applied().index);
    index
}

impl Watched {
    /// What this node alone would answer.
    fn alone(&self, commands: &[Command]) -> Vec<Answer> {
        let mut replica = Replica::new();
        self.raft.glance(&mut |state| replica = state.clone());
        let instance = self.raft.instance().clone();
        let proposal = Proposal { instance, number: u64::MAX, commands: commands.to_vec() };
        let (elapsed, at) = (Duration::ZERO, replica.now());
        let entry = Entry { elapsed, at, proposals: vec![proposal] };
        let position = Position { index: replica.applied().index + 1, ..replica.applied() };
        let answered = replica.apply(position, &entry, &mut Vec::new());
        answered.into_iter().filter_map(|it| it.answers).flatten().collect()
    }
}

impl ReplicatedLog for Watched {
    fn cluster(&self) -> &ClusterId {
        self.raft.cluster()
    }

    fn instance(&self) -> &InstanceId {
        self.raft.instance()
    }

    fn lease(&self) -> Duration {
        self.raft.lease()
    }

    fn location(&self) -> String {
        self.raft.location()
    }

    fn listen(&self, ear: Arc<dyn ReplicaEar>) {
        self.raft.listen(ear);
    }

    fn propose(&self, commands: Vec<Command>, reply: Reply<Result<Vec<Answer>, ClusterError>>) {
        let asks = matches!(commands.first(), Some(Command::Acquire { .. }));
        if asks && self.bug == Some(Bug::GrantWithoutMajority) {
            let answers = self.alone(&commands);
            if matches!(answers.first(), Some(Answer::Granted(_))) {
                reply.send(Ok(answers));
                return ReplicatedLog::propose(&*self.raft, commands, Reply::new(drop));
            }
        }
        let (raft, witness) = (Arc::downgrade(&self.raft), self.witness.clone());
        let told = Reply::new(move |answers: Result<Vec<Answer>, ClusterError>| {
            if let (Ok(_), Some(raft)) = (&answers, raft.upgrade()) {
                witness.raise_floor(index_of(&*raft));
            }
            reply.send(answers);
        });
        ReplicatedLog::propose(&*self.raft, commands, told);
    }

    fn read(&self, look: Look) {
        let (witness, floor) = (self.witness.clone(), self.witness.floor());
        let who = self.raft.instance().to_string();
        let watched: Look = Box::new(move |replica| {
            if let Ok(replica) = replica {
                witness.saw(&who, floor, replica);
            }
            look(replica);
        });
        if self.bug == Some(Bug::StaleRead) {
            let mut watched = Some(watched);
            return self.raft.glance(&mut |replica| {
                if let Some(watched) = watched.take() {
                    watched(Ok(replica));
                }
            });
        }
        ReplicatedLog::read(&*self.raft, watched);
    }

    fn glance(&self, look: &mut dyn FnMut(&Replica)) {
        self.raft.glance(look);
    }
}

/// A process. The runtime stands first: its tasks go before what they use.
pub(super) struct Process {
    pub(super) runtime: Runtime,
    pub(super) raft: Arc<RaftNode>,
    pub(super) log: Arc<Watched>,
    pub(super) journal: ReplicatedJournal,
    pub(super) inbox: Inbox,
    pub(super) driven: BTreeMap<CoordinationId, Held<TwoPhase>>,
    /// Whose record a token of the journal is.
    pub(super) records: BTreeMap<u64, Address>,
    pub(super) last_token: u64,
    pub(super) locks: Locks,
}

/// What a process is started with.
pub(super) struct Setting<'a> {
    pub(super) name: &'a str,
    pub(super) folder: &'a Path,
    pub(super) wires: Wires,
    pub(super) witness: Shared,
    pub(super) bug: Option<Bug>,
    pub(super) threshold: u64,
}

pub(super) fn address(id: &str) -> PeerAddress {
    let port = 1_000 + id.bytes().map(u16::from).sum::<u16>();
    PeerAddress { id: id.to_owned(), host: "simulated".to_owned(), port }
}

impl Process {
    /// Starts it; the error is the node's.
    pub(super) fn start(setting: &Setting<'_>) -> Result<Self, String> {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let nodes = NAMES.iter().map(|id| address(id)).collect();
        let cluster = ClusterId::new("simulated").expect("a name that is right");
        let options = RaftOptions {
            election_timeout: ELECTION,
            heartbeat_interval: Duration::from_millis(80),
            data_dir: Some(setting.folder.to_owned()),
            log_compaction_threshold: setting.threshold,
            log_bytes_max: 200_000,
            lease: Some(LEASE),
            ..RaftOptions::new(cluster, setting.name, nodes)
        };
        let link = Link { wires: setting.wires.clone(), from: setting.name.to_owned() };
        let started = runtime.block_on(RaftNode::start(options, Arc::new(link)));
        let raft = Arc::new(started.map_err(|error| error.to_string())?);
        let (witness, bug) = (setting.witness.clone(), setting.bug);
        let log = Arc::new(Watched { raft: Arc::clone(&raft), witness, bug });
        let inbox = Inbox::default();
        let own = raft.instance().clone();
        let ear = Ear { inbox: inbox.clone(), own, bug, has_dropped: AtomicBool::new(false) };
        log.listen(Arc::new(ear));
        let journal = {
            let _inside = runtime.enter();
            ReplicatedJournal::open(Arc::clone(&log) as Arc<dyn ReplicatedLog>)
        };
        let journal = journal.map_err(|error| error.to_string())?;
        journal.attach(Arc::new(inbox.clone()));
        Ok(Self {
            runtime,
            raft,
            log,
            journal,
            inbox,
            driven: BTreeMap::new(),
            records: BTreeMap::new(),
            last_token: 0,
            locks: Locks::default(),
        })
    }

    pub(super) fn instance(&self) -> InstanceId {
        self.raft.instance().clone()
    }

    /// Lets it run for a while, by its own clock.
    pub(super) fn run_for(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Its clock goes on by so much at once: the machine was stopped, time was not.
    pub(super) fn jump(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::advance(time).await });
    }
}
