//! Nodes on a line: a serial port, or a TCP server that stands for one.
//!
//! What a node counted goes on as it is; its single readings do not, but the newest goes with each
//! profile.

use std::collections::BTreeMap;

use selvedge_sketch::GatewayProfile;
use selvedge_wire::{
    EventKind, FrameDecoder, NodeId, NodeMessage, ProfileOrigin, ProfileRecord, Reading, Stream,
    WindowRange,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};
use tokio_serial::SerialPortBuilderExt;

use crate::{config::NodeLine, limits::NODES_MAX, record::encode_record, reporter::Reporter};

use super::Patience;

type Line = Box<dyn AsyncRead + Unpin + Send>;

/// Listens to the line for ever.
pub(crate) async fn run_node(name: String, line: NodeLine, reporter: Reporter) {
    let mut nodes = Nodes { source: name.clone(), heard: BTreeMap::new() };
    let mut patience = Patience::new();
    loop {
        let problem = match open(&line).await {
            Ok(opened) => {
                tracing::info!("source {name}: the line is open");
                patience.succeeded();
                nodes.listen(opened, &reporter).await
            }
            Err(problem) => problem,
        };
        patience.failed(&name, &problem, &reporter).await;
    }
}

async fn open(line: &NodeLine) -> Result<Line, String> {
    match line {
        NodeLine::Tcp { address } => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| format!("cannot connect to {address}: {error}"))?;
            Ok(Box::new(stream))
        }
        NodeLine::Tty { device, baud } => {
            let path = device.to_string_lossy();
            let port = tokio_serial::new(path.as_ref(), *baud).open_native_async();
            let port =
                port.map_err(|error| format!("cannot open {}: {error}", device.display()))?;
            Ok(Box::new(port))
        }
    }
}

/// The nodes that were heard on a line in this boot.
struct Nodes {
    source: String,
    heard: BTreeMap<NodeId, Node>,
}

struct Node {
    latest: Option<Reading>,
    // Counts the windows of this node that came in this boot.
    windows: u64,
    // When the window that is open on the node began, as far as is known here.
    opened_ms: u64,
}

/// What is to be done about a message.
enum Heard {
    Nothing,
    NewNode(String),
    Profile(Box<ProfileRecord>),
    Unreadable(String),
}

impl Nodes {
    /// Reads frames until the line ends, and says why it did.
    async fn listen(&mut self, mut line: Line, reporter: &Reporter) -> String {
        let mut decoder = FrameDecoder::new();
        let mut buffer = [0; 1024];
        loop {
            let count = match line.read(&mut buffer).await {
                Ok(0) => return "the line was closed".to_owned(),
                Ok(count) => count,
                Err(error) => return format!("the line failed: {error}"),
            };
            for &byte in &buffer[..count] {
                let now_ms = reporter.unix_ms();
                let heard = match decoder.push(byte) {
                    None => continue,
                    Some(Err(error)) => vec![Heard::Unreadable(error.to_string())],
                    Some(Ok(message)) => self.hear(&message, now_ms),
                };
                for heard in heard {
                    self.tell(heard, reporter).await;
                }
            }
        }
    }

    fn hear(&mut self, message: &NodeMessage<'_>, now_ms: u64) -> Vec<Heard> {
        let (NodeMessage::Hello { node, .. }
        | NodeMessage::Reading { node, .. }
        | NodeMessage::Profile { node, .. }
        | NodeMessage::SensorFailed { node, .. }) = message;
        let mut heard = Vec::new();
        if !self.heard.contains_key(node) {
            if self.heard.len() >= NODES_MAX {
                return vec![Heard::Unreadable(format!("more than {NODES_MAX} nodes on one line"))];
            }
            let firmware = match message {
                NodeMessage::Hello { firmware, .. } => format!(", firmware {firmware}"),
                _ => String::new(),
            };
            heard.push(Heard::NewNode(format!("node {node} on {}{firmware}", self.source)));
            self.heard.insert(*node, Node { latest: None, windows: 0, opened_ms: now_ms });
        }
        let known = self.heard.get_mut(node).expect("it was just inserted if it was missing");
        heard.push(match message {
            NodeMessage::Hello { .. } => Heard::Nothing,
            NodeMessage::Reading { reading, .. } => {
                known.latest = Some(*reading);
                Heard::Nothing
            }
            NodeMessage::Profile { profile, .. } => known.close_window(*node, profile, now_ms),
            NodeMessage::SensorFailed { count, .. } => {
                Heard::Unreadable(format!("node {node}: its sensor failed {count} times"))
            }
        });
        heard
    }

    async fn tell(&self, heard: Heard, reporter: &Reporter) {
        match heard {
            Heard::Nothing => {}
            Heard::NewNode(detail) => {
                tracing::info!("{detail}");
                reporter.tell_now(EventKind::NodeSeen, None, None, &detail).await;
            }
            Heard::Profile(record) => {
                reporter.spool().push(Stream::Profiles, encode_record(&record)).await;
            }
            Heard::Unreadable(problem) => reporter.malformed(&self.source, &problem).await,
        }
    }
}

impl Node {
    fn close_window(&mut self, node: NodeId, profile: &[u8], now_ms: u64) -> Heard {
        if let Err(error) = GatewayProfile::decode(profile) {
            return Heard::Unreadable(format!("node {node}: its profile: {error}"));
        }
        // A window that was open when the line was opened may come before the first reading.
        let Some(latest) = self.latest else { return Heard::Nothing };
        let windows = WindowRange { first: self.windows, last: self.windows };
        self.windows += 1;
        let opened_ms = std::mem::replace(&mut self.opened_ms, now_ms);
        Heard::Profile(Box::new(ProfileRecord {
            origin: ProfileOrigin::Node { node, latest },
            windows,
            opened_ms,
            closed_ms: now_ms,
            profile: profile.to_vec(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use selvedge_sketch::SpecId;
    use selvedge_wire::Quantity;

    use super::*;

    const NODE: NodeId = NodeId(0x5e1f);

    fn nodes() -> Nodes {
        Nodes { source: "line".into(), heard: BTreeMap::new() }
    }

    fn reading(count: u32) -> Reading {
        let quantity = Quantity::TemperatureMilliCelsius;
        Reading { count, uptime_ms: count * 1000, quantity, value: 21_500 }
    }

    fn profile() -> Vec<u8> {
        let mut profile = GatewayProfile::new(SpecId([3; 8]), 1).expect("one feature fits");
        profile.count_sample();
        crate::record::encode_profile(&profile)
    }

    #[test]
    fn a_profile_goes_on_with_the_newest_reading() {
        let (mut nodes, bytes) = (nodes(), profile());
        let profile = |window| NodeMessage::Profile { node: NODE, window, profile: &bytes };
        assert!(matches!(nodes.hear(&profile(7), 5)[..], [Heard::NewNode(_), Heard::Nothing]));
        for count in [1, 2] {
            nodes.hear(&NodeMessage::Reading { node: NODE, reading: reading(count) }, 10);
        }
        for (window, now_ms) in [(0, 100), (1, 200)] {
            // The node started again, but its windows here go on.
            let heard = nodes.hear(&profile(window), now_ms);
            let [Heard::Profile(record)] = &heard[..] else { panic!("it is a profile") };
            let (first, last) = (u64::from(window), u64::from(window));
            assert_eq!(record.windows, WindowRange { first, last });
            assert_eq!(record.closed_ms, now_ms);
            assert_eq!(record.origin, ProfileOrigin::Node { node: NODE, latest: reading(2) });
            assert_eq!(record.profile, bytes);
        }
    }

    #[test]
    fn a_node_is_new_once_and_there_is_a_limit() {
        let mut nodes = nodes();
        let hello = |node| NodeMessage::Hello { node: NodeId(node), firmware: "1.0" };
        for node in 0..NODES_MAX as u64 {
            assert!(matches!(nodes.hear(&hello(node), 0)[0], Heard::NewNode(_)));
            assert!(matches!(nodes.hear(&hello(node), 0)[..], [Heard::Nothing]));
        }
        assert!(matches!(nodes.hear(&hello(u64::MAX), 0)[..], [Heard::Unreadable(_)]));
    }

    #[test]
    fn a_profile_that_cannot_be_read_costs_its_sender() {
        let message = NodeMessage::Profile { node: NODE, window: 0, profile: &[1, 2, 3] };
        assert!(matches!(nodes().hear(&message, 0)[1], Heard::Unreadable(_)));
    }
}
