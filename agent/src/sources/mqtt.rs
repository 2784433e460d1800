//! MQTT topics of the site: of sensors, where each message is one sample in JSON, and of labels.
//!
//! A sample is `[1, 2.5, 3]` or `{"features": [1, 2.5, 3]}`: the columns of a row in the model's order, or the
//! pixels of an image, row by row. What a label is, `labels` says.

use std::collections::BTreeMap;

use selvedge_bundle::SampleSpec;
use selvedge_link::LinkEvent;
use selvedge_runtime::Sample;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    inference::SampleShape, labels::LabelReader, limits::SAMPLE_PAYLOAD_BYTES_MAX,
    reporter::Reporter,
};

use super::Feed;

/// How many messages of a topic wait to be read.
const MESSAGES_WAITING_MAX: usize = 64;

/// A topic of the site, whose messages a task reads.
pub(crate) struct LocalTopic {
    topic: String,
    messages: mpsc::Sender<Vec<u8>>,
}

impl LocalTopic {
    /// A topic of samples for a slot, and the task that reads its messages.
    pub(crate) fn of_samples(
        topic: &str,
        feed: Feed,
        reporter: Reporter,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (messages, inbox) = mpsc::channel(MESSAGES_WAITING_MAX);
        (Self { topic: topic.to_owned(), messages }, read(topic.to_owned(), inbox, feed, reporter))
    }

    /// A topic of labels, and the task that reads its messages.
    pub(crate) fn of_labels(
        topic: &str,
        reader: LabelReader,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (messages, inbox) = mpsc::channel(MESSAGES_WAITING_MAX);
        (Self { topic: topic.to_owned(), messages }, reader.run(topic.to_owned(), inbox))
    }

    /// Its full name.
    pub(crate) fn name(&self) -> &str {
        &self.topic
    }

    /// Takes a message, if it is one of this topic. One that finds too many others waiting is dropped
    /// and counted: whoever is faster than the model must not hold up the fleet's messages.
    pub(crate) async fn offer(&self, topic: &str, payload: &[u8], reporter: &Reporter) -> bool {
        if topic != self.topic {
            return false;
        }
        if self.messages.try_send(payload.to_vec()).is_err() {
            reporter.malformed(&self.topic, "messages come faster than they are read").await;
        }
        true
    }
}

/// Hands the messages of a local broker to their topics, for as long as its link lives.
pub(crate) async fn serve_local_broker(
    mut events: mpsc::Receiver<LinkEvent>,
    topics: Vec<LocalTopic>,
) {
    let by_name: BTreeMap<&str, &LocalTopic> =
        topics.iter().map(|topic| (topic.topic.as_str(), topic)).collect();
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up { .. } => tracing::info!("the local broker is connected"),
            LinkEvent::Down { reason, retry_in_ms } => {
                tracing::warn!("the local broker is away: {reason}; next try in {retry_in_ms} ms");
            }
            LinkEvent::SubscriptionRefused { filter, code } => {
                tracing::error!("the local broker refuses the subscription to {filter}: {code}");
            }
            LinkEvent::Message(message) => {
                if let Some(topic) = by_name.get(message.topic.as_str()) {
                    // The broker keeps what is not acknowledged: a slow model slows its sensors.
                    let _ = topic.messages.send(message.payload).await;
                }
                message.ack.accept();
            }
        }
    }
}

async fn read(
    topic: String,
    mut inbox: mpsc::Receiver<Vec<u8>>,
    mut feed: Feed,
    reporter: Reporter,
) {
    let shape = feed.slot().shape();
    while let Some(payload) = inbox.recv().await {
        let spec: SampleShape = shape.borrow().clone();
        // Without a model a sample has no meaning: it is not counted against its sender.
        let Some(spec) = spec else { continue };
        match sample(&payload, &spec) {
            Ok(sample) => {
                if feed.answer(sample, &spec).await.is_err() {
                    return;
                }
            }
            Err(problem) => reporter.malformed(&topic, &problem).await,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    features: Vec<f64>,
}

fn sample(payload: &[u8], spec: &SampleSpec) -> Result<Sample, String> {
    const EXPECTED: &str = "expected a JSON array of numbers, or {\"features\": [...]}";
    if payload.len() > SAMPLE_PAYLOAD_BYTES_MAX {
        let len_bytes = payload.len();
        return Err(format!(
            "{len_bytes} bytes, more than the limit of {SAMPLE_PAYLOAD_BYTES_MAX}"
        ));
    }
    let values = match payload.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(payload).map(|Named { features }| features),
        _ => serde_json::from_slice(payload),
    };
    let values: Vec<f64> = values.map_err(|_| EXPECTED.to_owned())?;
    let expected = match spec {
        SampleSpec::Row(row) => row.columns.len(),
        SampleSpec::Image(image) => image.shape.iter().map(|axis| *axis as usize).product(),
    };
    if values.len() != expected {
        return Err(format!("{} values, the model takes {expected}", values.len()));
    }
    match spec {
        SampleSpec::Row(_) => Ok(Sample::Row(values.iter().map(|value| *value as f32).collect())),
        SampleSpec::Image(image) => {
            let shape = image.shape.iter().map(|axis| *axis as usize).collect();
            let data = values.iter().map(|value| pixel(*value)).collect::<Option<_>>();
            let data = data.ok_or("a pixel is not a whole number from 0 to 255")?;
            Ok(Sample::Image { shape, data })
        }
    }
}

fn pixel(value: f64) -> Option<u8> {
    (value.fract() == 0.0 && (0.0..=255.0).contains(&value)).then_some(value as u8)
}

#[cfg(test)]
mod tests {
    use selvedge_bundle::{Column, DType, ImageAxis, ImageSpec, RowSpec};

    use super::*;

    fn row() -> SampleSpec {
        let column =
            |name: &str| Column { name: name.into(), unit: String::new(), min: None, max: None };
        SampleSpec::Row(RowSpec { columns: vec![column("a"), column("b")] })
    }

    fn image() -> SampleSpec {
        SampleSpec::Image(ImageSpec {
            axes: vec![ImageAxis::Height, ImageAxis::Width],
            shape: vec![1, 2],
            dtype: DType::U8,
            min: 0.0,
            max: 16.0,
        })
    }

    #[test]
    fn both_forms_are_read() {
        for payload in ["[1, 2.5]", " {\"features\": [1, 2.5]}"] {
            assert_eq!(sample(payload.as_bytes(), &row()), Ok(Sample::Row(vec![1.0, 2.5])));
        }
        let expected = Sample::Image { shape: vec![1, 2], data: vec![0, 255] };
        assert_eq!(sample(b"[0, 255]", &image()), Ok(expected));
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let long = vec![b' '; SAMPLE_PAYLOAD_BYTES_MAX + 1];
        let cases: &[(&[u8], &SampleSpec, &str)] = &[
            (b"", &row(), "JSON array"),
            (b"\xff\xfe", &row(), "JSON array"),
            (b"[1]", &row(), "1 values, the model takes 2"),
            (b"[1, \"2\"]", &row(), "JSON array"),
            (b"[1, null]", &row(), "JSON array"),
            (b"{\"features\": [1, 2], \"more\": 1}", &row(), "JSON array"),
            (b"{\"values\": [1, 2]}", &row(), "JSON array"),
            (b"[[1, 2]]", &row(), "JSON array"),
            (b"[1, 256]", &image(), "0 to 255"),
            (b"[1, 0.5]", &image(), "0 to 255"),
            (b"[1, -1]", &image(), "0 to 255"),
            (&long, &row(), "limit"),
        ];
        let failures: Vec<_> = cases
            .iter()
            .filter_map(|(payload, spec, part)| match sample(payload, spec) {
                Err(problem) if problem.contains(part) => None,
                other => Some(format!("{:?}: {other:?}", String::from_utf8_lossy(payload))),
            })
            .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
