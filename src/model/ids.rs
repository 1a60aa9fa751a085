//! The names of things: coordinations, stores, processes, journals. Plain checked strings.
//!
//! Not a generator: ids are minted where randomness is allowed, above layer 2.
//! Invariant: a [`CoordinationId`] and a [`StoreName`] are 1 to 128 characters without NUL.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest id, in characters.
pub const ID_CHARACTERS_MAX: usize = 128;

/// Why a string cannot be an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The string has no characters.
    #[error("it is empty; give at least one character")]
    Empty,
    /// The string has too many characters.
    #[error("it has {characters} characters; {allowed} are allowed")]
    TooLong {
        /// How many it has.
        characters: usize,
        /// How many it may have.
        allowed: usize,
    },
    /// The string has a NUL character.
    #[error("it contains a NUL character, which databases and file systems cannot hold")]
    Nul,
}

/// Checks a name: 1 to `allowed` characters without NUL.
pub(super) fn check(text: &str, allowed: usize) -> Result<(), IdError> {
    // Bytes bound characters from above, so the common short id needs no count.
    let characters = if text.len() <= allowed { text.len() } else { text.chars().count() };
    match characters {
        0 => Err(IdError::Empty),
        _ if characters > allowed => Err(IdError::TooLong { characters, allowed }),
        _ if text.contains('\0') => Err(IdError::Nul),
        _ => Ok(()),
    }
}

macro_rules! id_type {
    ($(#[$docs:meta])* $name:ident) => {
        $(#[$docs])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps the string.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check(text, ID_CHARACTERS_MAX)?;
                Ok(Self(text.into()))
            }

            /// The string itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The string, for a name of another kind with at least the same rules.
            #[allow(dead_code, reason = "only some names serve as others")]
            pub(super) fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id_type! {
    /// The id of one coordination: the whole unit that commits or aborts. Stores see it as the
    /// transaction id.
    CoordinationId
}
id_type! {
    /// The name of a store inside a service.
    StoreName
}
id_type! {
    /// The id of one running process's hold on a journal; it owns the coordinations it began.
    InstanceId
}
id_type! {
    /// The id of a stream of events.
    StreamId
}
id_type! {
    /// The id of a journal. Stores put it into what they prepare, so that two services with two
    /// journals on one database do not resolve each other's work.
    ClusterId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_1_to_128_characters_without_nul() {
        assert_eq!(CoordinationId::new(""), Err(IdError::Empty));
        assert_eq!(CoordinationId::new(&"é".repeat(128)).map(|id| id.as_str().len()), Ok(256));
        assert_eq!(
            CoordinationId::new(&"a".repeat(129)),
            Err(IdError::TooLong { characters: 129, allowed: 128 })
        );
        assert_eq!(StoreName::new("a\0b"), Err(IdError::Nul));
    }
}
