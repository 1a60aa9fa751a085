//! Mutual TLS 1.3 between nodes, by rustls with the provider `ring`.
//!
//! Each side checks the other's certificate against the authorities that were given, and that it
//! names the node: in a subject alternative name (a DNS name, or an IP address), as RFC 9525 wants
//! it; the common name is not looked at. The name of a node `host:port` is its host.
//! Not a store of certificates: the files are read once, when the node starts.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::options::{SetupError, TlsFiles};

/// Both sides of a node's TLS.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) connector: TlsConnector,
}

fn trouble<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(&dyn std::fmt::Display) -> SetupError + 'a {
    move |reason| SetupError::Tls { what, path: path.to_owned(), reason: reason.to_string() }
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let trouble = trouble(what, path);
    let read = CertificateDer::pem_file_iter(path).map_err(|error| trouble(&error))?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(|error| trouble(&error))?;
    if found.is_empty() {
        return Err(trouble(&"it holds no certificate in PEM"));
    }
    Ok(found)
}

fn authorities(path: &Path) -> Result<RootCertStore, SetupError> {
    let what = "the authority's certificate";
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        store.add(certificate).map_err(|error| trouble(what, path)(&error))?;
    }
    Ok(store)
}

impl Tls {
    /// Reads the files, and checks that they are of the node; of a client any name will do.
    pub(super) fn load(files: &TlsFiles, node: Option<&str>) -> Result<Self, SetupError> {
        let name = node.map(name_of).transpose()?;
        let chain = certificates("the node's certificate", &files.certificate)?;
        let key_trouble = trouble("the node's key", &files.key);
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| key_trouble(&error))?;
        let roots = Arc::new(authorities(&files.authority)?);
        if let Some(name) = name.filter(|name| !is_named(&chain[0], name)) {
            let reason = format!(
                "it does not name this node; make one with \"{}\" among its subject alternative \
                 names",
                name.to_str()
            );
            return Err(trouble("the node's certificate", &files.certificate)(&reason));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let fits = "rustls has TLS 1.3 with ring";
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| trouble("the authority's certificate", &files.authority)(&error))?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect(fits)
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| key_trouble(&error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect(fits)
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| key_trouble(&error))?;
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }
}

/// The name of a node in its certificate.
pub(super) fn name_of(node: &str) -> Result<ServerName<'static>, SetupError> {
    let host = match node.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => node,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).map_err(|_| SetupError::TlsName(node.to_owned()))
}

/// Whether a certificate that was checked is of that node.
pub(super) fn is_named(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
}
