//! A tree of what was given, before anything is checked: the same for a file and for a mapping.
//!
//! Invariant: what came from the environment keeps its text, so that the key which it is for
//! decides what it means.

use crate::model::value::Value;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) content: Content,
    /// Counted from 1; 0 where there are no lines.
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// `text`: what it was written as, where a variable of the environment is part of it.
    Scalar {
        value: Value,
        text: Option<String>,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// What is wrong with it was told.
    Told,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Node {
    /// The tree of a value, which has no lines.
    pub(super) fn of(value: &Value) -> Self {
        let content = match value {
            Value::List(values) => Content::List(values.iter().map(Self::of).collect()),
            Value::Map(entries) => Content::Map(
                entries
                    .iter()
                    .map(|(name, value)| Entry {
                        name: name.clone(),
                        line: 0,
                        node: Self::of(value),
                    })
                    .collect(),
            ),
            scalar => Content::Scalar { value: scalar.clone(), text: None },
        };
        Self { content, line: 0 }
    }

    /// As [`Node::of`], for values in which a `${` is no reference to the environment.
    pub(super) fn of_literal(value: &Value) -> Self {
        fn escape(node: &mut Node) {
            match &mut node.content {
                Content::Scalar { value: Value::Text(text), .. } => {
                    *text = text.replace("${", "$${");
                }
                Content::List(nodes) => nodes.iter_mut().for_each(escape),
                Content::Map(entries) => {
                    for entry in entries {
                        escape(&mut entry.node);
                    }
                }
                _ => {}
            }
        }
        let mut node = Self::of(value);
        escape(&mut node);
        node
    }

    /// How many nodes it is.
    pub(super) fn count(&self) -> usize {
        match &self.content {
            Content::Scalar { .. } | Content::Told => 1,
            Content::List(nodes) => 1 + nodes.iter().map(Self::count).sum::<usize>(),
            Content::Map(entries) => {
                1 + entries.iter().map(|entry| entry.node.count()).sum::<usize>()
            }
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar { value: Value::Null, .. })
    }
}
