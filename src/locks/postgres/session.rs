//! The session: the connection that hears of grants, the heartbeat, and the look at the own rows.
//!
//! Not the wishes (`lane`) and not the sessions of others (`watch`). A connection that broke is
//! replaced; the session goes on when its row is still there and its time is not over by the own
//! clock, else it is lost and a new one begins. Invariants: the own clock ends a session before the
//! server's age of its heartbeat does; the channel is listened to before anything is asked for
//! under the session.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;
use tokio_postgres::{AsyncMessage, Row};

use super::errand::{Errand, micros, timestamp, wait_number};
use super::link::{Link, Trouble};
use super::shared::Inner;
use super::state::State;
use super::wait::{Effect, Ending, Session, Stage};
use crate::db::DbError;
use crate::db::postgres::{Carried, describe};
use crate::db::postgres_migration::migrate;
use crate::db::process;
use crate::locks::{LockId, RequesterId};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

const BEGIN: &str = "INSERT INTO lock_sessions (machine, process, timeout_us) VALUES ($1, $2, $3) \
     RETURNING session_id, heartbeat_at";
const BEAT: &str = "UPDATE lock_sessions SET heartbeat_at = clock_timestamp() \
     WHERE session_id = $1 RETURNING session_id, heartbeat_at";
const LOCK: &str = "SELECT pg_try_advisory_lock(\
     hashtextextended('unanimity_lock_session ' || $1::bigint, 0))";
const END: &str = "SELECT * FROM unanimity_lock_end($1)";
const ROWS: &str = "SELECT 'g', d.wait_id, d.fencing_token, d.acquired_at, d.lock_id, d.holder_id \
        FROM distributed_locks d WHERE d.session_id = $1 \
     UNION ALL SELECT CASE WHEN q.deadlock IS NULL THEN 'w' ELSE 'd' END, q.wait_id, NULL, NULL, \
        NULL, NULL FROM lock_wait_queue q WHERE q.session_id = $1";

/// Keeps a session until the manager closes; the connection then, if there is one.
pub(super) async fn run(inner: &Arc<Inner>) -> Option<Link> {
    let mut backoff = BACKOFF_MIN;
    loop {
        match hold(inner, &mut backoff).await {
            Ok(link) => return Some(link),
            Err(trouble) => {
                inner.in_trouble(trouble, None);
                inner.cut_off();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = inner.closing() => return None,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One connection's time; ends well when the manager closes.
async fn hold(inner: &Arc<Inner>, backoff: &mut Duration) -> Result<Link, Trouble> {
    let (words, mut heard) = unbounded_channel();
    let open = Link::open(inner, |connection| tokio::spawn(carry(connection, words)));
    let link = tokio::select! {
        link = open => link?,
        () = inner.closing() => return Err(Trouble::Broken("it is closed".to_owned())),
    };
    set_up(inner, &link).await?;
    let session = establish(inner, &link).await?;
    *backoff = BACKOFF_MIN;
    let mut is_locked = false;
    let mut beats = tokio::time::interval(inner.options.session_timeout / 5);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            word = next(&mut heard) => inner.hear(session, &word?),
            _ = beats.tick() => {
                if !is_locked {
                    let rows = link.ask(LOCK, &[&session]).await?;
                    // The server may not have seen yet that the connection before is gone.
                    is_locked = rows.first().is_some_and(|row| row.get(0));
                }
                beat(inner, &link, session).await?;
                look(inner, &link, session).await?;
            }
            () = inner.session_ends(session) => {
                return Err(Trouble::Broken("the session is over".to_owned()));
            }
            () = inner.closing() => return Ok(link),
        }
    }
}

async fn next(heard: &mut UnboundedReceiver<String>) -> Result<String, Trouble> {
    heard.recv().await.ok_or_else(|| Trouble::Broken("the connection ended".to_owned()))
}

/// Carries a connection and passes on what it is notified of.
async fn carry(mut connection: Carried, words: UnboundedSender<String>) {
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(note)) => {
                // Nobody listens only when the connection is being closed.
                let _ = words.send(note.payload().to_owned());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %describe(&error), "a PostgreSQL connection ended");
                return;
            }
        }
    }
}

async fn set_up(inner: &Arc<Inner>, link: &Link) -> Result<(), Trouble> {
    let answer = migrate(&link.client, &inner.server.label).await;
    answer.map_err(|error: DbError| {
        let text = error.to_string();
        if link.client.is_closed() { Trouble::Broken(text) } else { Trouble::Refused(text) }
    })
}

/// Goes on with the session that there is, or begins one; its id.
async fn establish(inner: &Arc<Inner>, link: &Link) -> Result<i64, Trouble> {
    if let Some(session) = inner.session_id() {
        link.run(&format!("LISTEN unanimity_lock_{session}")).await?;
        if beat(inner, link, session).await.is_ok() {
            return Ok(session);
        }
    }
    let over = inner.state().over.clone();
    for session in over {
        end(link, session).await?;
        inner.state().over.retain(|other| *other != session);
    }
    let sent = Instant::now();
    let timeout = micros(inner.options.session_timeout);
    let rows = link.ask(BEGIN, &[&process::machine(), &process::process(), &timeout]).await?;
    let row = rows.first().ok_or_else(|| Trouble::Broken("it began no session".to_owned()))?;
    let session = row.get(0);
    link.run(&format!("LISTEN unanimity_lock_{session}")).await?;
    inner.begin_session(good(inner, row, sent));
    Ok(session)
}

/// A session by an acknowledged heartbeat that was sent then. The own clock may run faster or
/// slower than the server's; a twentieth is more than clocks drift apart.
fn good(inner: &Inner, row: &Row, sent: Instant) -> Session {
    Session {
        id: row.get(0),
        valid_until: sent + inner.options.session_timeout * 19 / 20,
        here: sent,
        there: timestamp(row.get(1)),
    }
}

async fn beat(inner: &Arc<Inner>, link: &Link, session: i64) -> Result<(), Trouble> {
    let sent = Instant::now();
    let rows = link.ask(BEAT, &[&session]).await?;
    let Some(row) = rows.first() else {
        inner.lose_session(session, "its session was silent for too long and was ended");
        return Err(Trouble::Broken("the session was ended by another process".to_owned()));
    };
    inner.keep_session(good(inner, row, sent));
    Ok(())
}

/// Ends a session: its locks are free, its waits gone.
pub(super) async fn end(link: &Link, session: i64) -> Result<(), Trouble> {
    let is_more = |rows: &[Row]| rows.iter().any(|row| row.get::<_, &str>(0) == "m");
    while is_more(&link.ask(END, &[&session]).await?) {}
    Ok(())
}

/// Compares what this process believes with its rows: a notification may be lost with a
/// connection, and a row may be removed by others.
async fn look(inner: &Arc<Inner>, link: &Link, session: i64) -> Result<(), Trouble> {
    let before = Belief::of(&inner.state());
    let rows = link.ask(ROWS, &[&session]).await?;
    let mut out = Vec::new();
    {
        let mut state = inner.state();
        let (mut locks, mut waits) = (HashSet::new(), HashSet::new());
        for row in &rows {
            let Some(number) = wait_number(&inner.instance, row.get(1)) else { continue };
            waits.insert(number);
            match row.get::<_, &str>(0) {
                "g" => {
                    locks.insert(LockId::from_text(row.get(4)));
                    before.see_lock(row, number, session, &mut state, &mut out);
                }
                "d" => state.end(number, Ending::Deadlock, Instant::now(), &mut out),
                _ => {}
            }
        }
        before.see_missing(&locks, &waits, &mut state, &mut out);
    }
    inner.carry_out(out);
    Ok(())
}

/// What was believed before the rows were read. What changed meanwhile is not judged by them.
struct Belief {
    held: HashSet<LockId>,
    waiting: Vec<u64>,
    known: HashSet<u64>,
    next_wait: u64,
}

impl Belief {
    fn of(state: &State) -> Self {
        let is_waiting = |number: &&u64| state.waits[*number].stage == Stage::Waiting;
        Self {
            held: state.held.keys().cloned().collect(),
            waiting: state.waits.keys().filter(is_waiting).copied().collect(),
            known: state.waits.keys().copied().collect(),
            next_wait: state.next_wait(),
        }
    }

    fn see_lock(
        &self,
        row: &Row,
        number: u64,
        session: i64,
        state: &mut State,
        out: &mut Vec<Effect>,
    ) {
        let lock_id = LockId::from_text(row.get(4));
        if state.waits.contains_key(&number) {
            let token = u64::try_from(row.get::<_, i64>(2)).unwrap_or(0);
            state.granted(number, (token, timestamp(row.get(3))), (session, None), out);
            return;
        }
        let is_known = self.held.contains(&lock_id) || self.known.contains(&number);
        if is_known || number >= self.next_wait || state.held.contains_key(&lock_id) {
            return;
        }
        // Granted by a question of which the answer was lost, or released by one that a crash of
        // the server undid: nobody here wants it.
        let parts = LockId::parse(lock_id.as_str());
        if let (Some((resource, ..)), Ok(holder)) = (parts, RequesterId::new(row.get(5))) {
            out.push(Effect::Push(resource, Errand::release(lock_id, holder, None)));
        }
    }

    fn see_missing(
        &self,
        locks: &HashSet<LockId>,
        waits: &HashSet<u64>,
        state: &mut State,
        out: &mut Vec<Effect>,
    ) {
        for lock_id in self.held.difference(locks) {
            if state.held.get(lock_id).is_some_and(|held| !held.is_leaving) {
                state.lose(lock_id, "it was let go of elsewhere, or its lease ended", out);
            }
        }
        for number in self.waiting.iter().filter(|number| !waits.contains(number)) {
            let wait = state.waits.get(number);
            if wait.is_some_and(|wait| wait.stage == Stage::Waiting && wait.ending.is_none()) {
                state.ask_again(*number, out);
            }
        }
    }
}
