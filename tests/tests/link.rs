//! The link against a real mosquitto: killed, stopped, strict, and out of reach.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use selvedge_link::{
    BrokerUrl, Delivery, Incoming, Limits, Link, LinkConfig, LinkEvent, Login, Publish, Refusal,
    TlsFiles,
};
use selvedge_tests::{
    certificates::CertificateAuthority,
    mosquitto::{FLEET_USER, Mosquitto},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A link and what it tells.
struct Owner {
    link: Link,
    events: mpsc::Receiver<LinkEvent>,
}

impl Owner {
    fn new(config: LinkConfig) -> Self {
        let (link, events) = Link::spawn(config).expect("the configuration is sound");
        Self { link, events }
    }

    async fn event(&mut self) -> LinkEvent {
        within("an event", self.events.recv()).await.expect("the link lives")
    }

    /// Waits until the link is up: whether its session was remembered, and the largest payload.
    async fn up(&mut self) -> (bool, usize) {
        loop {
            if let LinkEvent::Up { session_present, payload_bytes_max } = self.event().await {
                return (session_present, payload_bytes_max);
            }
        }
    }

    /// Waits until the link is down: why.
    async fn down(&mut self) -> String {
        loop {
            if let LinkEvent::Down { reason, .. } = self.event().await {
                return reason;
            }
        }
    }

    async fn message(&mut self) -> Incoming {
        loop {
            if let LinkEvent::Message(incoming) = self.event().await {
                return incoming;
            }
        }
    }

    /// Waits for a message, accepts it, and gives its payload.
    async fn payload(&mut self) -> Vec<u8> {
        let Incoming { payload, ack, .. } = self.message().await;
        ack.accept();
        payload
    }

    async fn delivery(&self, publish: Publish) -> Delivery {
        let receipt = self.link.publish(publish).await.expect("the link is open");
        within("a delivery", receipt).await
    }

    /// Subscribes to `filter` and waits until the broker knows it: what is sent to `echo` comes back.
    async fn subscribed(&mut self, filter: &str, echo: &str) {
        static MARKS: AtomicU32 = AtomicU32::new(0);
        self.link.subscribe(vec![filter.into()]).await.expect("the link is open");
        let mark = format!("mark {}", MARKS.fetch_add(1, Ordering::Relaxed));
        assert_eq!(self.delivery(Publish::new(echo, mark.clone())).await, Delivery::Accepted);
        // A mark may come again whose acceptance did not reach the broker.
        while self.payload().await != mark.as_bytes() {}
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

fn config(url: BrokerUrl, client_id: &str) -> LinkConfig {
    LinkConfig {
        keep_alive_s: 5,
        will_delay_s: 0,
        limits: Limits { backoff_first_ms: 20, backoff_ms_max: 200, ..Limits::default() },
        ..LinkConfig::new(url, client_id)
    }
}

fn secure(broker: &Mosquitto, name: &str) -> LinkConfig {
    LinkConfig { tls: Some(broker.client_files(name)), ..config(broker.url(), name) }
}

fn subscribed_to(filters: &[&str], config: LinkConfig) -> LinkConfig {
    LinkConfig { subscriptions: filters.iter().map(ToString::to_string).collect(), ..config }
}

fn numbered(number: u32) -> Publish {
    Publish::new("numbers", number.to_be_bytes())
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().expect("the sender sends four bytes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_the_order_of_their_publishing_and_are_counted() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut reader = Owner::new(subscribed_to(&["numbers"], config(broker.url(), "reader")));
    reader.up().await;
    reader.subscribed("echo", "echo").await;
    let mut writer = Owner::new(config(broker.url(), "writer"));
    let (session_present, payload_bytes_max) = writer.up().await;
    assert!(!session_present);
    assert_eq!(payload_bytes_max, Limits::default().payload_bytes_max);

    let link = writer.link.clone();
    let writing = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for n in 0..1000 {
            receipts.push(link.publish(numbered(n)).await.expect("the link is open"));
        }
        receipts
    });
    for n in 0..1000 {
        assert_eq!(number(&reader.payload().await), n);
    }
    for receipt in within("the writing", writing).await.expect("the writer does not panic") {
        assert_eq!(within("a delivery", receipt).await, Delivery::Accepted);
    }
    let counters = writer.link.counters();
    // PUBLISH: 2 bytes of header, 2 + 7 of topic, 2 of identifier, 1 of properties, 4 of payload.
    assert_eq!((counters.sent_bytes, counters.connects), (1000 * 18, 1));
    assert!(reader.link.counters().received_bytes >= 1000 * 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_is_found_again_and_what_was_under_way_is_lost() {
    let Some(mut broker) = Mosquitto::open("") else { return };
    let mut owner = Owner::new(subscribed_to(&["a/#"], config(broker.url(), "me")));
    owner.up().await;
    assert_eq!(owner.delivery(Publish::new("a/b", *b"1")).await, Delivery::Accepted);
    assert_eq!(owner.payload().await, b"1");

    broker.pause();
    let mut receipts = Vec::new();
    for _ in 0..40 {
        let publish = Publish::new("a/b", *b"2");
        receipts.push(owner.link.publish(publish).await.expect("the link is open"));
    }
    broker.kill();
    for receipt in receipts {
        assert_eq!(within("a delivery", receipt).await, Delivery::Lost);
    }
    owner.down().await;
    assert_eq!(owner.delivery(Publish::new("a/b", *b"3")).await, Delivery::Lost);

    broker.forget();
    broker.restart();
    let (session_present, _) = owner.up().await;
    assert!(!session_present);
    assert_eq!(owner.delivery(Publish::new("a/b", *b"4")).await, Delivery::Accepted);
    assert_eq!(owner.payload().await, b"4", "what was lost is not sent behind the owner's back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_sends_again_in_order_loses_nothing_to_a_broker_that_is_killed_and_forgets() {
    const NUMBERS: u32 = 2000;
    const KILLS: u32 = 6;
    let Some(mut broker) = Mosquitto::open("") else { return };
    let mut reader = Owner::new(subscribed_to(&["numbers"], config(broker.url(), "reader")));
    let writer = Owner::new(config(broker.url(), "writer"));
    // The reader tells how far it has come, so that the writer sends again what a broker forgot.
    let (tell, told) = tokio::sync::watch::channel(0u32);
    let writing = tokio::spawn(send_again_until_told(writer, NUMBERS, told));

    let mut seen = BTreeSet::new();
    let mut kills = 0;
    while (seen.len() as u32) < NUMBERS {
        seen.insert(number(&reader.payload().await));
        let through = (0..).take_while(|n| seen.contains(n)).count() as u32;
        tell.send_replace(through);
        if seen.len() as u32 >= (kills + 1) * NUMBERS / (KILLS + 1) && kills < KILLS {
            kills += 1;
            broker.kill();
            if kills % 2 == 0 {
                broker.forget();
            }
            broker.restart();
        }
    }
    assert_eq!((kills, seen.len() as u32), (KILLS, NUMBERS));
    within("the writer", writing).await.expect("the writer does not panic");
}

/// Sends all numbers, and on every connection again those from the one the reader waits for.
async fn send_again_until_told(
    mut writer: Owner,
    numbers: u32,
    mut told: tokio::sync::watch::Receiver<u32>,
) {
    'connection: loop {
        writer.up().await;
        loop {
            let from = *told.borrow_and_update();
            if from == numbers {
                return;
            }
            let mut receipts = Vec::new();
            for n in from..numbers {
                receipts.push(writer.link.publish(numbered(n)).await.expect("the link is open"));
            }
            for receipt in receipts {
                if within("a delivery", receipt).await == Delivery::Lost {
                    continue 'connection;
                }
            }
            // All was accepted. What the broker forgot before the reader had it is sent again when
            // the reader gets no further.
            while *told.borrow() < numbers {
                if timeout(Duration::from_secs(1), told.changed()).await.is_err() {
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_stopped_in_the_middle_of_a_transfer_is_given_up() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut sound = config(broker.url(), "me");
    sound.limits.silence_ms_max = Some(6000);
    let mut owner = Owner::new(sound);
    owner.up().await;
    broker.pause();
    let link = owner.link.clone();
    let sending = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for _ in 0..50 {
            let publish = Publish::new("big", vec![7; 120 * 1024]);
            receipts.push(link.publish(publish).await.expect("the link is open"));
        }
        receipts
    });
    let reason = owner.down().await;
    assert!(reason.contains("said nothing for 6 s"), "{reason}");
    for receipt in within("the sending", sending).await.expect("the sender does not panic") {
        assert_eq!(within("a delivery", receipt).await, Delivery::Lost);
    }
    broker.resume();
    owner.up().await;
    assert_eq!(owner.delivery(Publish::new("small", *b"1")).await, Delivery::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_for_the_broker_is_refused_and_the_link_survives() {
    let Some(broker) = Mosquitto::open("max_packet_size 20000") else { return };
    let mut owner = Owner::new(subscribed_to(&["t"], config(broker.url(), "me")));
    let (_, payload_bytes_max) = owner.up().await;
    assert!((19_000..20_000).contains(&payload_bytes_max), "{payload_bytes_max}");
    let too_large = Delivery::Refused { code: Refusal::PacketTooLarge };
    assert_eq!(owner.delivery(Publish::new("t", vec![0; 20_000])).await, too_large);
    assert_eq!(owner.delivery(Publish::new("t", vec![0; 200_000])).await, too_large);
    let invalid = Delivery::Refused { code: Refusal::TopicNameInvalid };
    assert_eq!(owner.delivery(Publish::new("t/#", *b"1")).await, invalid);
    let largest = vec![1; payload_bytes_max];
    assert_eq!(owner.delivery(Publish::new("t", largest.clone())).await, Delivery::Accepted);
    assert_eq!(owner.payload().await, largest);
    assert_eq!(owner.link.counters().connects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_grants_at_once_is_never_exceeded() {
    let Some(broker) = Mosquitto::open("max_inflight_messages 1") else { return };
    let mut owner = Owner::new(subscribed_to(&["t"], config(broker.url(), "me")));
    owner.up().await;
    let mut receipts = Vec::new();
    for _ in 0..100 {
        let publish = Publish::new("t", *b"1");
        receipts.push(owner.link.publish(publish).await.expect("the link is open"));
    }
    for receipt in receipts {
        assert_eq!(within("a delivery", receipt).await, Delivery::Accepted);
        assert_eq!(owner.payload().await, b"1");
    }
    assert_eq!(owner.link.counters().connects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_not_accepted_comes_again_and_one_that_was_does_not() {
    let Some(broker) = Mosquitto::open("") else { return };
    let reader = || Owner::new(subscribed_to(&["t"], config(broker.url(), "reader")));
    let mut first = reader();
    first.up().await;
    first.subscribed("echo", "echo").await;
    let mut writer = Owner::new(config(broker.url(), "writer"));
    writer.up().await;
    assert_eq!(writer.delivery(Publish::new("t", *b"1")).await, Delivery::Accepted);
    assert_eq!(writer.delivery(Publish::new("t", *b"2")).await, Delivery::Accepted);
    let kept_back = first.message().await;
    assert_eq!(kept_back.payload, b"1");
    assert_eq!(first.payload().await, b"2");
    // The answer to this comes after the acknowledgement of the second message.
    first.subscribed("echo", "echo").await;
    drop(first);

    let mut second = reader();
    let (session_present, _) = second.up().await;
    assert!(session_present);
    let again = second.message().await;
    assert_eq!(again.payload, b"1");
    kept_back.ack.accept();
    again.ack.accept();
    second.subscribed("echo", "echo").await;
    second.link.close(None).await;

    let mut third = reader();
    assert!(third.up().await.0);
    assert_eq!(writer.delivery(Publish::new("t", *b"3")).await, Delivery::Accepted);
    assert_eq!(third.payload().await, b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_come_with_every_new_subscription_even_in_a_session_that_is_remembered() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut writer = Owner::new(config(broker.url(), "writer"));
    writer.up().await;
    assert_eq!(writer.delivery(Publish::retained("kept", *b"1")).await, Delivery::Accepted);
    let reader = || Owner::new(subscribed_to(&["kept"], config(broker.url(), "reader")));
    for round in 0..2 {
        let mut owner = reader();
        assert_eq!(owner.up().await.0, round > 0);
        let incoming = owner.message().await;
        assert!(incoming.retained);
        incoming.ack.accept();
        owner.link.unsubscribe(vec!["kept".into()]).await.expect("the link is open");
        owner.link.subscribe(vec!["kept".into()]).await.expect("the link is open");
        assert!(owner.message().await.retained, "subscribing again brings it again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_taken_back_without_a_connection_stays_taken_back() {
    let Some(mut broker) = Mosquitto::open("") else { return };
    let mut reader = Owner::new(subscribed_to(&["a", "b"], config(broker.url(), "reader")));
    reader.up().await;
    reader.subscribed("echo", "echo").await;
    broker.kill();
    reader.down().await;
    reader.link.unsubscribe(vec!["a".into()]).await.expect("the link is open");
    broker.restart();
    reader.up().await;
    reader.subscribed("echo", "echo").await;
    assert_eq!(reader.delivery(Publish::new("a", *b"1")).await, Delivery::Accepted);
    assert_eq!(reader.delivery(Publish::new("b", *b"2")).await, Delivery::Accepted);
    assert_eq!(reader.payload().await, b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_reads_no_events_can_still_publish_and_close() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut owner = Owner::new(subscribed_to(&["t"], config(broker.url(), "me")));
    owner.up().await;
    for _ in 0..500 {
        assert_eq!(owner.delivery(Publish::new("t", vec![0; 1024])).await, Delivery::Accepted);
    }
    let link = owner.link.clone();
    within("the closing", owner.link.close(None)).await;
    assert!(link.publish(Publish::new("t", *b"1")).await.is_err());
    assert!(link.subscribe(vec!["t".into()]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_is_refused_by_name_and_the_link_survives() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut limited = config(broker.url(), "me");
    limited.limits.filters_max = 2;
    let mut owner = Owner::new(limited);
    owner.up().await;
    for (filter, expected) in [
        ("a/#/b", Some(Refusal::TopicFilterInvalid)),
        ("", Some(Refusal::TopicFilterInvalid)),
        ("one", None),
        ("two", None),
        ("three", Some(Refusal::QuotaExceeded)),
    ] {
        owner.link.subscribe(vec![filter.into()]).await.expect("the link is open");
        if let Some(expected) = expected {
            let LinkEvent::SubscriptionRefused { filter: refused, code } = owner.event().await
            else {
                panic!("{filter:?} was not refused");
            };
            assert_eq!((refused.as_str(), code), (filter, expected));
        }
    }
    assert_eq!(owner.delivery(Publish::new("one", *b"1")).await, Delivery::Accepted);
    assert_eq!(owner.payload().await, b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_speaks_for_a_link_that_dies_and_not_for_one_that_says_farewell() {
    let Some(broker) = Mosquitto::open("") else { return };
    let mut reader = Owner::new(subscribed_to(&["status"], config(broker.url(), "reader")));
    reader.up().await;
    reader.subscribed("echo", "echo").await;
    let with_will = |client_id| LinkConfig {
        will: Some(Publish::retained("status", *b"dead")),
        ..config(broker.url(), client_id)
    };
    let mut dying = Owner::new(with_will("dying"));
    dying.up().await;
    drop(dying);
    assert_eq!(reader.payload().await, b"dead");

    let mut leaving = Owner::new(with_will("leaving"));
    leaving.up().await;
    leaving.link.close(Some(Publish::retained("status", *b"gone"))).await;
    assert_eq!(reader.payload().await, b"gone");
    reader.subscribed("echo", "echo").await;

    // A link that is stopped while the broker is away does not wait for it.
    let mut away = Owner::new(config(BrokerUrl::mqtt("127.0.0.1", closed_port()), "away"));
    away.down().await;
    within("the closing", away.link.close(Some(Publish::new("status", *b"x")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_link_down_is_said_in_one_line() {
    let port = closed_port();
    let url = BrokerUrl::mqtt("127.0.0.1", port);
    let refused = Owner::new(config(url, "me")).down().await;
    assert!(refused.contains(&format!("cannot reach mqtt://127.0.0.1:{port}")), "{refused}");
    assert!(refused.contains("refused"), "{refused}");

    let url = BrokerUrl::mqtt("no-such-host.invalid", 1883);
    let unknown = Owner::new(config(url, "me")).down().await;
    assert!(unknown.contains("cannot reach mqtt://no-such-host.invalid:1883"), "{unknown}");
    assert!(unknown.contains("lookup"), "{unknown}");

    // Somebody who takes connections and says nothing.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let port = listener.local_addr().expect("a listener has an address").port();
    let mut hasty = config(BrokerUrl::mqtt("127.0.0.1", port), "me");
    hasty.limits.connect_s_max = 1;
    let silent = Owner::new(hasty).down().await;
    assert!(silent.contains("did not answer within 1 s"), "{silent}");

    if let Some(broker) = Mosquitto::locked() {
        let login = Some(Login { user: "line-1".into(), password: "wrong".into() });
        let account = LinkConfig { login, ..config(broker.url(), "me") };
        let stranger = Owner::new(account).down().await;
        assert!(stranger.contains("refuses the user line-1"), "{stranger}");
        let nobody = Owner::new(config(broker.url(), "me")).down().await;
        assert!(nobody.contains("a client without user and password"), "{nobody}");
    }
    for reason in [refused, unknown, silent] {
        assert!(!reason.contains('\n'), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_certificate_that_the_broker_trusts_is_not_let_in() {
    let Some(broker) = Mosquitto::reference("") else { return };
    let folder = TempDir::new().expect("there is room for a folder");
    let strange = CertificateAuthority::new(folder.path());
    let stranger = strange.sign_client("line-1");
    let ours = broker.authority().certificate();
    let down = async |tls: TlsFiles| {
        Owner::new(LinkConfig { tls: Some(tls), ..config(broker.url(), "line-1") }).down().await
    };

    let none = down(TlsFiles { ca: ours.clone(), certificate: None, key: None }).await;
    assert!(none.contains("refuses us without a certificate: CertificateRequired"), "{none}");
    let foreign = TlsFiles {
        ca: ours,
        certificate: Some(stranger.certificate.clone()),
        key: Some(stranger.key.clone()),
    };
    let foreign = down(foreign).await;
    let certificate = stranger.certificate.display();
    assert!(foreign.contains(&format!("refuses our certificate {certificate}")), "{foreign}");
    // And we do not talk to a broker that our authority does not vouch for.
    let theirs = strange.certificate();
    let deceived = down(TlsFiles { ca: theirs.clone(), certificate: None, key: None }).await;
    assert!(deceived.contains("UnknownIssuer"), "{deceived}");
    assert!(deceived.contains(&theirs.display().to_string()), "{deceived}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_may_write_only_under_its_own_name_and_read_only_what_is_addressed_to_it() {
    const ROOT: &str = "selvedge/1/demo";
    let Some(broker) = Mosquitto::reference("") else { return };
    let topic = |below: &str| format!("{ROOT}/{below}");
    let mut fleet = Owner::new(subscribed_to(&[&topic("up/#")], secure(&broker, FLEET_USER)));
    fleet.up().await;
    fleet.subscribed(&topic("echo"), &topic("echo")).await;
    let all_of_it = [&*topic("#"), "#", &topic("down/line-2/#")];
    let mut device = Owner::new(subscribed_to(&all_of_it, secure(&broker, "line-1")));
    device.up().await;

    let refused = Delivery::Refused { code: Refusal::NotAuthorized };
    for foreign in
        ["up/line-2/status", "down/line-1/desired", "down/line-2/desired", "all/chunks/a"]
    {
        let publish = Publish::retained(topic(foreign), *b"forged");
        assert_eq!(device.delivery(publish).await, refused, "{foreign}");
    }
    let elsewhere = Publish::new("selvedge/1/other/up/line-1/status", *b"forged");
    assert_eq!(device.delivery(elsewhere).await, refused);
    let own = Publish::new(topic("up/line-1/status"), *b"own");
    assert_eq!(device.delivery(own).await, Delivery::Accepted);
    assert_eq!(fleet.payload().await, b"own", "nothing forged came before it");
    assert_eq!(device.link.counters().connects, 1, "refusals cost no connection");

    // What the fleet says to another is not heard; what it says to this one and to all is.
    for (below, payload) in [
        ("down/line-2/desired", b"not for line-1"),
        ("down/line-1/desired", b"meant for one!"),
        ("down/line-2/stored", b"not for line-1"),
        ("all/chunks/a", b"meant for all!"),
    ] {
        let publish = Publish::retained(topic(below), *payload);
        assert_eq!(fleet.delivery(publish).await, Delivery::Accepted);
    }
    // Each of the overlapping filters may bring its own copy.
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let payload = device.payload().await;
        assert_ne!(payload, b"not for line-1");
        heard.insert(payload);
    }
    assert!(heard.contains(b"meant for all!".as_slice()));

    // A device that takes another's client id does not throw its session out.
    let mut thief = secure(&broker, "line-3");
    thief.client_id = "line-1".into();
    let mut thief = Owner::new(thief);
    thief.up().await;
    let own = Publish::new(topic("up/line-1/status"), *b"still here");
    assert_eq!(device.delivery(own).await, Delivery::Accepted);
    assert_eq!(fleet.payload().await, b"still here");
    assert_eq!(device.link.counters().connects, 1);
}

/// A port that nobody listens on at this moment.
fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address").port()
}
