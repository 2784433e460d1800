//! Labels that come late, on a local topic: each message is one, in the JSON form of the wire.
//!
//! `{"source": "camera", "sample": 1234, "class": "digit 4", "slice": "night"}`; this device and this run are meant
//! where `device` and `boot` are not named. The slot of the source is asked for its answer. What goes to the fleet
//! is the label with that answer: so labels count also where results are not sent.

use std::collections::BTreeMap;

use selvedge_wire::{
    Boot, DeviceId, Label, LabelForm, LabelRecord, LabelledAnswer, SourceName, Stream,
};
use tokio::sync::mpsc;

use crate::{
    inference::SlotHandle, limits::LABEL_BYTES_MAX, record::encode_record, reporter::Reporter,
};

/// Takes labels, finds their answers, and sends both to the fleet.
pub(crate) struct LabelReader {
    device: DeviceId,
    boot: Boot,
    slots: BTreeMap<SourceName, SlotHandle>,
    reporter: Reporter,
}

impl LabelReader {
    /// Labels are of the sources of `slots`, which feed these.
    pub(crate) fn new(
        device: DeviceId,
        boot: Boot,
        slots: BTreeMap<SourceName, SlotHandle>,
        reporter: Reporter,
    ) -> Self {
        Self { device, boot, slots, reporter }
    }

    /// Takes the messages of a topic.
    pub(crate) async fn run(self, topic: String, mut inbox: mpsc::Receiver<Vec<u8>>) {
        while let Some(payload) = inbox.recv().await {
            match self.record(&payload).await {
                Ok(record) => {
                    let record = encode_record(&record);
                    self.reporter.spool().push(Stream::Labels, record).await;
                }
                Err(problem) => self.reporter.malformed(&topic, &problem).await,
            }
        }
    }

    async fn record(&self, payload: &[u8]) -> Result<LabelRecord, String> {
        let Label { id, truth, slice } = read(payload, &self.device, self.boot)?;
        let slot = self.slots.get(&id.source).ok_or_else(|| {
            let known: Vec<&str> = self.slots.keys().map(SourceName::as_str).collect();
            format!(
                "label of {id}: no source of samples has this name; there are {}",
                known.join(", ")
            )
        })?;
        // What an earlier run answered is forgotten here.
        let answer = match id.boot == self.boot {
            true => slot.recall(id.source.as_str(), id.sample).await,
            false => None,
        };
        let truth = match &answer {
            Some(answer) => truth
                .resolve(&answer.by.classes, &answer.outcome)
                .map_err(|error| format!("label of {id}: {error}"))?,
            None => truth,
        };
        Ok(LabelRecord {
            at_ms: self.reporter.unix_ms(),
            boot: id.boot,
            source: id.source,
            sample: id.sample,
            truth,
            slice,
            answer: answer.map(|answer| LabelledAnswer {
                at_ms: answer.at_ms,
                slot: slot.slot().clone(),
                bundle: answer.by.bundle,
                outcome: answer.outcome,
            }),
        })
    }
}

fn read(payload: &[u8], device: &DeviceId, boot: Boot) -> Result<Label, String> {
    if payload.len() > LABEL_BYTES_MAX {
        let len_bytes = payload.len();
        return Err(format!("{len_bytes} bytes, more than a label's limit of {LABEL_BYTES_MAX}"));
    }
    let form: LabelForm =
        serde_json::from_slice(payload).map_err(|error| format!("not a label: {error}"))?;
    let label = form.read(Some((device, boot))).map_err(|error| error.to_string())?;
    if label.id.device != *device {
        return Err(format!("the label is of {}, this is {device}", label.id));
    }
    Ok(label)
}

#[cfg(test)]
mod tests {
    use selvedge_wire::Truth;

    use super::*;

    fn read_here(payload: &str) -> Result<Label, String> {
        let device = "line-1".parse().expect("the name is well formed");
        read(payload.as_bytes(), &device, Boot(7))
    }

    #[test]
    fn a_label_means_this_device_and_run_unless_it_says_otherwise() {
        let label =
            read_here(r#"{"source": "camera", "sample": 3, "class": "four", "slice": "night"}"#);
        let label = label.expect("it is whole");
        assert_eq!(label.id.to_string(), "line-1/7/camera/3");
        assert_eq!(label.slice.map(|slice| slice.to_string()), Some("night".into()));
        for (payload, id, truth) in [
            (r#"{"id": "line-1/2/camera/3", "class": 4}"#, "line-1/2/camera/3", Truth::Class(4)),
            (
                r#"{"source": "camera", "boot": 6, "sample": 3, "value": 1.5}"#,
                "line-1/6/camera/3",
                Truth::Value(1.5),
            ),
        ] {
            let label = read_here(payload).expect("it is whole");
            assert_eq!((label.id.to_string(), label.truth), (id.to_owned(), truth));
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let long_slice = format!(
            r#"{{"source": "a", "sample": 1, "class": 1, "slice": "{}"}}"#,
            "x".repeat(129)
        );
        let long = " ".repeat(LABEL_BYTES_MAX + 1);
        let cases: &[(&str, &str)] = &[
            ("", "not a label"),
            ("four", "not a label"),
            ("[]", "not a label"),
            (r#"{"sample": 1, "class": 1}"#, "lacks source"),
            (r#"{"source": "a", "class": 1}"#, "lacks sample"),
            (r#"{"source": "a", "sample": 1}"#, "lacks class, or value"),
            (r#"{"source": "a", "sample": 1, "class": 1, "value": 2}"#, "a class and a value"),
            (
                r#"{"source": "a", "sample": 1, "class": 1.5}"#,
                "a name of 1 to 128 bytes or an index",
            ),
            (r#"{"source": "a", "sample": 1, "value": 1e300}"#, "number out of range"),
            (r#"{"source": "a", "sample": -1, "class": 1}"#, "expected u64"),
            (r#"{"source": "a", "sample": 1, "class": 1, "weight": 2}"#, "unknown field `weight`"),
            (r#"{"id": "a/b", "class": 1}"#, "DEVICE/BOOT/SOURCE/SAMPLE"),
            (r#"{"id": "line-1/7/a/1", "sample": 1, "class": 1}"#, "an id, and device, boot"),
            (r#"{"id": "line-2/7/a/1", "class": 1}"#, "of line-2/7/a/1, this is line-1"),
            (&long_slice, "129 bytes"),
            (&long, "limit"),
        ];
        let failures: Vec<_> = cases
            .iter()
            .filter_map(|(payload, part)| match read_here(payload) {
                Err(problem) if problem.contains(part) => None,
                other => Some(format!("{payload}: {other:?}")),
            })
            .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
