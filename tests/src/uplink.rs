//! The network between one device and its broker, which a test can take away and give back.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A port that leads to another port of this machine, for as long as it is not cut.
#[derive(Debug)]
pub struct Uplink {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Uplink {
    /// A new port that leads to `target`.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        // The thread ends with the process of the test.
        thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // A target that does not listen is a connection that ends at once.
                let _ = carry(incoming, target, &shared);
            }
        });
        Self { port, state }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends what is connected, and lets nobody through any more.
    ///
    /// # Panics
    /// If a thread has panicked before.
    pub fn cut(&self) {
        let mut state = self.state.lock().expect("nobody panics with the lock");
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            // It fails only for one that has ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    ///
    /// # Panics
    /// If a thread has panicked before.
    pub fn mend(&self) {
        self.state.lock().expect("nobody panics with the lock").is_cut = false;
    }
}

fn carry(incoming: TcpStream, target: u16, state: &Mutex<State>) -> io::Result<()> {
    let mut state = state.lock().expect("nobody panics with the lock");
    if state.is_cut {
        return incoming.shutdown(Shutdown::Both);
    }
    let outgoing = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    for (from, to) in [(&incoming, &outgoing), (&outgoing, &incoming)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || copy(from, to));
    }
    state.streams.extend([incoming, outgoing]);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
