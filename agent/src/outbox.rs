//! Sends what the spool holds, until the fleet says that it is stored.
//!
//! The broker's word ends nothing but a message's way to it. Only so many batches are on their way
//! before the first of them is stored; what is not stored in time, or was sent on a connection that is
//! gone, is sent again from the first record that the fleet does not have.

mod dispatch;

use std::time::Duration;

use selvedge_link::{Delivery, Link, Refusal};
use selvedge_wire::{Boot, Stored, Stream, Topic};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::SharedClock, config::SpoolConfig, limits::MALFORMED_QUIET_MS, signer::Signer,
    spool::SpoolHandle,
};

pub use dispatch::Dispatch;

/// How often overdue batches are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What happens to the outbox.
pub(crate) enum OutboxInput {
    /// The broker is connected and takes payloads of this size.
    Up { payload_bytes_max: usize },
    /// It is not.
    Down,
    /// The fleet has stored something.
    Stored { stored: Stored, ack: selvedge_link::Ack },
}

/// Why an outbox has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutboxEnded {
    /// The fleet knows numbers of this boot, or of later ones up to this, that were never given: the
    /// device's state was lost, and a boot after that must take over.
    Ahead(Boot),
    /// Nobody speaks to it any more, or the link is closed.
    Closed,
}

/// Sends the streams of one device.
pub(crate) struct Outbox {
    link: Link,
    signer: Signer,
    spool: SpoolHandle,
    clock: SharedClock,
    config: SpoolConfig,
    dispatch: Dispatch,
    receipts: JoinSet<(Stream, Delivery)>,
    refusal_quiet_until: Duration,
}

impl Outbox {
    pub(crate) fn new(
        link: Link,
        signer: Signer,
        spool: SpoolHandle,
        clock: SharedClock,
        config: SpoolConfig,
    ) -> Self {
        Self {
            link,
            signer,
            spool,
            clock,
            config,
            dispatch: Dispatch::new(config),
            receipts: JoinSet::new(),
            refusal_quiet_until: Duration::ZERO,
        }
    }

    /// Sends until there is nobody left to send for.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<OutboxInput>) -> OutboxEnded {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let spool = self.spool.clone();
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    None => return OutboxEnded::Closed,
                    Some(input) => if let Some(newest) = self.take(input).await {
                        return OutboxEnded::Ahead(newest);
                    },
                },
                () = spool.durable() => {}
                Some(receipt) = self.receipts.join_next() => {
                    if let Ok((stream, delivery)) = receipt {
                        self.delivered(stream, delivery);
                    }
                }
                _ = look.tick() => self.dispatch.resend_overdue(self.clock.elapsed()),
            }
            for stream in Stream::ALL {
                if self.send(stream).await.is_err() {
                    return OutboxEnded::Closed;
                }
            }
        }
    }

    /// The newest boot that the fleet knows, if it is ahead of this device.
    async fn take(&mut self, input: OutboxInput) -> Option<Boot> {
        let now = self.clock.elapsed();
        match input {
            OutboxInput::Up { payload_bytes_max } => {
                self.dispatch.connected(payload_bytes_max, now);
                None
            }
            OutboxInput::Down => {
                self.dispatch.disconnected();
                None
            }
            OutboxInput::Stored { stored, ack } => {
                let told = self.spool.acknowledge(stored.clone()).await;
                ack.accept();
                self.dispatch.stored(&stored, &told.progress, now);
                told.ahead
            }
        }
    }

    fn delivered(&mut self, stream: Stream, delivery: Delivery) {
        // A lost batch is sent again on the next connection, which begins anew.
        let Delivery::Refused { code } = delivery else { return };
        let now = self.clock.elapsed();
        if now >= self.refusal_quiet_until {
            self.refusal_quiet_until = now + Duration::from_millis(MALFORMED_QUIET_MS);
            let (name, again_s) = (stream.as_str(), self.config.resend_after.as_secs());
            tracing::error!("the broker refuses {name}: {code}; trying again every {again_s} s");
        }
        if code == Refusal::PacketTooLarge {
            self.dispatch.halve_batches(stream);
        }
    }

    /// Sends as many batches as may be on their way.
    async fn send(&mut self, stream: Stream) -> Result<(), selvedge_link::Closed> {
        while let Some(order) = self.dispatch.next_order(stream) {
            let Some(batch) = self.spool.next_batch(order).await else { return Ok(()) };
            let end = batch.end();
            let body = self.dispatch.body(stream, batch);
            let topic = |device| Topic::Stream(device, stream);
            let receipt = self.link.publish(self.signer.passing(topic, body)).await?;
            self.receipts.spawn(async move { (stream, receipt.await) });
            self.dispatch.sent(stream, end, self.clock.elapsed());
        }
        Ok(())
    }
}
