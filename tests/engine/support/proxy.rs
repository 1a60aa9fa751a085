//! A TCP proxy that can be cut on its client's side, while the server sees nothing of it.
//!
//! Not a model of slow networks. Invariant: after a cut, nothing more reaches the client.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A proxy; its threads end with their connections, and the listener with the process.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    is_closed: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
    // Kept open, so that the server does not see its clients go.
    servers: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// A proxy before that local port.
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            is_closed: Arc::default(),
            clients: Arc::default(),
            servers: Arc::default(),
        };
        let (clients, servers) = (proxy.clients.clone(), proxy.servers.clone());
        let is_closed = proxy.is_closed.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_closed.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                copy(client.try_clone().unwrap(), server.try_clone().unwrap());
                copy(server.try_clone().unwrap(), client.try_clone().unwrap());
                clients.lock().unwrap().push(client);
                servers.lock().unwrap().push(server);
            }
        });
        proxy
    }

    /// Cuts all clients off, now and whenever they come again.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets clients in again.
    pub(crate) fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
    }

    /// Cuts all clients off.
    pub(crate) fn cut(&self) {
        for client in self.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0; 16_384];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
}
