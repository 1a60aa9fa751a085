//! Nodes on loopback that know each other: calls, bounds, connections that break, endings.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpListener;

use super::greet::answer;
use super::test_kit::{PATIENCE, eventually, node, node_of, open, options, secret};
use super::{Network, SetupError, Transport, TransportError};

const SECRET: &str = "the secret of the cluster";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_go_over_one_connection_and_each_gets_its_own_answer() {
    for security in [open(), secret(SECRET)] {
        let (a, b) = (node("a", security.clone()).await, node("b", security).await);
        let requests: Vec<_> = (0..500_u32).map(u32::to_le_bytes).collect();
        let answers = join_all(requests.iter().map(|one| a.call(&b.address, one))).await;
        for (request, answer) in requests.iter().zip(answers) {
            assert_eq!(answer.unwrap(), request);
        }
        assert_eq!(b.network.counts().connections, 1);
        assert!(b.echo.from.lock().unwrap().iter().all(|from| from == "a"));
        assert_eq!(b.call(&a.address, b"back").await.unwrap(), b"back");
    }
}

#[tokio::test]
async fn a_call_that_takes_long_holds_up_no_other_and_ends_in_time() {
    let (a, b) = (node("a", open()).await, node("b", open()).await);
    let slow = a.call(&b.address, b"wait");
    tokio::pin!(slow);
    tokio::select! {
        _ = &mut slow => panic!("nobody let it go on"),
        quick = a.call(&b.address, b"quick") => assert_eq!(quick.unwrap(), b"quick"),
    }
    b.echo.go.notify_one();
    assert_eq!(slow.await.unwrap(), b"wait");
    let short = Duration::from_millis(50);
    let error = a.network.call(&b.address, b"wait".to_vec(), short).await.unwrap_err();
    assert!(matches!(&error, TransportError::Timeout(words) if words.contains("b=127")));
    assert_eq!(a.call(&b.address, b"next").await.unwrap(), b"next");
    assert_eq!(b.network.counts().connections, 1, "one timeout does not end a connection");
}

#[tokio::test]
async fn requests_and_answers_over_the_bound_are_refused_and_the_rest_goes_on() {
    let mut narrow = options("b", open());
    narrow.frame_bytes_max = 4_096;
    let (a, b) = (node("a", open()).await, node_of(narrow).await);
    let over = vec![0; 4_096];
    let error = a.call(&b.address, &over).await.unwrap_err();
    assert!(matches!(&error, TransportError::TooLarge(words) if words.contains("4096")));
    let error = a.call(&b.address, b"big").await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
    let error = b.call(&a.address, &over).await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge(_)), "{error}");
    let fits = vec![7; 4_096 - 9];
    assert_eq!(a.call(&b.address, &fits).await.unwrap(), fits);
    assert_eq!(b.echo.asked.load(Ordering::SeqCst), 2, "what is too large is not handed over");
    assert_eq!(b.network.counts().connections, 1);
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let (a, b) = (node("a", secret(SECRET)).await, node("b", secret(SECRET)).await);
    let large: Vec<u8> = (0..5_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
    assert!(a.call(&b.address, &large).await.unwrap() == large);
}

#[tokio::test]
async fn many_large_messages_at_once_are_held_to_the_bound_in_bytes_and_all_arrive() {
    let narrow = |id| {
        let mut narrow = options(id, open());
        narrow.frame_bytes_max = 64 * 1_024;
        narrow
    };
    let (a, b) = (node_of(narrow("a")).await, node_of(narrow("b")).await);
    let large = vec![7; 60 * 1_024];
    let answers = join_all((0..40).map(|_| a.call(&b.address, &large)));
    assert!(answers.await.into_iter().all(|answer| answer.unwrap() == large));
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_for_their_turn() {
    let mut narrow = options("a", open());
    narrow.calls_max = 2;
    let (a, b) = (node_of(narrow).await, node("b", open()).await);
    let answers = join_all((0..50_u8).map(|one| a.network.call(&b.address, vec![one], PATIENCE)));
    assert!(answers.await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn who_is_gone_is_unreachable_and_is_found_again() {
    let (a, b) = (node("a", open()).await, node("b", open()).await);
    a.call(&b.address, b"one").await.unwrap();
    let waiting = a.call(&b.address, b"wait");
    tokio::pin!(waiting);
    let went = async {
        eventually(|| b.echo.asked.load(Ordering::SeqCst) == 2).await;
        b.network.close().await;
    };
    let (error, ()) = tokio::join!(waiting, went);
    assert!(matches!(error, Err(TransportError::Unreachable(_))), "{error:?}");
    let error = a.call(&b.address, b"two").await.unwrap_err();
    assert!(matches!(&error, TransportError::Unreachable(words) if words.contains("b=127")));
    let mut again = options("b", open());
    again.listen = Some(("127.0.0.1".to_owned(), b.address.port));
    let b = node_of(again).await;
    // While it waits for its next try, calls fail at once.
    let mut tries = 0;
    while a.call(&b.address, b"three").await.is_err() {
        tries += 1;
        assert!(tries < 100_000, "it is never found again");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_any_more_is_given_up() {
    let mut quick = options("a", open());
    quick.silence_max = Duration::from_millis(20);
    let a = node_of(quick).await;
    let own = node("b", open()).await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut address = own.address.clone();
    address.port = deaf.local_addr().unwrap().port();
    let identity = own.network.identity();
    let mut kept = Vec::new();
    let taking = async {
        while kept.len() < 2 {
            let (tcp, _) = deaf.accept().await.unwrap();
            // It greets, and then it is as if the cable was cut.
            kept.push(answer(&identity, tcp).await.ok().unwrap());
        }
    };
    let calling = async {
        loop {
            let _ = a.network.call(&address, vec![1], Duration::from_millis(30)).await;
        }
    };
    tokio::select! {
        () = taking => {}
        () = calling => {}
        () = tokio::time::sleep(PATIENCE) => panic!("it held on to a dead connection"),
    }
}

#[tokio::test]
async fn closing_ends_calls_and_frees_the_port() {
    let (a, b) = (node("a", open()).await, node("b", open()).await);
    let waiting = a.call(&b.address, b"wait");
    tokio::pin!(waiting);
    let closing = async {
        eventually(|| b.echo.asked.load(Ordering::SeqCst) == 1).await;
        a.network.close().await;
    };
    let (ended, ()) = tokio::join!(waiting, closing);
    assert_eq!(ended, Err(TransportError::Closed));
    assert_eq!(a.call(&b.address, b"late").await, Err(TransportError::Closed));
    TcpListener::bind(("127.0.0.1", a.address.port)).await.unwrap();
    b.counts(|counts| counts.connections == 0).await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let first = node("a", open()).await;
    let mut second = options("b", open());
    second.listen = Some(("127.0.0.1".to_owned(), first.address.port));
    let error = Network::bind(second).await.err().unwrap().to_string();
    let place = first.address.place();
    assert!(error.contains(&place) && error.contains("stop what listens there"), "{error}");
    assert!(error.contains("node b"), "{error}");
    let mut elsewhere = options("b", open());
    elsewhere.security = secret(SECRET);
    elsewhere.listen = Some(("192.0.2.1".to_owned(), 7_000));
    let error = Network::bind(elsewhere).await.err().unwrap().to_string();
    assert!(error.contains("192.0.2.1:7000") && error.contains("no such address"), "{error}");
}

#[tokio::test]
async fn without_security_nobody_listens_on_or_calls_another_machine() {
    let mut wide = options("a", open());
    wide.listen = Some(("0.0.0.0".to_owned(), 0));
    let error = Network::bind(wide).await.err().unwrap();
    assert!(matches!(error, SetupError::Exposed(_)), "{error}");
    let a = node("a", open()).await;
    let error = a.call(&"b=192.0.2.1:7000".parse().unwrap(), b"").await.unwrap_err();
    assert!(matches!(&error, TransportError::Refused(words) if words.contains("give tls")));
}
