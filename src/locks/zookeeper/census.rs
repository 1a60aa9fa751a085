//! Reads the queues of all resources from the server: who holds, who waits, who waits for whom.
//!
//! Not a decision. A census takes three flights: the containers, their children, the children's
//! data; so it is no single moment. Whoever decides by it takes two and believes what stands in
//! both: a node stands once, so an edge that is in both stood all the time between.
//!
//! Invariant: the edges of a wait are those that the grant rule waits for, no others.

use std::collections::{BTreeMap, BTreeSet};

use zookeeper_client::{Error, MultiReadResult, Stat};

use crate::locks::WaitForGraph;
use crate::locks::zookeeper_path::{container_name, resource_of};
use crate::locks::zookeeper_queue::Queue;
use crate::model::lock::{LockId, LockInfo, LockMode, RequesterId, ResourceId};
use crate::protocol::claim::Claim;
use crate::protocol::deadlock::WaitGraph;

use super::node::{Details, times, token_of};
use super::options::Server;
use super::session::{Session, Trouble};

/// So many nodes are read by one request.
const READS_MAX: usize = 200;

/// One resource's queue with what is known of each.
pub(super) struct Line {
    resource: ResourceId,
    queue: Queue,
    details: BTreeMap<String, (Details, Stat)>,
}

/// Somebody waits for somebody, by their nodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    resource: ResourceId,
    waiter: String,
    blocker: String,
}

/// Reads the queue of a resource, or of all; of those only where somebody waits, if so asked.
pub(super) async fn take(
    session: &Session,
    server: &Server,
    resource: Option<&ResourceId>,
    only_waits: bool,
) -> Result<Vec<Line>, Error> {
    loop {
        match try_take(session, server, resource, only_waits).await {
            Err(error) if Trouble::of(&error) == Trouble::Passing => {}
            result => return result,
        }
    }
}

async fn try_take(
    session: &Session,
    server: &Server,
    resource: Option<&ResourceId>,
    only_waits: bool,
) -> Result<Vec<Line>, Error> {
    let containers = match resource {
        Some(resource) => vec![container_name(resource)],
        None => match session.client.list_children(&server.root).await {
            Ok(containers) => containers,
            Err(Error::NoNode) => Vec::new(),
            Err(error) => return Err(error),
        },
    };
    let mut queues = Vec::new();
    for some in containers.chunks(READS_MAX) {
        let mut reader = session.client.new_multi_reader();
        for container in some {
            reader.add_get_children(&server.path(container))?;
        }
        for (container, result) in some.iter().zip(reader.commit().await?) {
            if let Some(children) = children_of(result)? {
                let queue = Queue::of(children);
                let has_waits = queue.granted() < queue.places().len();
                if has_waits || !only_waits && !queue.places().is_empty() {
                    queues.push((container.clone(), queue));
                }
            }
        }
    }
    fill(session, server, queues).await
}

/// The children of a container; `None` where it went in the meantime.
fn children_of(result: MultiReadResult) -> Result<Option<Vec<String>>, Error> {
    match result {
        MultiReadResult::Children { children } => Ok(Some(children)),
        MultiReadResult::Error { err: Error::NoNode } => Ok(None),
        MultiReadResult::Error { err } => Err(err),
        other => Err(Error::UnexpectedError(format!("children were asked for, not {other:?}"))),
    }
}

async fn fill(
    session: &Session,
    server: &Server,
    queues: Vec<(String, Queue)>,
) -> Result<Vec<Line>, Error> {
    let paths: Vec<(usize, &str)> = queues
        .iter()
        .enumerate()
        .flat_map(|(at, (_, queue))| {
            queue.places().iter().map(move |place| (at, place.child.as_str()))
        })
        .collect();
    let mut details: Vec<BTreeMap<String, (Details, Stat)>> =
        queues.iter().map(|_| BTreeMap::new()).collect();
    for some in paths.chunks(READS_MAX) {
        let mut reader = session.client.new_multi_reader();
        for (at, child) in some {
            reader.add_get_data(&format!("{}/{child}", server.path(&queues[*at].0)))?;
        }
        for ((at, child), result) in some.iter().zip(reader.commit().await?) {
            match result {
                MultiReadResult::Data { data, stat } => {
                    if let Some(found) = Details::from_bytes(&data) {
                        details[*at].insert((*child).to_owned(), (found, stat));
                    }
                }
                MultiReadResult::Error { err } if err != Error::NoNode => return Err(err),
                // It went in the meantime.
                _ => {}
            }
        }
    }
    let lines = queues.into_iter().zip(details).filter_map(|((container, queue), details)| {
        // Only the name of a long resource does not tell it; each of its nodes' data does.
        let told = || details.values().next().map(|(details, _)| details.resource.clone());
        let resource = resource_of(&container).or_else(told)?;
        Some(Line { resource, queue, details })
    });
    Ok(lines.collect())
}

impl Line {
    fn of(&self, index: usize) -> Option<&(Details, Stat)> {
        self.details.get(&self.queue.places()[index].child)
    }

    /// The holders, then those who wait, in their order.
    pub(super) fn infos(&self) -> Vec<LockInfo> {
        let granted = self.queue.granted();
        let info = |index: usize| {
            let (details, stat) = self.of(index)?;
            let mode = self.queue.places()[index].name.mode;
            Some(if index < granted {
                self.held(index, mode, details, stat)
            } else {
                self.waiting(index - granted, mode, details, stat)
            })
        };
        (0..self.queue.places().len()).filter_map(info).collect()
    }

    fn held(&self, position: usize, mode: LockMode, details: &Details, stat: &Stat) -> LockInfo {
        let (_, changed) = times(stat);
        let token = details.token.unwrap_or_else(|| token_of(stat.mzxid));
        let lease = details.lease_ms.map(std::time::Duration::from_millis);
        LockInfo {
            resource: self.resource.clone(),
            mode,
            requester: details.requester.clone(),
            lock_id: Some(LockId::new(&self.resource, mode, token)),
            position,
            since: changed,
            expires_at: lease.map(|lease| changed + lease),
            fencing_token: Some(token),
        }
    }

    fn waiting(&self, position: usize, mode: LockMode, details: &Details, stat: &Stat) -> LockInfo {
        let (since, _) = times(stat);
        let timeout = details.timeout_ms.map(std::time::Duration::from_millis);
        LockInfo {
            resource: self.resource.clone(),
            mode,
            requester: details.requester.clone(),
            lock_id: None,
            position,
            since,
            expires_at: timeout.map(|timeout| since + timeout),
            fencing_token: None,
        }
    }

    fn claim(&self, index: usize) -> Option<Claim> {
        let (details, _) = self.of(index)?;
        Some(Claim {
            requester: details.requester.clone(),
            // The queue has judged who is in whose way; between these two everything is.
            mode: LockMode::Exclusive,
            working_since: details.working_since,
            is_protected: details.is_protected,
        })
    }

    /// Each pair of one who waits and one in its way.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let waiters = self.queue.granted()..self.queue.places().len();
        waiters.flat_map(|waiter| {
            self.queue.blockers(waiter).into_iter().map(move |blocker| (waiter, blocker))
        })
    }

    fn edge(&self, waiter: usize, blocker: usize) -> Edge {
        let child = |index: usize| self.queue.places()[index].child.clone();
        Edge { resource: self.resource.clone(), waiter: child(waiter), blocker: child(blocker) }
    }
}

/// All edges of a census.
pub(super) fn edges(lines: &[Line]) -> BTreeSet<Edge> {
    let of =
        |line: &Line| line.pairs().map(|(one, other)| line.edge(one, other)).collect::<Vec<_>>();
    lines.iter().flat_map(of).collect()
}

/// The graph of a census, of those edges only that `believed` has, if it is given.
pub(super) fn graph(lines: &[Line], believed: Option<&BTreeSet<Edge>>) -> WaitGraph {
    let mut graph = WaitGraph::default();
    for line in lines {
        for (waiter, blocker) in line.pairs() {
            let is_believed =
                believed.is_none_or(|edges| edges.contains(&line.edge(waiter, blocker)));
            if let (true, Some(ahead), Some(behind)) =
                (is_believed, line.claim(blocker), line.claim(waiter))
            {
                graph.add_resource(&line.resource, &[ahead, behind]);
            }
        }
    }
    graph
}

/// Who waits for whom, by requester.
pub(super) fn wait_for(lines: &[Line]) -> WaitForGraph {
    graph(lines, None).edges()
}

/// Whether one of these tags waits in a census.
pub(super) fn has_waiter(lines: &[Line], requester: &RequesterId, tag: &str) -> bool {
    lines.iter().any(|line| {
        line.queue.places()[line.queue.granted()..].iter().enumerate().any(|(at, place)| {
            place.name.tag == tag
                && line
                    .of(line.queue.granted() + at)
                    .is_some_and(|(details, _)| details.requester == *requester)
        })
    })
}
