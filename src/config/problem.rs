//! What is wrong with a configuration, and where. All of it at once.
//!
//! Invariant: no value of a secret key is in here; who makes a problem sees to that.

use std::fmt;

use super::ROOT;

/// Where a setting, or what is wrong with it, stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// In a file; lines count from 1, and 0 is the file as a whole.
    File {
        /// The file's path, as it was given.
        name: String,
        /// The line.
        line: usize,
    },
    /// In a mapping.
    Mapping,
    /// In a variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// In an argument.
    Argument,
}

impl Origin {
    /// The same source, at another line if it has lines.
    #[must_use]
    pub(super) fn at(&self, line: usize) -> Self {
        match self {
            Self::File { name, .. } => Self::File { name: name.clone(), line },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { name, line: 0 } => formatter.write_str(name),
            Self::File { name, line } => write!(formatter, "{name}:{line}"),
            Self::Mapping => formatter.write_str("mapping"),
            Self::Environment { variable } => formatter.write_str(variable),
            Self::Argument => formatter.write_str("argument"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// The key with its sections, such as `timeouts.prepare_phase_timeout_seconds`; empty where it
    /// is the whole.
    pub key: String,
    /// What, as it goes on behind the key.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            // As the code that gave it would name it.
            Origin::Mapping => {
                formatter.write_str("config")?;
                for part in self.key.split('.').filter(|part| !part.is_empty()) {
                    write!(formatter, "['{part}']")?;
                }
            }
            Origin::Default if self.key.is_empty() => formatter.write_str(ROOT)?,
            Origin::Default => formatter.write_str(&self.key)?,
            origin if self.key.is_empty() => write!(formatter, "{origin}:")?,
            origin => write!(formatter, "{origin}: {}", self.key)?,
        }
        write!(formatter, " {}; {}", self.message, self.hint)
    }
}

/// Everything that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "\n" };
            write!(formatter, "{between}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
