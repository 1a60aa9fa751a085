//! The session: the connection that claims lines and reports, hears of publications, and beats.
//!
//! Not the publishing. A connection that broke is replaced; the session and its lines go on when
//! its row is still there. Others end a session when its connection is gone and its beat stands
//! still for [`GONE_MAX`], or when its beat alone stands still for [`LEASE`]. Invariant: when a
//! broken connection was not replaced in time, nothing of its lines is handed over any more, before
//! others may have them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use super::link::{Link, Trouble};
use super::question;
use super::shared::Inner;
use super::turn;

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How often a session beats, looks at those of others, and lets old events go.
const BEAT: Duration = Duration::from_millis(500);
/// How long a session without its connection is left alone.
const GONE_MAX: Duration = Duration::from_secs(2);
/// The same by the own clock, with room for the way to the server.
const OWN_GONE_MAX: Duration = Duration::from_millis(1_500);
/// How long a session whose connection stands is left alone; longer than the patience of a link.
const LEASE: Duration = Duration::from_secs(15);
/// What a lost notification costs at most.
const LOOK: Duration = Duration::from_secs(1);
/// How many old events go with each beat: so many portions of so many.
const RETAIN_PORTIONS: usize = 5;
const RETAIN_PORTION: i32 = 2_000;

const BEGIN: &str = "INSERT INTO bus_sessions DEFAULT VALUES RETURNING session_id";
const BEATS: &str = "UPDATE bus_sessions SET beat = beat + 1 WHERE session_id = $1 RETURNING beat";
const LOCK: &str = "SELECT pg_try_advisory_lock(\
     hashtextextended('unanimity_bus_session ' || $1::bigint, 0))";
/// The lock is let go of at the end of the statement.
const OTHERS: &str = "SELECT session_id, beat, pg_try_advisory_xact_lock(\
     hashtextextended('unanimity_bus_session ' || session_id, 0)) \
     FROM bus_sessions WHERE session_id <> $1";
const END: &str = "SELECT unanimity_bus_end($1, $2)";
const RECONCILE: &str = "SELECT * FROM unanimity_bus_reconcile($1, $2, $3)";
const RETAIN: &str = "SELECT unanimity_bus_retain($1, $2, $3, $4)";

/// One process's session over its connections.
struct Session {
    inner: Arc<Inner>,
    id: Option<i64>,
    touched_at: Instant,
    has_given_up: bool,
    /// Where retention goes on.
    cursor: i64,
}

/// A connection's own.
struct Watch {
    is_locked: bool,
    beaten_at: Option<Instant>,
    looked_at: Instant,
    /// The beats of others, and since when they stand.
    others: HashMap<i64, (i64, Instant)>,
}

/// Keeps a session until the bus closes.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut session = Session {
        inner: inner.clone(),
        id: None,
        touched_at: Instant::now(),
        has_given_up: false,
        cursor: 0,
    };
    let mut backoff = BACKOFF_MIN;
    loop {
        let began = Instant::now();
        match session.hold().await {
            Ok(()) => return,
            Err(trouble) => inner.in_trouble(trouble),
        }
        if began.elapsed() > BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = inner.closing() => return,
        }
        session.give_up_in_time();
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Session {
    /// One connection's time; ends well when the bus closes.
    async fn hold(&mut self) -> Result<(), Trouble> {
        let inner = self.inner.clone();
        let link = self.open().await?;
        let id = self.establish(&link).await?;
        link.run("LISTEN unanimity_bus").await?;
        let statement = link.prepare(turn::TURN).await?;
        inner.out_of_trouble();
        // What was published before the listening.
        inner.stir();
        let mut watch = Watch {
            is_locked: false,
            beaten_at: None,
            looked_at: Instant::now(),
            others: HashMap::new(),
        };
        loop {
            self.round(&link, &statement, id, &mut watch).await?;
            tokio::select! {
                () = inner.to_do.notified() => {}
                () = tokio::time::sleep(BEAT) => {}
                () = inner.closing() => {
                    self.ask_all(&link, id).await?;
                    return link.ask(END, &[&id, &false]).await.map(|_| ());
                }
            }
        }
    }

    /// Opens a connection, and gives the lines up while that takes too long.
    async fn open(&mut self) -> Result<Link, Trouble> {
        let inner = self.inner.clone();
        let opening = Link::open(&inner);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                link = &mut opening => return link,
                () = tokio::time::sleep(BACKOFF_MAX) => {
                    self.give_up_in_time();
                    inner.refuse_late();
                }
                () = inner.closing() => return Err(Trouble::Broken("it is closed".to_owned())),
            }
        }
    }

    /// Everything that is due.
    async fn round(
        &mut self,
        link: &Link,
        statement: &Statement,
        id: i64,
        watch: &mut Watch,
    ) -> Result<(), Trouble> {
        let inner = self.inner.clone();
        if watch.beaten_at.is_none_or(|at| at.elapsed() >= BEAT) {
            watch.beaten_at = Some(Instant::now());
            self.beat(link, id, watch).await?;
        }
        let is_stirred = inner.is_stirred();
        let is_due = watch.looked_at.elapsed() >= LOOK;
        if is_stirred || is_due {
            watch.looked_at = Instant::now();
            turn::take(&inner, link, statement, id).await?;
            self.touched_at = Instant::now();
        }
        self.ask_all(link, id).await
    }

    async fn ask_all(&mut self, link: &Link, id: i64) -> Result<(), Trouble> {
        while let Some(asked) = self.inner.take_ask() {
            question::answer(&self.inner, link, id, asked).await?;
        }
        Ok(())
    }

    /// Gives every line up when there was no connection for too long.
    fn give_up_in_time(&mut self) {
        if !self.has_given_up && self.touched_at.elapsed() >= OWN_GONE_MAX {
            self.has_given_up = true;
            for member in self.inner.members() {
                member.claims().give_up();
            }
        }
    }

    /// Goes on with the session that there is, or begins one; its id.
    async fn establish(&mut self, link: &Link) -> Result<i64, Trouble> {
        self.give_up_in_time();
        if let Some(id) = self.id
            && !link.ask(BEATS, &[&id]).await?.is_empty()
        {
            self.reconcile(link, id).await?;
            self.touched_at = Instant::now();
            self.has_given_up = false;
            return Ok(id);
        }
        let rows = link.ask(BEGIN, &[]).await?;
        let missing = || Trouble::Broken("it began no session".to_owned());
        let id: i64 = rows.first().ok_or_else(missing)?.get(0);
        for member in self.inner.members() {
            // Lines of the session before are others' now, and its own groups are gone.
            let held = member.claims().streams();
            member.claims().lost(&held);
            if member.is_own {
                let group = question::join(link, id, None, member.kind.as_deref()).await?;
                member.set_group(group);
            }
        }
        self.id = Some(id);
        self.touched_at = Instant::now();
        self.has_given_up = false;
        Ok(id)
    }

    /// Compares what is held here with what the server says.
    async fn reconcile(&self, link: &Link, id: i64) -> Result<(), Trouble> {
        let (mut groups, mut streams) = (Vec::new(), Vec::new());
        for member in self.inner.members() {
            for stream in member.claims().streams() {
                groups.push(member.group());
                streams.push(stream);
            }
        }
        let rows = link.ask(RECONCILE, &[&id, &groups, &streams]).await?;
        let ours: Vec<(i64, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for member in self.inner.members() {
            let mut claims = member.claims();
            let mut lost = claims.streams();
            lost.retain(|stream| !ours.contains(&(member.group(), stream.as_str())));
            claims.lost(&lost);
        }
        Ok(())
    }

    /// Shows that this process lives, ends the sessions of those that do not, lets old events go.
    async fn beat(&mut self, link: &Link, id: i64, watch: &mut Watch) -> Result<(), Trouble> {
        if !watch.is_locked {
            // The server may not have seen yet that the connection before is gone.
            let rows = link.ask(LOCK, &[&id]).await?;
            watch.is_locked = rows.first().is_some_and(|row| row.get(0));
        }
        if link.ask(BEATS, &[&id]).await?.is_empty() {
            let words = "its session was ended by another process".to_owned();
            return Err(Trouble::Broken(words));
        }
        self.touched_at = Instant::now();
        let rows = link.ask(OTHERS, &[&id]).await?;
        let mut seen = HashMap::new();
        for row in &rows {
            let (other, beat, is_gone): (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
            let since = match watch.others.get(&other) {
                Some((before, since)) if *before == beat => *since,
                _ => Instant::now(),
            };
            let longest = if is_gone { GONE_MAX } else { LEASE };
            if since.elapsed() >= longest {
                link.ask(END, &[&other, &true]).await?;
            } else {
                seen.insert(other, (beat, since));
            }
        }
        watch.others = seen;
        for _ in 0..RETAIN_PORTIONS {
            self.retain(link).await?;
            if self.cursor == 0 {
                break;
            }
        }
        Ok(())
    }

    async fn retain(&mut self, link: &Link) -> Result<(), Trouble> {
        let options = self.inner.options;
        let kept_us = i64::try_from(options.kept_for.as_micros()).unwrap_or(i64::MAX);
        let kept_max = i64::try_from(options.kept_max).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&self.cursor, &kept_us, &kept_max, &RETAIN_PORTION];
        let rows = link.ask(RETAIN, &parameters).await?;
        // Nothing where another process is at it.
        self.cursor = rows.first().and_then(|row| row.get(0)).unwrap_or(0);
        Ok(())
    }
}
