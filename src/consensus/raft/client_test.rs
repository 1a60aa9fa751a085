//! A client over real sockets: it asks any node, and the leader does it.

use std::sync::Arc;
use std::time::Duration;

use super::test_kit::BOUND;
use super::transport::{Network, PeerAddress, Secret, Security, TransportError, TransportOptions};
use super::{Failed, RaftClient, RaftError, RaftNode, RaftOptions};
use crate::model::ids::ClusterId;

fn security() -> Security {
    Security::Secret(Secret::new(b"the secret of the cluster").unwrap())
}

struct Served {
    node: RaftNode,
    network: Arc<Network>,
}

/// A node that listens where its address says.
async fn serve(own: &PeerAddress, nodes: Vec<PeerAddress>) -> Served {
    let mut raft = RaftOptions::new(ClusterId::new("tests").unwrap(), &own.id, nodes);
    raft.election_timeout = Duration::from_millis(500);
    raft.heartbeat_interval = Duration::from_millis(60);
    let transport = TransportOptions::new(own.clone(), security());
    let network = Arc::new(Network::bind(transport).await.unwrap());
    let node = RaftNode::start(raft, network.clone()).await.unwrap();
    network.serve(node.handler());
    Served { node, network }
}

fn addresses(ids: &[&str]) -> Vec<PeerAddress> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Held together, so that each is another one.
    let probes: Vec<_> = ids.iter().map(|_| bind()).collect();
    let port = |probe: &std::net::TcpListener| probe.local_addr().unwrap().port();
    let named = ids.iter().zip(&probes).map(|(id, probe)| PeerAddress {
        id: (*id).to_owned(),
        host: "127.0.0.1".to_owned(),
        port: port(probe),
    });
    named.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_asks_any_node_and_the_leader_does_it() {
    let all = addresses(&["a", "b", "c"]);
    let (begin, joining) = (all[..2].to_vec(), &all[2]);
    let mut served = Vec::new();
    for own in &begin {
        served.push(serve(own, begin.clone()).await);
    }
    served.push(serve(joining, all.clone()).await);
    let client = RaftClient::new(None, security()).unwrap();
    for at in &begin {
        // By the one that leads and by the one that does not; done already counts as done.
        client.add_node(at, joining, BOUND).await.unwrap();
        let report = client.status(at, BOUND).await.unwrap();
        assert_eq!((report.node_id.as_str(), report.members.len()), (at.id.as_str(), 3));
        assert!(report.members.iter().all(|member| member.is_voter) && report.trouble.is_none());
    }
    client.transfer_leadership(&begin[0], "c", BOUND).await.unwrap();
    assert_eq!(client.status(joining, BOUND).await.unwrap().state, "leader");
    let refused = client.remove_node(&begin[1], "nobody", BOUND).await.unwrap_err();
    assert!(matches!(&refused, Failed::Cluster(RaftError::Membership(words))
        if words.contains("not among the nodes")));
    client.remove_node(&begin[0], "b", BOUND).await.unwrap();
    assert_eq!(client.status(joining, BOUND).await.unwrap().members.len(), 2);
    for one in served {
        one.node.end().await;
        one.network.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_asked_for_is_done_also_when_it_goes_away() {
    let all = addresses(&["a", "b"]);
    let first = serve(&all[0], all[..1].to_vec()).await;
    let second = serve(&all[1], all.clone()).await;
    let client = RaftClient::new(None, security()).unwrap();
    // It leads, so that it is the one that does it.
    super::test_kit::wait(&first.node, |metrics| metrics.current_leader.is_some()).await;
    let gone = client.add_node(&all[0], &all[1], Duration::from_millis(1)).await;
    // A quick machine may have done it by then.
    let is_gone = matches!(gone, Err(Failed::Transport(TransportError::Timeout(_))));
    assert!(is_gone || gone.is_ok(), "{gone:?}");
    super::test_kit::wait(&first.node, |metrics| {
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() == 1 && membership.voter_ids().count() == 2
    })
    .await;
    for one in [first, second] {
        one.node.end().await;
        one.network.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_nothing_that_nodes_say_to_each_other() {
    let [own] = addresses(&["a"]).try_into().unwrap();
    let served = serve(&own, vec![own.clone()]).await;
    let client = super::transport::Client::new(None, security()).unwrap();
    for request in [super::message::Request::Elect.encode(), b"noise".to_vec()] {
        let answer = client.call(&own, request, BOUND).await.unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("Refused"), "{text}");
    }
    let other = Security::Secret(Secret::new(b"another secret, as long").unwrap());
    let stranger = RaftClient::new(None, other).unwrap();
    let refused = stranger.status(&own, BOUND).await.unwrap_err();
    assert!(matches!(refused, Failed::Transport(TransportError::Refused(_))), "{refused}");
    served.node.end().await;
    served.network.close().await;
}
