//! The scripts, as Redis runs them: one is one step of the server's, all or nothing of it seen.
//!
//! What they do stands in `scripts/`. They are loaded with every new connection and asked for by
//! their hash; where the server has lost them (SCRIPT FLUSH), the text is sent. Invariant: the
//! keys and the arguments of a call are given in the order in which the script takes them.

use std::fmt::Display;

use redis::Cmd;

use super::scope::Scope;

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Prepare,
    Commit,
    Abort,
    Step,
}

macro_rules! source {
    ($file:literal) => {
        concat!(include_str!("scripts/common.lua"), include_str!(concat!("scripts/", $file)))
    };
}

impl Script {
    pub(super) const ALL: [Self; 4] = [Self::Prepare, Self::Commit, Self::Abort, Self::Step];

    /// Whether it begins something, rather than end it.
    pub(super) fn begins(self) -> bool {
        matches!(self, Self::Prepare | Self::Step)
    }

    /// Its text.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Prepare => source!("prepare.lua"),
            Self::Commit => source!("commit.lua"),
            Self::Abort => source!("abort.lua"),
            Self::Step => source!("step.lua"),
        }
    }
}

/// A script with what it is asked.
pub(super) struct Call {
    pub(super) script: Script,
    keys: [String; 8],
    arguments: Vec<Vec<u8>>,
}

impl Call {
    pub(super) fn new(script: Script, scope: &Scope) -> Self {
        Self { script, keys: scope.keys.clone(), arguments: Vec::new() }
    }

    /// With one argument more.
    pub(super) fn bytes(&mut self, argument: impl Into<Vec<u8>>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// With one argument more, as text.
    pub(super) fn text(&mut self, argument: impl Display) -> &mut Self {
        self.bytes(argument.to_string())
    }

    /// With one argument more, as a truth.
    pub(super) fn flag(&mut self, argument: bool) -> &mut Self {
        self.text(u8::from(argument))
    }

    /// The command, by the hash of the script or with its text.
    pub(super) fn command(&self, hash: Option<&str>) -> Cmd {
        let mut command = redis::cmd(if hash.is_some() { "EVALSHA" } else { "EVAL" });
        command.arg(hash.unwrap_or(self.script.source())).arg(self.keys.len());
        command.arg(&self.keys[..]);
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
        command
    }
}

/// What a script answered: words, of which the first says what follows.
pub(super) struct Words(Vec<Vec<u8>>);

impl Words {
    /// From the answer; another shape gives no words.
    pub(super) fn read(answer: redis::Value) -> Self {
        let redis::Value::Array(parts) = answer else { return Self(Vec::new()) };
        let words = parts.into_iter().map(|part| match part {
            redis::Value::BulkString(bytes) => bytes,
            redis::Value::SimpleString(text) => text.into_bytes(),
            redis::Value::Int(number) => number.to_string().into_bytes(),
            _ => Vec::new(),
        });
        Self(words.collect())
    }

    /// The word at a place, as text; nothing where there is none.
    pub(super) fn text(&self, place: usize) -> String {
        String::from_utf8_lossy(self.0.get(place).map_or(&[][..], Vec::as_slice)).into_owned()
    }

    /// Whether the word at a place is "1".
    pub(super) fn flag(&self, place: usize) -> bool {
        self.text(place) == "1"
    }

    /// The member of a list that the word at a place numbers, from 1.
    pub(super) fn of<'a, T>(&self, place: usize, list: &'a [T]) -> Option<&'a T> {
        list.get(self.text(place).parse::<usize>().ok()?.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participants::test_kit::{cluster, store_name};

    #[test]
    fn a_call_has_its_keys_and_arguments_in_order() {
        let scope = Scope::new(&cluster(), &store_name());
        let mut call = Call::new(Script::Abort, &scope);
        call.text("t").bytes(vec![0, 255]).flag(true);
        let packed = call.command(Some("abc")).get_packed_command();
        let text = String::from_utf8_lossy(&packed);
        assert!(text.starts_with("*14\r\n$7\r\nEVALSHA\r\n$3\r\nabc\r\n$1\r\n8\r\n"), "{text}");
        assert!(text.ends_with("$1\r\n1\r\n"));
        assert!(Script::ALL.iter().all(|script| script.source().starts_with("-- What the")));
    }

    #[test]
    fn an_answer_of_another_shape_has_no_words() {
        let words = Words::read(redis::Value::Okay);
        assert_eq!((words.text(0), words.of(1, &[1])), (String::new(), None));
        let part = |text: &str| redis::Value::BulkString(text.as_bytes().to_vec());
        let words = Words::read(redis::Value::Array(vec![part("held"), part("2")]));
        assert_eq!((words.text(0), words.of(1, &["a", "b"])), ("held".to_owned(), Some(&"b")));
    }
}
