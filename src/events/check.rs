//! What a durable bus refuses before it touches its store.
//!
//! Invariant: what passes fits into the keys of both databases.

use super::{BusEvent, EventBusError, SubscribeAsk};

/// How the names of groups of one subscription begin.
pub(super) const OWN_GROUP: &str = "(own) ";

/// The longest name, in characters: an index of PostgreSQL holds 2,700 bytes.
const CHARACTERS_MAX: usize = 512;

/// Refuses an event that cannot be kept.
pub(super) fn check_event(bus: &str, event: &BusEvent) -> Result<(), EventBusError> {
    check_name(bus, "the event's id", &event.id)?;
    check_name(bus, "the event's type", &event.kind)?;
    check_name(bus, "the event's stream", &event.stream)
}

/// Refuses a subscription that cannot be kept.
pub(super) fn check_subscription(bus: &str, ask: &SubscribeAsk) -> Result<(), EventBusError> {
    if let Some(kind) = &ask.kind {
        check_name(bus, "the type to subscribe to", kind)?;
    }
    let Some(group) = &ask.group else { return Ok(()) };
    check_name(bus, "the group", group)?;
    if group.starts_with(OWN_GROUP) {
        let reason = format!("the group may not begin with \"{OWN_GROUP}\"; name it differently");
        return Err(EventBusError::Refused { bus: bus.to_owned(), reason });
    }
    Ok(())
}

fn check_name(bus: &str, what: &str, name: &str) -> Result<(), EventBusError> {
    let characters = name.chars().count();
    let reason = match characters {
        0 => format!("{what} is empty; give at least one character"),
        count if count > CHARACTERS_MAX => {
            format!("{what} has {count} characters; {CHARACTERS_MAX} are allowed")
        }
        _ if name.contains('\0') => {
            format!("{what} contains a NUL character, which databases cannot hold")
        }
        _ => return Ok(()),
    };
    Err(EventBusError::Refused { bus: bus.to_owned(), reason })
}
