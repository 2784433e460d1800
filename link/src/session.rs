//! One connection: the client library's event loop, from its making to its first error.
//!
//! Nothing of `rumqttc` is known outside of this file.

use std::{collections::VecDeque, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use rumqttc::{
    Outgoing, TlsConfiguration, Transport,
    v5::{
        AsyncClient, ClientError, ConnectionError, Event, EventLoop, Incoming as Packet,
        MqttOptions, StateError,
        mqttbytes::{
            Error as PacketError, QoS,
            v5::{
                ConnAck, ConnectReturnCode, Filter, LastWill, LastWillProperties, PubAckReason,
                Publish as PublishPacket, RetainForwardRule, SubAck, SubscribeReasonCode,
            },
            valid_filter,
        },
    },
};
use tokio::sync::oneshot;

use crate::{
    Delivery, LinkConfig, Publish, Refusal,
    message::PUBLISH_OVERHEAD_BYTES_MAX,
    window::{OutOfStep, REQUESTS_MAX, Window},
};

/// The most filters in one SUBSCRIBE: its packet has to stay small.
const FILTERS_PER_SUBSCRIBE_MAX: usize = 32;

type Poll = Pin<Box<dyn Future<Output = (EventLoop, Result<Event, ConnectionError>)> + Send>>;

/// One connection.
pub(crate) struct Session {
    client: AsyncClient,
    poll: Poll,
    window: Window<UnderWay>,
    /// Requests that the window has no room for yet, in order.
    backlog: VecDeque<Request>,
    /// The largest packet that the broker takes.
    packet_bytes_max: usize,
    silence_ms_max: u64,
    config: Arc<LinkConfig>,
}

/// What to ask of the broker.
pub(crate) enum Request {
    /// Send a message.
    Publish { publish: Publish, receipt: oneshot::Sender<Delivery> },
    /// Subscribe; `again` if the broker should know the filters.
    Subscribe { filters: Vec<String>, again: bool },
    /// Take a subscription back.
    Unsubscribe { filter: String },
}

/// What waits for the broker's answer.
enum UnderWay {
    Publish { receipt: oneshot::Sender<Delivery>, packet_bytes: usize },
    Subscribe { filters: Vec<String> },
    Unsubscribe { filter: String },
}

/// What happened on the connection.
pub(crate) enum Occurrence {
    /// The broker took us in.
    Up { session_present: bool, payload_bytes_max: usize },
    /// A message came in; one of QoS 1 has an identifier.
    Message {
        topic: String,
        payload: Vec<u8>,
        retained: bool,
        packet_id: Option<u16>,
        packet_bytes: usize,
    },
    /// The broker answered to subscriptions.
    Subscribed { answers: Vec<(String, Option<Refusal>)> },
    /// The broker has forgotten a subscription.
    Unsubscribed { filter: String },
    /// A message has left.
    PublishSent { packet_bytes: usize },
    /// Our farewell has left.
    DisconnectSent,
    /// Anything else that the broker said.
    Heard,
    /// Anything else that left.
    Sent,
}

impl Session {
    pub(crate) fn open(config: Arc<LinkConfig>, tls: Option<&Arc<rustls::ClientConfig>>) -> Self {
        let options = options(&config, tls);
        let (client, event_loop) = AsyncClient::new(options, REQUESTS_MAX);
        Self {
            client,
            poll: poll_once(event_loop),
            window: Window::new(config.limits.in_flight_max),
            backlog: VecDeque::new(),
            packet_bytes_max: usize::MAX,
            silence_ms_max: config.silence_ms_max(config.keep_alive_s.into()),
            config,
        }
    }

    /// How long the broker may say nothing, in milliseconds.
    pub(crate) fn silence_ms_max(&self) -> u64 {
        self.silence_ms_max
    }

    /// Whether another request would be handed over at once.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.is_empty() && self.window.has_room()
    }

    /// Whether an acknowledgement would be handed over at once.
    pub(crate) fn has_room_for_ack(&self) -> bool {
        self.window.has_channel_room()
    }

    /// Takes a request, which goes after all that were taken before.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Publish { publish, receipt }
                if publish.packet_bytes() > self.packet_bytes_max =>
            {
                // Whoever dropped the receipt does not want to know.
                let _ = receipt.send(Delivery::Refused { code: Refusal::PacketTooLarge });
            }
            Request::Subscribe { filters, again } => {
                self.backlog.extend(
                    filters
                        .chunks(FILTERS_PER_SUBSCRIBE_MAX)
                        .map(|filters| Request::Subscribe { filters: filters.to_vec(), again }),
                );
            }
            request => self.backlog.push_back(request),
        }
        self.hand_over()
    }

    /// Acknowledges a message. There must be room for it.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) -> Result<(), String> {
        // The library reads the identifier and the quality of service, nothing else.
        let mut message = PublishPacket::new("", QoS::AtLeastOnce, Vec::new(), None);
        message.pkid = packet_id;
        self.client.try_ack(&message).map_err(library_fault)?;
        self.window.handed_over(None);
        Ok(())
    }

    /// Says farewell, so that the broker forgets the will. There must be room for it.
    pub(crate) fn disconnect(&mut self) -> Result<(), String> {
        self.client.try_disconnect().map_err(library_fault)?;
        self.window.handed_over(None);
        Ok(())
    }

    /// The next thing that happens, or why the connection is over.
    ///
    /// It may be dropped half-way: the library's own future is kept, because that one may not be.
    pub(crate) async fn next(&mut self) -> Result<Occurrence, String> {
        let (mut event_loop, event) = (&mut self.poll).await;
        if event_loop.options.keep_alive().is_zero() {
            // The broker wants no pings (Server Keep Alive 0), and the library would send them
            // without a pause. We want them: they tell a silent broker from a dead one.
            event_loop.options.set_keep_alive(keep_alive(&self.config));
        }
        let keep_alive_s = event_loop.options.keep_alive().as_secs();
        self.silence_ms_max = self.config.silence_ms_max(keep_alive_s);
        self.poll = poll_once(event_loop);
        let event = event.map_err(|error| describe(&error, &self.config))?;
        let occurrence = match event {
            Event::Incoming(packet) => self.on_packet(packet),
            Event::Outgoing(outgoing) => self.on_outgoing(&outgoing).map_err(|OutOfStep| {
                format!("{} answered out of step; starting anew", self.config.url)
            }),
        }?;
        self.hand_over()?;
        Ok(occurrence)
    }

    fn hand_over(&mut self) -> Result<(), String> {
        while self.window.has_room() {
            let Some(request) = self.backlog.pop_front() else { break };
            let under_way = self.give_to_library(request)?;
            self.window.handed_over(Some(under_way));
        }
        Ok(())
    }

    fn give_to_library(&self, request: Request) -> Result<UnderWay, String> {
        match request {
            Request::Publish { publish, receipt } => {
                let packet_bytes = publish.packet_bytes();
                let Publish { topic, payload, retain } = publish;
                self.client
                    .try_publish(topic, QoS::AtLeastOnce, retain, payload)
                    .map_err(library_fault)?;
                Ok(UnderWay::Publish { receipt, packet_bytes })
            }
            Request::Subscribe { filters, again } => {
                self.client
                    .try_subscribe_many(filters.iter().map(|path| filter(path, again)))
                    .map_err(library_fault)?;
                Ok(UnderWay::Subscribe { filters })
            }
            Request::Unsubscribe { filter } => {
                self.client.try_unsubscribe(filter.clone()).map_err(library_fault)?;
                Ok(UnderWay::Unsubscribe { filter })
            }
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<Occurrence, String> {
        let out_of_step = |OutOfStep| format!("{} answered what was not asked", self.config.url);
        match packet {
            Packet::ConnAck(connack) => self.on_connack(&connack),
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubAck(puback) => {
                let answered = self.window.answered(puback.pkid).map_err(out_of_step)?;
                if let UnderWay::Publish { receipt, .. } = answered {
                    // Whoever dropped the receipt does not want to know.
                    let _ = receipt.send(delivery(puback.reason));
                }
                Ok(Occurrence::Heard)
            }
            Packet::SubAck(suback) => {
                match self.window.answered(suback.pkid).map_err(out_of_step)? {
                    UnderWay::Subscribe { filters } => Ok(subscribed(filters, &suback)),
                    _ => Err(out_of_step(OutOfStep)),
                }
            }
            Packet::UnsubAck(unsuback) => {
                match self.window.answered(unsuback.pkid).map_err(out_of_step)? {
                    UnderWay::Unsubscribe { filter } => Ok(Occurrence::Unsubscribed { filter }),
                    _ => Err(out_of_step(OutOfStep)),
                }
            }
            _ => Ok(Occurrence::Heard),
        }
    }

    fn on_connack(&mut self, connack: &ConnAck) -> Result<Occurrence, String> {
        let limits = &self.config.limits;
        let mut payload_bytes_max = limits.payload_bytes_max;
        if let Some(properties) = &connack.properties {
            let missing = match properties {
                properties if properties.max_qos == Some(0) => Some("QoS 1"),
                properties if properties.retain_available == Some(0) => Some("retained messages"),
                _ => None,
            };
            if let Some(missing) = missing {
                return Err(format!("{} does not offer {missing}", self.config.url));
            }
            if let Some(ids) = properties.receive_max {
                self.window.narrow(ids.min(limits.in_flight_max));
            }
            if let Some(packet_bytes_max) = properties.max_packet_size {
                self.packet_bytes_max = packet_bytes_max as usize;
                let payload = self.packet_bytes_max.saturating_sub(PUBLISH_OVERHEAD_BYTES_MAX);
                payload_bytes_max = payload_bytes_max.min(payload);
            }
        }
        Ok(Occurrence::Up { session_present: connack.session_present, payload_bytes_max })
    }

    fn on_publish(&self, publish: PublishPacket) -> Result<Occurrence, String> {
        let packet_bytes = publish.size();
        let packet_id = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            QoS::ExactlyOnce => {
                return Err(format!("{} sends QoS 2, which was not asked for", self.config.url));
            }
        };
        let topic = String::from_utf8(publish.topic.into())
            .map_err(|_| format!("{} sends a topic that is not UTF-8", self.config.url))?;
        let (payload, retained) = (publish.payload.into(), publish.retain);
        Ok(Occurrence::Message { topic, payload, retained, packet_id, packet_bytes })
    }

    fn on_outgoing(&mut self, outgoing: &Outgoing) -> Result<Occurrence, OutOfStep> {
        match outgoing {
            Outgoing::Publish(id) => match self.window.sent(Some(*id))? {
                Some(UnderWay::Publish { packet_bytes, .. }) => {
                    Ok(Occurrence::PublishSent { packet_bytes: *packet_bytes })
                }
                _ => Err(OutOfStep),
            },
            Outgoing::Subscribe(id) | Outgoing::Unsubscribe(id) => {
                self.window.sent(Some(*id)).map(|_| Occurrence::Sent)
            }
            Outgoing::PubAck(_) => self.window.sent(None).map(|_| Occurrence::Sent),
            Outgoing::Disconnect => self.window.sent(None).map(|_| Occurrence::DisconnectSent),
            Outgoing::AwaitAck(_) => Err(OutOfStep),
            _ => Ok(Occurrence::Sent),
        }
    }
}

/// Why no broker would take this filter, if none would.
pub(crate) fn filter_fault(filter: &str) -> Option<Refusal> {
    let good = valid_filter(filter)
        && !filter.contains('\0')
        && filter.len() <= PUBLISH_OVERHEAD_BYTES_MAX;
    (!good).then_some(Refusal::TopicFilterInvalid)
}

fn library_fault(error: ClientError) -> String {
    format!("the MQTT client took no request: {error}; starting anew")
}

fn poll_once(mut event_loop: EventLoop) -> Poll {
    Box::pin(async move {
        let event = event_loop.poll().await;
        (event_loop, event)
    })
}

fn options(config: &LinkConfig, tls: Option<&Arc<rustls::ClientConfig>>) -> MqttOptions {
    let LinkConfig { url, limits, .. } = config;
    let mut options = MqttOptions::new(&config.client_id, url.host(), url.port());
    let packet_bytes_max = limits.payload_bytes_max.saturating_add(PUBLISH_OVERHEAD_BYTES_MAX);
    options
        .set_clean_start(false)
        .set_keep_alive(keep_alive(config))
        .set_session_expiry_interval(Some(config.session_expiry_s))
        .set_connection_timeout(limits.connect_s_max)
        .set_receive_maximum(Some(limits.unacked_max))
        .set_max_packet_size(Some(u32::try_from(packet_bytes_max).unwrap_or(u32::MAX)))
        .set_outgoing_inflight_upper_limit(limits.in_flight_max)
        .set_manual_acks(true);
    if let Some(login) = &config.login {
        options.set_credentials(&login.user, &login.password);
    }
    if let Some(tls) = tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    if let Some(will) = &config.will {
        options.set_last_will(last_will(will, config.will_delay_s));
    }
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options
}

fn keep_alive(config: &LinkConfig) -> Duration {
    Duration::from_secs(config.keep_alive_s.into())
}

fn last_will(will: &Publish, delay_s: u32) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: Some(delay_s),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    let Publish { topic, payload, retain } = will.clone();
    LastWill::new(topic, payload, QoS::AtLeastOnce, retain, Some(properties))
}

fn filter(path: &str, again: bool) -> Filter {
    let mut filter = Filter::new(path, QoS::AtLeastOnce);
    if again {
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
    }
    filter
}

fn subscribed(filters: Vec<String>, suback: &SubAck) -> Occurrence {
    let answers = filters.into_iter().zip(&suback.return_codes);
    Occurrence::Subscribed {
        answers: answers.map(|(filter, code)| (filter, subscription_refusal(code))).collect(),
    }
}

fn subscription_refusal(code: &SubscribeReasonCode) -> Option<Refusal> {
    match code {
        SubscribeReasonCode::Success(_) => None,
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => {
            Some(Refusal::Unspecified)
        }
        SubscribeReasonCode::ImplementationSpecific => Some(Refusal::ImplementationSpecific),
        SubscribeReasonCode::NotAuthorized => Some(Refusal::NotAuthorized),
        SubscribeReasonCode::TopicFilterInvalid => Some(Refusal::TopicFilterInvalid),
        SubscribeReasonCode::PkidInUse => Some(Refusal::PacketIdentifierInUse),
        SubscribeReasonCode::QuotaExceeded => Some(Refusal::QuotaExceeded),
        SubscribeReasonCode::SharedSubscriptionsNotSupported
        | SubscribeReasonCode::SubscriptionIdNotSupported
        | SubscribeReasonCode::WildcardSubscriptionsNotSupported => {
            Some(Refusal::SubscriptionNotSupported)
        }
    }
}

fn delivery(reason: PubAckReason) -> Delivery {
    let code = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Delivery::Accepted,
        PubAckReason::UnspecifiedError => Refusal::Unspecified,
        PubAckReason::ImplementationSpecificError => Refusal::ImplementationSpecific,
        PubAckReason::NotAuthorized => Refusal::NotAuthorized,
        PubAckReason::TopicNameInvalid => Refusal::TopicNameInvalid,
        PubAckReason::PacketIdentifierInUse => Refusal::PacketIdentifierInUse,
        PubAckReason::QuotaExceeded => Refusal::QuotaExceeded,
        PubAckReason::PayloadFormatInvalid => Refusal::PayloadFormatInvalid,
    };
    Delivery::Refused { code }
}

/// What the library's error means to people, in one line.
fn describe(error: &ConnectionError, config: &LinkConfig) -> String {
    let url = &config.url;
    let text = match error {
        ConnectionError::Io(error) => format!("cannot reach {url}: {error}"),
        ConnectionError::Timeout(_) => {
            format!("{url} did not answer within {} s", config.limits.connect_s_max)
        }
        ConnectionError::Tls(error) => {
            let ca = config.tls.as_ref().map(|files| files.ca.display().to_string());
            format!("TLS with {url} failed (ca {}): {error}", ca.unwrap_or_default())
        }
        ConnectionError::ConnectionRefused(code) => refused(*code, config),
        ConnectionError::MqttState(error) => match error {
            StateError::ServerDisconnect { reason_code, reason_string } => {
                let words = reason_string.as_deref().unwrap_or_default();
                format!("{url} ended the connection: {reason_code:?} {words}")
            }
            StateError::ConnectionAborted => format!("{url} closed the connection"),
            StateError::AwaitPingResp => format!("{url} did not answer a ping"),
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)) => {
                broken(error, config)
            }
            error => format!("{url}: {error}"),
        },
        error => format!("{url}: {error}"),
    };
    text.trim_end().replace(['\n', '\r'], " ")
}

fn broken(error: &io::Error, config: &LinkConfig) -> String {
    let url = &config.url;
    let alert = error.get_ref().and_then(|error| match error.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(alert),
        _ => None,
    });
    // In TLS 1.3 the broker looks at our certificate when the handshake is over for us.
    match (alert, config.tls.as_ref().map(|files| &files.certificate)) {
        (Some(alert), Some(Some(certificate))) => {
            format!("{url} refuses our certificate {}: {alert:?}", certificate.display())
        }
        (Some(alert), _) => format!("{url} refuses us without a certificate: {alert:?}"),
        (None, _) => format!("the connection to {url} broke: {error}"),
    }
}

fn refused(code: ConnectReturnCode, config: &LinkConfig) -> String {
    let LinkConfig { url, client_id, .. } = config;
    let account = match &config.login {
        Some(login) => format!("the user {}", login.user),
        None => "a client without user and password".into(),
    };
    match code {
        ConnectReturnCode::BadUserNamePassword => {
            format!("{url} refuses {account}: bad user name or password")
        }
        ConnectReturnCode::NotAuthorized => format!("{url} refuses {account}: not authorized"),
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => {
            format!("{url} refuses the client id {client_id:?}")
        }
        code => format!("{url} refuses the connection: {code:?}"),
    }
}
