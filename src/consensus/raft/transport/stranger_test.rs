//! Who does not belong to the cluster: refused, counted, told nothing, and no harm to the rest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::greet::greet;
use super::hello::{SecurityKind, opening};
use super::message::Message;
use super::test_kit::{Chance, Node, node, node_of, open, options, secret};
use super::{PeerAddress, TransportError};

const SECRET: &str = "the secret of the cluster";

/// `caller` calls `answerer` and is refused, without a reason when it is the answerer's.
async fn refused(caller: &Node, answerer: &PeerAddress) -> String {
    match caller.call(answerer, b"let me in").await {
        Err(TransportError::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

async fn raw(node: &Node) -> TcpStream {
    TcpStream::connect((node.address.host.as_str(), node.address.port)).await.unwrap()
}

/// What the other side still says before it closes.
async fn rest(mut tcp: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = tcp.read_to_end(&mut rest).await;
    rest
}

#[tokio::test]
async fn a_wrong_secret_is_refused_counted_and_told_no_reason() {
    let (a, b) =
        (node("a", secret("another secret, as long")).await, node("b", secret(SECRET)).await);
    let words = refused(&a, &b.address).await;
    assert!(words.contains("it refuses this node") && !words.contains("know"), "{words}");
    b.counts(|counts| counts.refused == 1 && counts.connections == 0).await;
    assert_eq!(b.echo.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_security_is_refused_at_once() {
    let (bare, b) = (node("a", open()).await, node("b", secret(SECRET)).await);
    refused(&bare, &b.address).await;
    refused(&b, &bare.address).await;
    b.counts(|counts| counts.refused == 1).await;
    bare.counts(|counts| counts.refused == 1).await;
}

#[tokio::test]
async fn nodes_of_two_clusters_refuse_each_other_and_one_without_a_cluster_is_let_in() {
    let of = |id, cluster: Option<&str>| {
        let cluster = cluster.map(str::to_owned);
        node_of(super::TransportOptions { cluster, ..options(id, secret(SECRET)) })
    };
    let (one, other) = (of("a", Some("one")).await, of("b", Some("other")).await);
    let young = of("c", None).await;
    refused(&one, &other.address).await;
    other.counts(|counts| counts.refused == 1).await;
    young.call(&one.address, b"").await.unwrap();
    other.call(&young.address, b"").await.unwrap();
    let late = of("d", None).await;
    late.network.set_cluster("other");
    let words = refused(&late, &one.address).await;
    assert!(!words.contains("one"), "a stranger learns the cluster's name: {words}");
}

#[tokio::test]
async fn an_address_at_which_another_node_is_found_is_refused() {
    let (a, b) = (node("a", open()).await, node("b", open()).await);
    let mut wrong = b.address.clone();
    wrong.id = "c".to_owned();
    refused(&a, &wrong).await;
    let twin = node("b", open()).await;
    refused(&twin, &b.address).await;
    b.counts(|counts| counts.refused == 2).await;
}

#[tokio::test]
async fn garbage_is_dropped_and_counted_and_others_go_on() {
    let (a, b) = (node("a", open()).await, node("b", open()).await);
    a.call(&b.address, b"before").await.unwrap();
    let mut chance = Chance::new();
    for _ in 0..20 {
        let mut tcp = raw(&b).await;
        let noise = [&b"GET / HTTP/1.1\r\n"[..], &chance.bytes(200)].concat();
        // The node may have closed before all of it was written.
        let _ = tcp.write_all(&noise).await;
        assert_eq!(rest(tcp).await.iter().filter(|byte| **byte != 0).count(), 0);
    }
    b.counts(|counts| counts.garbage == 20).await;
    let mut version = opening(SecurityKind::Open);
    version[4] = 99;
    let mut tcp = raw(&b).await;
    tcp.write_all(&version).await.unwrap();
    assert_eq!(rest(tcp).await, [0]);
    b.counts(|counts| counts.refused == 1).await;
    a.call(&b.address, b"after").await.unwrap();
    assert_eq!(b.network.counts().connections, 1);
}

#[tokio::test]
async fn a_greeting_that_is_noise_is_dropped() {
    let b = node("b", secret(SECRET)).await;
    let mut chance = Chance::new();
    for run in 1..=50 {
        let mut tcp = raw(&b).await;
        tcp.write_all(&opening(SecurityKind::Secret)).await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), 1);
        let _ = tcp.write_all(&[&[0xff; 8][..], &chance.bytes(500)].concat()).await;
        rest(tcp).await;
        b.counts(|counts| counts.garbage == run).await;
    }
}

#[tokio::test]
async fn noise_of_a_node_that_is_known_ends_its_connection_alone() {
    let (a, b) = (node("a", secret(SECRET)).await, node("b", secret(SECRET)).await);
    let c = node("c", secret(SECRET)).await;
    c.call(&b.address, b"before").await.unwrap();
    let identity = a.network.identity();
    // Too long; an answer that nobody asked for.
    for run in 1..=2 {
        let link = greet(&identity, &b.address, raw(&b).await).await.ok().unwrap();
        let mut writer = link.writer;
        if run == 1 {
            writer.put_noise(&[0xff; 32]);
        } else {
            writer.put(&Message::AnswerTooLarge { number: 7 });
        }
        writer.flush().await.unwrap();
        b.counts(|counts| counts.garbage == run && counts.connections == 1).await;
    }
    c.call(&b.address, b"after").await.unwrap();
}

#[tokio::test]
async fn who_greets_too_slowly_is_sent_away() {
    let mut quick = options("b", secret(SECRET));
    quick.greeting_timeout = Duration::from_millis(50);
    let b = node_of(quick).await;
    assert_eq!(rest(raw(&b).await).await, b"");
    let mut half = raw(&b).await;
    half.write_all(&opening(SecurityKind::Secret)).await.unwrap();
    assert_eq!(rest(half).await, [1]);
    b.counts(|counts| counts.unfinished == 2).await;
}

#[tokio::test]
async fn a_crowd_that_says_nothing_keeps_no_node_out() {
    let mut narrow = options("b", secret(SECRET));
    narrow.greetings_max = 4;
    narrow.greeting_timeout = Duration::from_secs(600);
    let (a, b) = (node("a", secret(SECRET)).await, node_of(narrow).await);
    let mut crowd = Vec::new();
    for _ in 0..10 {
        crowd.push(raw(&b).await);
    }
    a.call(&b.address, b"").await.unwrap();
    b.counts(|counts| counts.crowded == 7).await;
    assert_eq!(rest(crowd.swap_remove(0)).await, b"");
}

#[tokio::test]
async fn connections_of_nodes_are_bounded_too() {
    let mut narrow = options("b", open());
    narrow.connections_max = 1;
    let (a, b) = (node("a", open()).await, node_of(narrow).await);
    a.call(&b.address, b"").await.unwrap();
    let c = node("c", open()).await;
    let error = c.call(&b.address, b"").await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable(_)), "{error}");
    b.counts(|counts| counts.crowded >= 1).await;
    a.call(&b.address, b"").await.unwrap();
}
