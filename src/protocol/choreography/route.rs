//! The route of a choreographed saga: in which order its operations are taken, by the events that
//! trigger them. Pure.
//!
//! Not who takes them (whoever has the store) and not the messages (engine). One operation is under
//! way at a time, so a failure has one way back. An operation is triggered by the event in its key
//! `on`, by default the one that the operation before it emits; it emits the event in `emits`, by
//! default `<operation_id>.completed`. Operations that wait for one event come in the order given.
//!
//! Invariant: every operation is on the route once, behind the one whose event triggers it.

use crate::model::operation::Operation;
use crate::model::request::CoordinationRequest;
use crate::model::value::Value;

/// Operations by their index, in the order in which they are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    order: Vec<usize>,
    emits: Vec<String>,
}

/// What is wrong with the events of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// There is nothing to do.
    #[error("there are no operations; a choreographed saga needs at least one")]
    NoOperations,
    /// A key has a value of the wrong type.
    #[error("operations[{index}] has '{key}' of type {kind}; give the name of an event, a str")]
    WrongType {
        /// The operation.
        index: usize,
        /// `on` or `emits`.
        key: &'static str,
        /// What it is instead.
        kind: &'static str,
    },
    /// Nobody can undo it, if a later one fails.
    #[error(
        "operation '{operation}' cannot be undone if a later one fails: give it a 'compensation', \
         True where its store knows how, or None where there is nothing to undo"
    )]
    NoCompensation {
        /// The operation.
        operation: String,
    },
    /// Two operations emit the same event.
    #[error("operations '{first}' and '{second}' both emit '{event}'; give each its own event")]
    EmittedTwice {
        /// The first that emits it.
        first: String,
        /// The second.
        second: String,
        /// The event.
        event: String,
    },
    /// No operation is triggered by the beginning, or some never are.
    #[error(
        "operation '{operation}' waits for '{event}', which no operation on the way to it emits; \
         the events there are: {known}"
    )]
    NeverTriggered {
        /// The operation.
        operation: String,
        /// What it waits for.
        event: String,
        /// Every event that is emitted.
        known: String,
    },
}

fn event_of(
    operation: &Operation,
    index: usize,
    key: &'static str,
) -> Result<Option<String>, RouteError> {
    match operation.body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(event)) if !event.is_empty() => Ok(Some(event.clone())),
        Some(other) => Err(RouteError::WrongType { index, key, kind: other.kind() }),
    }
}

impl Route {
    /// Checks the request's events, and finds the order. `can_compensate` answers for stores that
    /// are here; of others only what the operation itself says is known.
    pub fn check(
        request: &CoordinationRequest,
        can_compensate: impl Fn(&Operation) -> bool,
    ) -> Result<Self, RouteError> {
        let operations = &request.operations;
        if operations.is_empty() {
            return Err(RouteError::NoOperations);
        }
        let emits = emitted(operations)?;
        let mut triggers: Vec<Option<String>> = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            let given = event_of(operation, index, "on")?;
            let before = index.checked_sub(1).map(|before| emits[before].clone());
            triggers.push(given.or(before));
        }
        let route = Self { order: order(&triggers, &emits), emits };
        if let Some(index) = (0..operations.len()).find(|index| !route.order.contains(index)) {
            return Err(RouteError::NeverTriggered {
                operation: operations[index].id.clone(),
                event: triggers[index].clone().unwrap_or_default(),
                known: route.emits.join(", "),
            });
        }
        route.check_undoing(operations, can_compensate)?;
        Ok(route)
    }

    /// Each may have to be undone: the last one too, when nobody knows whether it had an effect.
    fn check_undoing(
        &self,
        operations: &[Operation],
        can_compensate: impl Fn(&Operation) -> bool,
    ) -> Result<(), RouteError> {
        let is_given = |operation: &Operation| operation.body.get("compensation").is_some();
        let cannot = |index: &&usize| {
            !is_given(&operations[**index]) && !can_compensate(&operations[**index])
        };
        match self.order.iter().find(cannot) {
            None => Ok(()),
            Some(index) => {
                Err(RouteError::NoCompensation { operation: operations[*index].id.clone() })
            }
        }
    }

    /// How many operations there are.
    pub fn length(&self) -> usize {
        self.order.len()
    }

    /// The operation at a place of the route.
    pub fn operation_at(&self, place: usize) -> Option<usize> {
        self.order.get(place).copied()
    }

    /// The event that an operation emits when it is done.
    pub fn event_of(&self, operation: usize) -> &str {
        &self.emits[operation]
    }
}

fn emitted(operations: &[Operation]) -> Result<Vec<String>, RouteError> {
    let mut emits: Vec<String> = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let event = event_of(operation, index, "emits")?
            .unwrap_or_else(|| format!("{}.completed", operation.id));
        if let Some(first) = emits.iter().position(|known| *known == event) {
            return Err(RouteError::EmittedTwice {
                first: operations[first].id.clone(),
                second: operation.id.clone(),
                event,
            });
        }
        emits.push(event);
    }
    Ok(emits)
}

/// Breadth first from those that nothing triggers.
fn order(triggers: &[Option<String>], emits: &[String]) -> Vec<usize> {
    let waiting_for = |event: Option<&String>| {
        let event = event.cloned();
        (0..triggers.len()).filter(move |index| triggers[*index] == event)
    };
    let mut order: Vec<usize> = waiting_for(None).collect();
    let mut next = 0;
    while let Some(done) = order.get(next).copied() {
        order.extend(waiting_for(Some(&emits[done])));
        next += 1;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::RequestParts;

    fn request(operations: &[(&str, &[(&str, &str)])]) -> CoordinationRequest {
        let operations = operations.iter().map(|(id, keys)| {
            let base = [("store", "s"), ("type", "do"), ("operation_id", id)];
            let mut body: Vec<(String, Value)> = base
                .iter()
                .chain(*keys)
                .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
                .collect();
            body.push(("compensation".to_owned(), Value::Null));
            Value::Map(body)
        });
        let parts = RequestParts {
            id: "c".to_owned(),
            kind: "saga_choreography".to_owned(),
            stores: vec!["s".to_owned()],
            operations: operations.collect(),
            timeout_seconds: 30.0,
            consistency: "session".to_owned(),
            metadata: Value::Map(Vec::new()),
        };
        CoordinationRequest::check(parts).unwrap()
    }

    fn order_of(operations: &[(&str, &[(&str, &str)])]) -> Result<Vec<usize>, RouteError> {
        Route::check(&request(operations), |_| false).map(|route| route.order)
    }

    #[test]
    fn without_events_operations_follow_one_another() {
        assert_eq!(order_of(&[("a", &[]), ("b", &[]), ("c", &[])]), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn events_lead_the_way_and_those_that_wait_for_one_come_as_they_were_given() {
        let operations: &[(&str, &[(&str, &str)])] = &[
            ("ship", &[("on", "PAID")]),
            ("pay", &[("on", "ORDERED"), ("emits", "PAID")]),
            ("mail", &[("on", "PAID")]),
            ("order", &[("on", "mail.completed"), ("emits", "ORDERED")]),
        ];
        // A circle through all of them: nothing begins.
        assert!(matches!(order_of(operations), Err(RouteError::NeverTriggered { .. })));
        let operations: &[(&str, &[(&str, &str)])] = &[
            ("order", &[("emits", "ORDERED")]),
            ("mail", &[("on", "PAID")]),
            ("pay", &[("on", "ORDERED"), ("emits", "PAID")]),
            ("ship", &[("on", "PAID")]),
        ];
        assert_eq!(order_of(operations), Ok(vec![0, 2, 1, 3]));
    }

    #[test]
    fn what_nobody_emits_or_two_emit_is_said_by_name() {
        let never = order_of(&[("a", &[]), ("b", &[("on", "NOWHERE")])]).unwrap_err();
        assert!(never.to_string().contains("'b' waits for 'NOWHERE'"), "{never}");
        assert!(never.to_string().contains("a.completed, b.completed"), "{never}");
        let twice = order_of(&[("a", &[("emits", "E")]), ("b", &[("emits", "E")])]).unwrap_err();
        assert!(twice.to_string().contains("'a' and 'b' both emit 'E'"), "{twice}");
    }
}
