//! A sample as it is kept.

use selvedge_runtime::Sample;
use selvedge_wire::{
    Boot, CAPTURE_PIECE_BYTES, CapturePiece, CaptureReason, CaptureRequest, Digest, SampleForm,
    SlotName,
};
use serde::{Deserialize, Serialize};

use super::Candidate;

const VERSION: u8 = 1;

/// A sample as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CapturedSample {
    pub(super) boot: Boot,
    pub(super) source: String,
    pub(super) number: u64,
    slot: SlotName,
    bundle: Digest,
    /// Unix time in milliseconds.
    at_ms: u64,
    reason: CaptureReason,
    form: SampleForm,
    /// The values as `form` lays them out, in the units of the manifest.
    values: Vec<u8>,
}

impl CapturedSample {
    /// The sample of a candidate; nothing if its axes are longer than can be counted.
    pub(super) fn of(boot: Boot, at_ms: u64, candidate: Candidate<'_>) -> Option<Self> {
        let Candidate { slot, bundle, source, number, reason, sample } = candidate;
        let (form, values) = match sample {
            Sample::Row(values) => {
                let columns = u32::try_from(values.len()).ok()?;
                (SampleForm::Row { columns }, values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            Sample::Image { shape, data } => {
                let shape = shape.iter().map(|&extent| u32::try_from(extent).ok());
                (SampleForm::Image { shape: shape.collect::<Option<_>>()? }, data.clone())
            }
        };
        let (source, slot) = (source.to_owned(), slot.clone());
        Some(Self { boot, source, number, slot, bundle, at_ms, reason, form, values })
    }

    /// The file: a version byte, then postcard.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("postcard encodes lists and numbers")
    }

    /// Reads a file; nothing if it is none, or not whole.
    pub(super) fn decode(file: &[u8]) -> Option<Self> {
        let (&VERSION, bytes) = file.split_first()? else { return None };
        let sample: Self = postcard::from_bytes(bytes).ok()?;
        (sample.form.len_bytes() == Some(sample.len_bytes())).then_some(sample)
    }

    pub(super) fn is_asked_for(&self, request: &CaptureRequest) -> bool {
        request.slot.as_ref().is_none_or(|slot| *slot == self.slot)
            && request.bundle.is_none_or(|bundle| bundle == self.bundle)
            && (request.from_ms..=request.to_ms).contains(&self.at_ms)
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.values.len() as u64
    }

    /// The piece at `index` as it answers a request, for which so many bytes were sent before this sample; nothing
    /// behind the last.
    pub(super) fn piece(&self, request: u64, sent_before: u64, index: u32) -> Option<CapturePiece> {
        if index >= self.form.pieces()? {
            return None;
        }
        let begin = index as usize * CAPTURE_PIECE_BYTES;
        let end = self.values.len().min(begin + CAPTURE_PIECE_BYTES);
        Some(CapturePiece {
            request,
            sent_bytes: sent_before + end as u64,
            boot: self.boot,
            source: self.source.clone(),
            sample: self.number,
            slot: self.slot.clone(),
            bundle: self.bundle,
            at_ms: self.at_ms,
            reason: self.reason,
            form: self.form.clone(),
            index,
            bytes: self.values[begin..end].to_vec(),
        })
    }
}
