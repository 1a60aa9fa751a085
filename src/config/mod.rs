//! The configuration: what may be set, read from a file, a mapping, the environment and arguments.
//!
//! Not the building of a service from it, and no defaults of the engine's own (`engine::Options`).
//! `keys` is the one table of settings; `schema`, the page and the checks follow from it.
//!
//! What is given later wins: defaults, then the file or the mapping, then the environment
//! (`UNANIMITY_...`), then arguments. Invariants: everything that is wrong is told at once, each
//! with its place; a secret is in no problem and in nothing that prints a [`Config`]; text that
//! others wrote never makes this panic, and what it may cost is bounded.

mod check;
mod environment;
mod keys;
mod nearest;
mod node;
mod page;
mod problem;
mod rules;
mod scalar;
mod schema;
mod secret;
mod substitute;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::model::value::Value;

use self::check::Reading;
use self::node::Node;

pub use self::keys::{KEYS, Key, Kind, Secrecy};
pub use self::page::table as page_table;
pub use self::problem::{Origin, Problem, Problems};
pub use self::schema::json_schema;
pub use self::secret::{MASK, masked};

/// The one key under which a file has everything.
pub const ROOT: &str = "coordination_service";

/// Where settings come from, weakest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// A YAML file.
    pub file: Option<&'a Path>,
    /// A map, as the file would have it.
    pub mapping: Option<&'a Value>,
    /// The variables of the environment. Those named `UNANIMITY_...` are settings; `${NAME}` is
    /// looked up in all of them.
    pub environment: Option<&'a BTreeMap<String, String>>,
    /// A map, as the file would have it, but for references: its texts are taken as they are.
    pub arguments: Option<&'a Value>,
}

/// One setting, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Which.
    pub key: &'static Key,
    /// Its value, of the key's kind; `Null` where there is none.
    pub value: Value,
    /// Where it was given.
    pub origin: Origin,
    /// The file that holds it, where it was given as the name of one.
    pub through: Option<String>,
}

/// A configuration that was checked: a setting for each of [`KEYS`], in their order.
#[derive(Clone, PartialEq)]
pub struct Config {
    settings: Vec<Setting>,
}

impl Config {
    /// Reads what the sources give, or tells everything that is wrong with it.
    pub fn read(sources: Sources<'_>) -> Result<Self, Problems> {
        let nothing = BTreeMap::new();
        let mut reading = Reading::new(sources.environment.unwrap_or(&nothing));
        if let Some(path) = sources.file
            && let Some(root) = yaml::read_file(path, &mut reading)
        {
            reading.take_root(&root, &Origin::File { name: path.display().to_string(), line: 0 });
        }
        if let Some(mapping) = sources.mapping {
            reading.take_root(&Node::of(mapping), &Origin::Mapping);
        }
        environment::take(&mut reading);
        if let Some(arguments) = sources.arguments {
            reading.take_root(&Node::of_literal(arguments), &Origin::Argument);
        }
        reading.finish().map(|settings| Self { settings })
    }

    /// All settings, in the order of [`KEYS`].
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The setting of that key, such as `consensus.election_timeout_ms`.
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key.path == path)
    }
}

impl Setting {
    /// The value for people: what is secret in it is hidden.
    pub fn shown(&self) -> Value {
        masked(self.key, &self.value)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.settings.iter().map(|setting| (setting.key.path, setting.shown()));
        formatter.debug_map().entries(shown).finish()
    }
}
