//! Samples that a device kept: how the fleet asks for them, and how they come.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{Batch, Boot, Digest, Message, SlotName};

/// Every piece of a sample but the last has as many bytes of its values.
pub const CAPTURE_PIECE_BYTES: usize = 32 * 1024;

/// The most axes of an image.
const AXES_MAX: usize = 3;

/// A wish for samples that a device kept until it took the wish up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Counts the requests to this device, from 1. One that is not above all before it changes nothing; one that
    /// is takes the place of a request that is under way.
    pub number: u64,
    /// Samples that this slot had; of all if it names none.
    pub slot: Option<SlotName>,
    /// Samples that this bundle answered; of all if it names none.
    pub bundle: Option<Digest>,
    /// Samples from here on: Unix time in milliseconds, by the device's clock.
    pub from_ms: u64,
    /// Samples up to here, included.
    pub to_ms: u64,
    /// The most samples.
    pub samples_max: u32,
    /// The most bytes of their values.
    pub bytes_max: u64,
}

/// Why a sample was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaptureReason {
    /// One of its features is out of the reference's range, not finite, or stuck.
    Anomalous,
    /// Its bundle drifts.
    Drifting,
}

impl CaptureReason {
    /// The reason's name in tables, in the API and on pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anomalous => "anomalous",
            Self::Drifting => "drifting",
        }
    }
}

/// How the values of a sample are laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SampleForm {
    /// `[column] f32`, little-endian.
    Row {
        /// How many columns.
        columns: u32,
    },
    /// `[height, width] u8` or `[height, width, channel] u8`, row-major.
    Image {
        /// The extents of the axes.
        shape: Vec<u32>,
    },
}

impl SampleForm {
    /// The bytes of the values; nothing if there is no such form.
    pub fn len_bytes(&self) -> Option<u64> {
        match self {
            Self::Row { columns } => Some(u64::from(*columns) * 4),
            Self::Image { shape } if shape.len() > AXES_MAX => None,
            Self::Image { shape } => {
                shape.iter().try_fold(1, |len: u64, extent| len.checked_mul(u64::from(*extent)))
            }
        }
    }

    /// How many pieces the values have; nothing if that is more than can be counted.
    pub fn pieces(&self) -> Option<u32> {
        let pieces = self.len_bytes()?.div_ceil(CAPTURE_PIECE_BYTES as u64);
        u32::try_from(pieces.max(1)).ok()
    }

    /// The bytes of the piece at `index`; nothing if there is none.
    fn piece_len_bytes(&self, index: u32) -> Option<usize> {
        if index >= self.pieces()? {
            return None;
        }
        let rest = self.len_bytes()? - u64::from(index) * CAPTURE_PIECE_BYTES as u64;
        Some(rest.min(CAPTURE_PIECE_BYTES as u64) as usize)
    }
}

/// What the stream of captured samples carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaptureRecord {
    /// Part of a sample.
    Piece(CapturePiece),
    /// A request is done with: all of it that is sent is in records before this one.
    Finished(CaptureFinished),
}

/// Part of a sample that was kept. The same part may come in several records; it is always the same.
///
/// Device, boot, source and sample name it in the whole fleet, as they do its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapturePiece {
    /// The request that it answers.
    pub request: u64,
    /// Bytes of values that were sent for the request so far, with these.
    pub sent_bytes: u64,
    /// The run that had the sample, which need not be the one that sends it.
    pub boot: Boot,
    /// The source of the sample, as the agent's configuration names it.
    pub source: String,
    /// Counts the samples of that source, from 0.
    pub sample: u64,
    /// The slot that had it.
    pub slot: SlotName,
    /// The bundle that answered.
    pub bundle: Digest,
    /// When it was kept: Unix time in milliseconds, by the device's clock.
    pub at_ms: u64,
    /// Why it was kept.
    pub reason: CaptureReason,
    /// The form of the whole sample, which says how many pieces there are.
    pub form: SampleForm,
    /// The place of this piece among them, from 0.
    pub index: u32,
    /// Its bytes: [`CAPTURE_PIECE_BYTES`], fewer in the last piece.
    pub bytes: Vec<u8>,
}

impl CapturePiece {
    /// Whether the source has a name as sources have, and the piece its place in its sample and as many bytes as
    /// that place has.
    pub fn is_sound(&self) -> bool {
        // Names of sources and of slots are alike.
        let is_named = self.source.parse::<SlotName>().is_ok();
        is_named && self.form.piece_len_bytes(self.index) == Some(self.bytes.len())
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureFinished {
    /// The request.
    pub request: u64,
    /// Samples that were sent.
    pub sent: u32,
    /// Bytes of their values.
    pub sent_bytes: u64,
    /// Samples that the request asks for and its own limits leave out.
    pub left_out: u32,
    /// Samples that made room for newer ones before their turn, or cannot be read; whether they were asked for
    /// is not known any more.
    pub gone: u32,
    /// False where the device is not configured to keep samples: then it sends none.
    pub capturing: bool,
}

impl Message for CaptureRequest {}
impl Message for Batch<CaptureRecord> {}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn piece(form: SampleForm, index: u32, len: usize) -> CapturePiece {
        CapturePiece {
            request: 1,
            sent_bytes: 0,
            boot: Boot(1),
            source: "line".into(),
            sample: 0,
            slot: "main".parse().expect("the name is well formed"),
            bundle: Digest([1; 32]),
            at_ms: 0,
            reason: CaptureReason::Drifting,
            form,
            index,
            bytes: vec![0; len],
        }
    }

    #[test]
    fn a_piece_has_exactly_the_bytes_of_its_place() {
        let row = SampleForm::Row { columns: 9 };
        let image = SampleForm::Image { shape: vec![256, 129] };
        let vast = SampleForm::Image { shape: vec![u32::MAX; 3] };
        let odd = SampleForm::Image { shape: vec![1; 4] };
        for (form, index, len, is_sound) in [
            (&row, 0, 36, true),
            (&row, 0, 35, false),
            (&row, 1, 36, false),
            (&image, 0, CAPTURE_PIECE_BYTES, true),
            (&image, 1, 256, true),
            (&image, 0, 256, false),
            (&image, 1, 257, false),
            (&image, 2, 0, false),
            (&SampleForm::Row { columns: 0 }, 0, 0, true),
            (&vast, 0, CAPTURE_PIECE_BYTES, false),
            (&odd, 0, 1, false),
        ] {
            assert_eq!(
                piece(form.clone(), index, len).is_sound(),
                is_sound,
                "{form:?} {index} {len}"
            );
        }
        let nameless = CapturePiece { source: String::new(), ..piece(row, 0, 36) };
        assert!(!nameless.is_sound());
    }
}
