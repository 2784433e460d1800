//! The one MQTT client of agents and the fleet: a disposable event loop with rules.
//!
//! What it guarantees:
//! - Every [`Publish`] (QoS 1) ends in exactly one [`Delivery`]: the broker took it, the broker or
//!   this crate refused it, or the connection ended first. A lost one is never sent again behind the
//!   caller's back: who owns the data owns the retry, and decides the order.
//! - Messages leave in the order of the calls to [`Link::publish`] on one connection.
//! - After any error the client and its event loop are thrown away and built anew, after a back-off
//!   with full jitter. A peer that falls silent is an error too.
//! - A message is acknowledged when its [`Ack`] is accepted, not before; until then a broker that
//!   keeps the session sends it again.
//! - Subscriptions last until they are taken back, over all connections.
//!
//! What it does not: keep anything on disk, remember a message over a reconnect, send QoS 0 or 2.
//!
//! This is the only crate that names `rumqttc`.

#![forbid(unsafe_code)]

mod actor;
mod backoff;
mod config;
mod error;
mod event;
mod message;
mod session;
mod subscriptions;
mod tls;
mod window;

pub use actor::Link;
pub use config::{BrokerUrl, Limits, LinkConfig, Login, TlsFiles};
pub use error::{Closed, Error, ErrorKind};
pub use event::{LinkCounters, LinkEvent};
pub use message::{Ack, Delivery, Incoming, Publish, Receipt, Refusal};
