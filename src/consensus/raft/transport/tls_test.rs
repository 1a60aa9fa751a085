//! Mutual TLS between nodes: who has the right certificate, and who has not.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::test_kit::{Node, node, node_of, options, secret};
use super::{Client, Network, PeerAddress, Security, SetupError, TlsFiles, TransportError};

/// An authority that signs certificates of nodes.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Files of a node whose certificate has that name.
    fn files(&self, name: &str) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate_path, key_path) = (self.path(name), self.path(&format!("{name}.key")));
        fs::write(&certificate_path, certificate.pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        TlsFiles { certificate: certificate_path, key: key_path, authority: self.path("ca.pem") }
    }

    async fn node(&self, id: &str) -> Node {
        node(id, Security::Tls(self.files(id))).await
    }
}

async fn refused(caller: &Node, answerer: &Node) -> String {
    match caller.call(&answerer.address, b"let me in").await {
        Err(TransportError::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_authority_know_each_other_by_their_certificates() {
    let authority = Authority::new();
    let (a, b) = (authority.node("a").await, authority.node("b.example").await);
    let large = vec![3; 3_000_000];
    assert!(a.call(&b.address, &large).await.unwrap() == large);
    assert_eq!(b.call(&a.address, b"back").await.unwrap(), b"back");
    assert_eq!(*a.echo.from.lock().unwrap(), ["b.example"]);
}

#[tokio::test]
async fn a_node_without_an_id_of_its_own_is_named_by_its_host() {
    let authority = Authority::new();
    let own = |port: u16| {
        let security = Security::Tls(authority.files("127.0.0.1"));
        options(&format!("127.0.0.1:{port}"), security)
    };
    let (a, b) = (node_of(own(7_001)).await, node_of(own(7_002)).await);
    a.call(&b.address, b"").await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (one, other) = (Authority::new(), Authority::new());
    let (a, stranger) = (one.node("a").await, other.node("b").await);
    let words = refused(&stranger, &a).await;
    assert!(words.contains("certificate"), "{words}");
    a.counts(|counts| counts.refused == 1).await;
    // A caller that takes any certificate still has none that is taken.
    let mut mixed = other.files("c");
    mixed.authority = one.path("ca.pem");
    let mixed = node("c", Security::Tls(mixed)).await;
    refused(&mixed, &a).await;
    a.counts(|counts| counts.refused == 2).await;
}

#[tokio::test]
async fn a_certificate_of_one_node_does_not_serve_another() {
    let authority = Authority::new();
    let (a, b) = (authority.node("a").await, authority.node("b").await);
    let mut wrong = b.address.clone();
    wrong.id = "c".to_owned();
    let error = a.call(&wrong, b"").await.unwrap_err();
    assert!(matches!(error, TransportError::Refused(_)), "{error}");
    // With the certificate of "c" it calls itself "d".
    let thief = authority.node("c").await;
    let identity = thief.network.identity_as("d");
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", a.address.port)).await.unwrap();
    assert!(super::greet::greet(&identity, &a.address, tcp).await.is_err());
    a.counts(|counts| counts.refused == 1).await;
}

#[tokio::test]
async fn a_secret_is_no_certificate() {
    let authority = Authority::new();
    let (a, b) = (authority.node("a").await, node("b", secret("sixteen bytes...")).await);
    refused(&b, &a).await;
    refused(&a, &b).await;
}

#[tokio::test]
async fn files_that_do_not_serve_are_named_with_what_is_wrong() {
    let authority = Authority::new();
    let good = authority.files("a");
    let empty = authority.path("empty");
    fs::write(&empty, "no PEM").unwrap();
    let missing = Path::new("/nowhere.pem").to_owned();
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        files
    };
    let cases = [
        (with(&|files| files.certificate = missing.clone()), "certificate /nowhere.pem"),
        (with(&|files| files.certificate = empty.clone()), "holds no certificate"),
        (with(&|files| files.certificate = authority.files("b").certificate), "does not name"),
        (with(&|files| files.key = empty.clone()), "the node's key"),
        (with(&|files| files.key = authority.files("c").key), "the node's key"),
        (with(&|files| files.authority = missing.clone()), "the authority's certificate"),
    ];
    for (files, words) in cases {
        let error = Network::bind(options("a", Security::Tls(files))).await.err().unwrap();
        assert!(matches!(error, SetupError::Tls { .. }), "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    let error = Network::bind(options("a b", Security::Tls(good))).await.err().unwrap();
    assert!(matches!(error, SetupError::TlsName(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_any_certificate_of_the_authority_and_is_no_node() {
    let (authority, other) = (Authority::new(), Authority::new());
    let a = authority.node("127.0.0.1").await;
    let place: PeerAddress = a.address.place().parse().unwrap();
    let patience = super::test_kit::PATIENCE;
    let client = |files| Client::new(None, Security::Tls(files)).unwrap();
    let ours = client(authority.files("operator"));
    assert_eq!(ours.call(&place, b"asks".to_vec(), patience).await.unwrap(), b"asks");
    assert_eq!(*a.echo.from.lock().unwrap(), ["a client"]);
    let stranger = client(other.files("operator")).call(&place, b"asks".to_vec(), patience).await;
    assert!(matches!(stranger, Err(TransportError::Refused(_))), "{stranger:?}");
    let b = authority.node("b").await;
    let unnamed: PeerAddress = b.address.place().parse().unwrap();
    // The certificate of "b" does not name the host: its id is to be given.
    let refused = ours.call(&unnamed, Vec::new(), patience).await;
    assert!(matches!(refused, Err(TransportError::Refused(_))), "{refused:?}");
    ours.call(&b.address, Vec::new(), patience).await.unwrap();
}
