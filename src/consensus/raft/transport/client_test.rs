//! Clients on loopback: let in as nodes are, taken for none, bounded, and strangers refused.

use super::test_kit::{Node, PATIENCE, node, node_of, open, options, secret};
use super::{Client, PeerAddress, Security, TransportError};

const SECRET: &str = "the secret of the cluster";

fn client(security: Security) -> Client {
    Client::new(None, security).unwrap()
}

/// Where the node is found, by whoever does not know its id.
fn place(node: &Node) -> PeerAddress {
    node.address.place().parse().unwrap()
}

async fn refused(client: &Client, to: &PeerAddress) -> String {
    match client.call(to, b"let me in".to_vec(), PATIENCE).await {
        Err(TransportError::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_is_answered_as_one_with_and_without_the_id_of_the_node() {
    for security in [open(), secret(SECRET)] {
        let b = node("b", security.clone()).await;
        let client = client(security);
        for to in [&b.address, &place(&b)] {
            let answer = client.call(to, b"how are you".to_vec(), PATIENCE).await.unwrap();
            assert_eq!(answer, b"how are you");
        }
        assert_eq!(*b.echo.from.lock().unwrap(), ["a client", "a client"]);
    }
}

#[tokio::test]
async fn a_client_without_the_secret_or_of_another_cluster_is_refused_and_counted() {
    let b = node_of(super::TransportOptions {
        cluster: Some("orders".to_owned()),
        ..options("b", secret(SECRET))
    })
    .await;
    refused(&client(secret("another secret, as long")), &place(&b)).await;
    refused(&client(open()), &place(&b)).await;
    let other = Client::new(Some("bills".to_owned()), secret(SECRET)).unwrap();
    refused(&other, &place(&b)).await;
    b.counts(|counts| counts.refused == 3).await;
    assert!(b.echo.from.lock().unwrap().is_empty());
    let own = Client::new(Some("orders".to_owned()), secret(SECRET)).unwrap();
    own.call(&place(&b), b"".to_vec(), PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_client_finds_no_other_node_than_the_one_it_named() {
    let b = node("b", secret(SECRET)).await;
    let mut wrong = b.address.clone();
    wrong.id = "c".to_owned();
    refused(&client(secret(SECRET)), &wrong).await;
    b.counts(|counts| counts.refused == 1).await;
}

#[tokio::test]
async fn what_a_client_asks_is_small() {
    let b = node("b", open()).await;
    let client = client(open());
    let error = client.call(&place(&b), vec![0; 64 * 1024], PATIENCE).await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
    let large = client.call(&place(&b), vec![7; 60 * 1024], PATIENCE).await.unwrap();
    assert_eq!(large.len(), 60 * 1024);
}

#[tokio::test]
async fn clients_have_places_of_their_own_and_keep_no_node_out() {
    let mut narrow = options("b", open());
    narrow.clients_max = 1;
    narrow.connections_max = 1;
    let (a, b) = (node("a", open()).await, node_of(narrow).await);
    let (first, second, to) = (client(open()), client(open()), place(&b));
    let waits = first.call(&to, b"wait".to_vec(), PATIENCE);
    tokio::pin!(waits);
    let meanwhile = async {
        // The first has its place when it is asked about.
        super::test_kit::eventually(|| !b.echo.from.lock().unwrap().is_empty()).await;
        let error = second.call(&to, b"".to_vec(), PATIENCE).await.unwrap_err();
        assert!(!matches!(error, TransportError::Refused(_)), "{error}");
        b.counts(|counts| counts.crowded == 1).await;
        a.call(&b.address, b"").await.unwrap();
        b.echo.go.notify_one();
    };
    let (answer, ()) = tokio::join!(waits, meanwhile);
    assert_eq!(answer.unwrap(), b"wait");
}

#[tokio::test]
async fn where_nobody_is_a_client_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody: PeerAddress = format!("127.0.0.1:{port}").parse().unwrap();
    let error = client(open()).call(&nobody, b"".to_vec(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable(_)), "{error}");
    let elsewhere: PeerAddress = "10.0.0.1:7800".parse().unwrap();
    let words = refused(&client(open()), &elsewhere).await;
    assert!(words.contains("secret"), "{words}");
}
