//! Where a PostgreSQL server is, how to reach it, and what its errors say to people.
//!
//! Not a pool, and it spawns nothing: who connects carries the connection. Invariant: nothing that
//! is written here shows the password.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a dsn cannot be used. It quotes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dsn of {whose} {reason}")]
pub struct DsnError {
    /// Who would use it.
    pub whose: String,
    /// Why, and how to write it.
    pub reason: String,
}

/// A server and a database on it.
pub struct Server {
    config: Config,
    /// Host, port and database, for people.
    pub label: String,
}

/// The half of a connection that does the work, and must be polled for the other to be of use.
pub type Carried = Connection<Socket, NoTlsStream>;

impl Server {
    /// Reads a dsn: a `postgresql://` URL or `key=value` pairs. `whose` is for error messages.
    pub fn parse(dsn: &str, whose: &str) -> Result<Self, DsnError> {
        let refused = |reason: String| DsnError { whose: whose.to_owned(), reason };
        let mut config: Config = dsn.parse().map_err(|error| refused(unreadable(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refused(
                "names no host; write it as postgresql://user:password@host:5432/database"
                    .to_owned(),
            ));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(refused(
                "says sslmode=require, and this version of unanimity speaks to PostgreSQL without \
                 TLS only; use sslmode=disable on a trusted network, or a local TLS tunnel in \
                 front of the server"
                    .to_owned(),
            ));
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("unanimity");
        }
        let label = label(&config);
        Ok(Self { config, label })
    }

    /// Opens a connection; `TCP_NODELAY` is the driver's own choice for every TCP connection.
    pub async fn connect(&self) -> Result<(Client, Carried), tokio_postgres::Error> {
        self.config.connect(NoTls).await
    }

    /// An error that connecting gave, with where and what to do. `whose` names who connects.
    pub fn unreachable(&self, whose: &str, error: &tokio_postgres::Error) -> String {
        format!(
            "{whose} cannot connect to {}: {}; check that the server runs and accepts connections \
             there, and that the dsn's user, password and database are right",
            self.label,
            describe(error)
        )
    }
}

/// Whether trying again cannot help: the server refuses this user, password or database.
pub fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code().map(tokio_postgres::error::SqlState::code) else {
        // The driver's own: a password that the dsn lacks.
        return error.to_string().contains("invalid configuration");
    };
    code.starts_with("28") || code == "3D000" || code == "42501"
}

/// Polls a connection until it ends. Who opened it spawns this.
pub async fn carry(connection: Carried) {
    if let Err(error) = connection.await {
        tracing::debug!(error = %describe(&error), "a PostgreSQL connection ended");
    }
}

/// The driver's words for a dsn that it cannot read may quote a part of it, and with it a piece
/// of a password that was not escaped; only words that quote nothing are passed on.
fn unreadable(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let detail = match source.strip_prefix("invalid value for option ") {
        Some(option) => format!(" (the value of {option} is not valid)"),
        None => String::new(),
    };
    format!(
        "cannot be read{detail}; write it as postgresql://user:password@host:5432/database, with \
         special characters of the password percent-encoded"
    )
}

fn label(config: &Config) -> String {
    let ports = config.get_ports();
    let mut places = String::new();
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string);
    let named: Vec<String> = hosts.collect();
    let all = if named.is_empty() { addresses.collect() } else { named };
    for (index, host) in all.iter().enumerate() {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(places, "{comma}{host}:{port}");
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or("of the system user");
    format!("{places}, database '{database}'")
}

/// An error in words: the server's own with its SQLSTATE, or the driver's with its causes.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", db.message(), db.code().code());
        if let Some(detail) = db.detail() {
            let _ = write!(text, ": {detail}");
        }
        if let Some(hint) = db.hint() {
            let _ = write!(text, "; {hint}");
        }
        return text;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(dsn: &str) -> String {
        match Server::parse(dsn, "s") {
            Ok(server) => panic!("{} was accepted", server.label),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_unreadable_dsn_is_refused_without_a_piece_of_it() {
        for dsn in
            ["postgresql://ann:secret@db:secret/x", "host=db pass_word=secret", "user='secret"]
        {
            let message = refusal(dsn);
            assert!(!message.contains("cret"), "{message}");
            assert!(message.contains("postgresql://user:password@host"), "{message}");
        }
    }

    #[test]
    fn a_server_is_named_by_host_port_and_database() {
        let server = Server::parse("postgresql://ann:secret@db:6432/bank", "s").unwrap();
        assert_eq!(server.label, "db:6432, database 'bank'");
    }

    #[test]
    fn a_dsn_that_demands_tls_is_refused_rather_than_served_without() {
        assert!(refusal("postgresql://db/x?sslmode=require").contains("sslmode=disable"));
    }
}
