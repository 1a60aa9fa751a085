//! Which process this is, and whether another one of the same machine has ended.
//!
//! Not a guess: without proof a process counts as running, and its session ends by its heartbeat.
//! Invariant: a process is said to have ended only when this kernel, in the same namespace of
//! process ids, runs none of that id and start.

use std::fs;

/// The machine since its start, with the namespace of its process ids; empty where that cannot be
/// told, and then nobody is ever said to have ended.
pub fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

/// This process: its id and when it was started.
pub fn process() -> String {
    let id = std::process::id();
    format!("{id} {}", started(id).unwrap_or_default())
}

/// Whether this process of this machine has ended.
pub fn has_ended(process: &str) -> bool {
    let Some((id, start)) = process.split_once(' ') else { return false };
    let Ok(id) = id.parse() else { return false };
    !start.is_empty() && started(id).is_none_or(|now| now != start)
}

/// When a process was started, in ticks of the kernel; `None` when it does not run, also where its
/// parent did not ask for its end yet.
fn started(id: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before the last bracket may hold anything.
    let fields: Vec<&str> = status.rsplit_once(')')?.1.split_whitespace().collect();
    let is_over = matches!(fields.first(), Some(&("Z" | "X")));
    fields.get(19).filter(|_| !is_over).map(|ticks| (*ticks).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_not_ended_and_one_that_was_killed_has() {
        assert!(!has_ended(&process()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let name = format!("{} {}", child.id(), started(child.id()).unwrap());
        assert!(!has_ended(&name));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&name));
        assert!(!has_ended("1 "), "what cannot be told is no proof");
    }
}
