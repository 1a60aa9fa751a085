//! What a server says of itself: whether it can be used, and what its promises are worth.
//!
//! Not the asking. Redis answers from memory; whether an answer survives depends on its settings
//! (`appendonly`, `appendfsync`), which are read with every new connection. Invariants: a server
//! that would break a promise by its nature (a replica, a cluster, one that evicts any key) is
//! refused with a word of what to change; one that may forget after a crash serves, and says so.

use std::collections::HashMap;

/// How sure a promise is when its answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk: `appendfsync always`.
    Always,
    /// On the disk: each answer waits for `WAITAOF`, so it takes up to a second.
    Waited,
    /// On the disk about a second later: `appendfsync everysec`.
    EverySecond,
    /// On the disk when the operating system likes: `appendfsync no`.
    System,
    /// In memory and in the snapshots that are made now and then: `appendonly no`.
    Snapshots,
    /// The append-only file is on, and the server does not tell how often it is synced.
    Unknown,
}

impl Durability {
    /// The word in the public API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Waited => "waited",
            Self::EverySecond => "every_second",
            Self::System => "system",
            Self::Snapshots => "snapshots",
            Self::Unknown => "unknown",
        }
    }

    /// Whether what was voted or acknowledged survives a crash of the server's machine.
    pub fn is_durable(self) -> bool {
        matches!(self, Self::Always | Self::Waited)
    }

    /// Whether each answer has to be waited for.
    pub(super) fn is_waited_for(self) -> bool {
        self == Self::Waited
    }

    /// What it means, for people.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Always => "appendfsync is always: what is answered is on the server's disk",
            Self::Waited => {
                "each answer waits with WAITAOF until it is on the server's disk, which takes up \
                 to a second; appendfsync always is faster"
            }
            Self::EverySecond => {
                "appendfsync is everysec: when the server's machine crashes, what was voted or \
                 acknowledged in the last second or two may be forgotten; set appendfsync to \
                 always, or use Redis 7.2 or later, where the store can wait for the disk"
            }
            Self::System => {
                "appendfsync is no: when the server's machine crashes, what was voted or \
                 acknowledged in the last half minute or so may be forgotten; set appendfsync to \
                 always"
            }
            Self::Snapshots => {
                "appendonly is no: when the server ends, everything since its last snapshot may be \
                 forgotten, also votes and acknowledged commits; set appendonly to yes and \
                 appendfsync to always"
            }
            Self::Unknown => {
                "the append-only file is on, and the server does not tell its appendfsync (CONFIG \
                 is forbidden): what was voted or acknowledged just before a crash may be forgotten"
            }
        }
    }
}

/// What CONFIG GET told, where it may be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) append_fsync: Option<String>,
    pub(super) no_fsync_on_rewrite: Option<String>,
}

/// What a server said of itself.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) durability: Durability,
    /// Why nothing new may be begun here; what was prepared is ended all the same.
    pub(super) refusal: Option<String>,
}

/// Reads the answer to INFO, by fields.
pub(super) fn fields(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// Why a connection to this server is of no use at all: another one has to be asked.
pub(super) fn unusable(info: &HashMap<&str, &str>) -> Option<String> {
    if info.get("cluster_enabled") == Some(&"1") || info.get("redis_mode") == Some(&"cluster") {
        return Some(
            "it is a node of a Redis Cluster, where one script cannot change keys of several slots \
             at once; use a server of its own (with replicas, if you like)"
                .to_owned(),
        );
    }
    if info.get("redis_mode") == Some(&"sentinel") {
        return Some("it is a Sentinel; give the address of the primary".to_owned());
    }
    if info.get("role") == Some(&"slave") {
        let primary = info.get("master_host").map_or(String::new(), |host| {
            format!(" ({host}:{})", info.get("master_port").unwrap_or(&""))
        });
        return Some(format!(
            "it is a replica, which is only to be read; give the address of the primary{primary}"
        ));
    }
    if version(info) < (6, 0) {
        let found = info.get("redis_version").unwrap_or(&"unknown");
        return Some(format!("its version is {found}; use Redis 6.0 or later"));
    }
    None
}

/// Judges a server that can be used. `waits` says that WAITAOF was tried and does its work.
pub(super) fn judge(info: &HashMap<&str, &str>, asked: &Asked, waits: bool) -> Settings {
    let policy = info.get("maxmemory_policy").unwrap_or(&"noeviction");
    let is_bounded = info.get("maxmemory").is_some_and(|limit| *limit != "0");
    // Where nothing is evicted now, a limit may be set later; the policy is what counts.
    let refusal = policy.starts_with("allkeys").then(|| {
        let now = if is_bounded { "" } else { " (once it has a maxmemory)" };
        format!(
            "its maxmemory-policy is {policy}, so it may evict what is prepared{now}; set it to \
             noeviction, or to a volatile one, which evicts only keys that expire"
        )
    });
    Settings { durability: durability(info, asked, waits), refusal }
}

fn durability(info: &HashMap<&str, &str>, asked: &Asked, waits: bool) -> Durability {
    if info.get("aof_enabled") != Some(&"1") {
        return Durability::Snapshots;
    }
    let skips = asked.no_fsync_on_rewrite.as_deref() == Some("yes");
    match asked.append_fsync.as_deref() {
        Some("always") if !skips => Durability::Always,
        _ if waits => Durability::Waited,
        // While the file is rewritten it is not synced at all.
        Some("always" | "everysec") if skips => Durability::System,
        Some("everysec") => Durability::EverySecond,
        Some("no") => Durability::System,
        _ => Durability::Unknown,
    }
}

/// Whether waiting for the disk is worth trying: it is needed, and the server knows the command.
pub(super) fn may_wait(info: &HashMap<&str, &str>, asked: &Asked) -> bool {
    let is_needed = !matches!(durability(info, asked, false), Durability::Always);
    // With "no" nobody syncs, so it would be waited for in vain.
    let syncs = asked.append_fsync.as_deref() != Some("no");
    is_needed && syncs && info.get("aof_enabled") == Some(&"1") && version(info) >= (7, 2)
}

fn version(info: &HashMap<&str, &str>) -> (u32, u32) {
    let mut parts = info.get("redis_version").unwrap_or(&"").split('.').map(str::parse::<u32>);
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\
                        role:master\r\naof_enabled:1\r\nmaxmemory:0\r\n\
                        maxmemory_policy:noeviction\r\ncluster_enabled:0\r\n";

    fn asked(fsync: &str, on_rewrite: &str) -> Asked {
        let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Asked { append_fsync: word(fsync), no_fsync_on_rewrite: word(on_rewrite) }
    }

    #[test]
    fn what_the_settings_promise_is_told() {
        let cases = [
            ("1", "always", "no", false, Durability::Always),
            ("1", "always", "yes", false, Durability::System),
            ("1", "always", "yes", true, Durability::Waited),
            ("1", "everysec", "no", false, Durability::EverySecond),
            ("1", "everysec", "yes", false, Durability::System),
            ("1", "everysec", "no", true, Durability::Waited),
            ("1", "no", "no", false, Durability::System),
            ("1", "", "", false, Durability::Unknown),
            ("0", "always", "no", false, Durability::Snapshots),
        ];
        for (aof, fsync, on_rewrite, waits, expected) in cases {
            let text = GOOD.replace("aof_enabled:1", &format!("aof_enabled:{aof}"));
            let judged = judge(&fields(&text), &asked(fsync, on_rewrite), waits);
            assert_eq!(judged.durability, expected, "{aof} {fsync} {on_rewrite} {waits}");
            assert_eq!(judged.refusal, None);
        }
    }

    #[test]
    fn a_server_that_evicts_any_key_is_refused_and_one_that_evicts_expiring_ones_is_not() {
        for (policy, is_refused) in
            [("allkeys-lru", true), ("allkeys-random", true), ("volatile-lru", false)]
        {
            let text = GOOD.replace("noeviction", policy);
            let refusal = judge(&fields(&text), &asked("always", "no"), false).refusal;
            assert_eq!(refusal.is_some(), is_refused, "{policy}");
            assert!(refusal.is_none_or(|text| text.contains("noeviction")));
        }
    }

    #[test]
    fn a_replica_a_cluster_and_an_old_server_are_of_no_use() {
        for (from, to, part) in [
            ("role:master", "role:slave\r\nmaster_host:a\r\nmaster_port:1", "(a:1)"),
            ("cluster_enabled:0", "cluster_enabled:1", "Redis Cluster"),
            ("standalone", "sentinel", "Sentinel"),
            ("7.0.15", "5.0.1", "Redis 6.0"),
        ] {
            let text = GOOD.replace(from, to);
            let reason = unusable(&fields(&text)).expect("it is refused");
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(unusable(&fields(GOOD)), None);
    }

    #[test]
    fn the_disk_is_waited_for_only_where_that_helps() {
        let new = GOOD.replace("7.0.15", "7.2.0");
        assert!(may_wait(&fields(&new), &asked("everysec", "no")));
        assert!(may_wait(&fields(&new), &asked("", "")));
        assert!(!may_wait(&fields(&new), &asked("always", "no")));
        assert!(!may_wait(&fields(&new), &asked("no", "no")));
        assert!(!may_wait(&fields(GOOD), &asked("everysec", "no")));
    }
}
