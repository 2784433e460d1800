//! Frames between a node and its gateway, over a serial line.
//!
//! A frame on the line:
//!
//! | part | bytes | meaning |
//! |---|---|---|
//! | body | COBS-encoded, no zero byte | see below |
//! | end | 1 | 0x00 |
//!
//! The body before COBS (Cheshire and Baker, 1999):
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | wire version |
//! | 1 | n | [`NodeMessage`] in postcard |
//! | 1 + n | 4 | CRC-32/ISCSI of all before it, little-endian |
//!
//! A reader that loses bytes finds the next frame behind the next zero.

use core::fmt;

use crc::{CRC_32_ISCSI, Crc, NoTable};
use serde::{Deserialize, Serialize};

use crate::{Error, VERSION, codec::strip_version};

/// The longest body of a frame, in bytes, before COBS.
pub const FRAME_BYTES_MAX: usize = 512;

/// The longest frame on the line, in bytes: COBS adds one byte per 254, and the end.
pub const FRAME_ENCODED_BYTES_MAX: usize = FRAME_BYTES_MAX + FRAME_BYTES_MAX.div_ceil(254) + 1;

const CRC_BYTES: usize = 4;
// Without a table: a node has more time than flash.
const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);

/// A node's name: the unique number of its chip, or one burnt in with the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a node says to its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeMessage<'a> {
    /// Sent once after the node's start, and again every few frames for a gateway that came later.
    Hello {
        /// The node.
        node: NodeId,
        /// The firmware's version.
        firmware: &'a str,
    },
    /// One reading.
    Reading {
        /// The node.
        node: NodeId,
        /// The reading.
        reading: Reading,
    },
    /// The counters of a window that has closed.
    Profile {
        /// The node.
        node: NodeId,
        /// Counts the windows since the node's start, from 0.
        window: u32,
        /// The encoded profile, as the sketch crate reads it.
        profile: &'a [u8],
    },
    /// A sensor did not answer.
    SensorFailed {
        /// The node.
        node: NodeId,
        /// How often that has happened since the node's start.
        count: u32,
    },
}

/// One value that a sensor gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reading {
    /// Counts the node's readings since its start, from 0.
    pub count: u32,
    /// Milliseconds since the node's start, modulo 2³².
    pub uptime_ms: u32,
    /// What was measured, and its unit.
    pub quantity: Quantity,
    /// The value in that unit.
    pub value: i32,
}

/// What a sensor measures. Each has one unit, so that a value needs none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Quantity {
    /// Temperature in thousandths of a degree Celsius.
    TemperatureMilliCelsius,
}

impl Quantity {
    /// The name with its unit, for people and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TemperatureMilliCelsius => "temperature_mcelsius",
        }
    }
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It has more than [`FRAME_BYTES_MAX`] bytes.
    TooLong,
    /// It is not COBS, or shorter than a checksum.
    Framing,
    /// The checksum does not match: bytes were lost or changed on the line.
    Checksum,
    /// The frame is whole, but its message is not understood.
    Message(Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the frame is longer than {FRAME_BYTES_MAX} bytes"),
            Self::Framing => write!(f, "the frame is not COBS or too short"),
            Self::Checksum => write!(f, "the frame's checksum does not match"),
            Self::Message(error) => write!(f, "the frame's message: {error}"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Writes `message` as one frame and returns the part of `buffer` that it takes.
///
/// # Errors
/// [`FrameError::TooLong`] if the message exceeds [`FRAME_BYTES_MAX`].
pub fn encode_frame<'b>(
    message: &NodeMessage<'_>,
    buffer: &'b mut [u8; FRAME_ENCODED_BYTES_MAX],
) -> Result<&'b [u8], FrameError> {
    let mut body = [0; FRAME_BYTES_MAX];
    body[0] = VERSION;
    let room = &mut body[1..FRAME_BYTES_MAX - CRC_BYTES];
    let message_len = postcard::to_slice(message, room).map_err(|_| FrameError::TooLong)?.len();
    let crc_at = 1 + message_len;
    let crc = CRC.checksum(&body[..crc_at]);
    body[crc_at..crc_at + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    // The buffer is as long as the longest body needs, so encoding cannot run out of room.
    let encoded_len = cobs::encode(&body[..crc_at + CRC_BYTES], &mut buffer[..]);
    buffer[encoded_len] = 0;
    Ok(&buffer[..=encoded_len])
}

/// Finds frames in a stream of bytes.
pub struct FrameDecoder {
    buffer: [u8; FRAME_ENCODED_BYTES_MAX],
    len: usize,
    // The frame outgrew the buffer; its remaining bytes are dropped.
    overflown: bool,
}

impl FrameDecoder {
    /// A decoder that has seen nothing yet.
    pub const fn new() -> Self {
        Self { buffer: [0; FRAME_ENCODED_BYTES_MAX], len: 0, overflown: false }
    }

    /// Takes one byte; returns a message, or an error, when the byte ends a frame.
    ///
    /// An empty frame (two zeros in a row) is no frame: senders may use it to wake the line.
    pub fn push(&mut self, byte: u8) -> Option<Result<NodeMessage<'_>, FrameError>> {
        if byte != 0 {
            self.keep(byte);
            return None;
        }
        let len = core::mem::take(&mut self.len);
        if core::mem::take(&mut self.overflown) {
            return Some(Err(FrameError::TooLong));
        }
        if len == 0 {
            return None;
        }
        Some(decode_body(&mut self.buffer[..len]))
    }

    fn keep(&mut self, byte: u8) {
        match self.buffer.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
            }
            None => self.overflown = true,
        }
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

fn decode_body(encoded: &mut [u8]) -> Result<NodeMessage<'_>, FrameError> {
    let len = cobs::decode_in_place(encoded).map_err(|_| FrameError::Framing)?;
    let crc_at = len.checked_sub(CRC_BYTES).ok_or(FrameError::Framing)?;
    let (body, crc) = encoded[..len].split_at(crc_at);
    if CRC.checksum(body).to_le_bytes() != crc {
        return Err(FrameError::Checksum);
    }
    let message = strip_version(body).map_err(FrameError::Message)?;
    match postcard::take_from_bytes(message) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(FrameError::Message(Error::TrailingBytes { count: rest.len() })),
        Err(_) => Err(FrameError::Message(Error::Malformed)),
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn reading(count: u32, value: i32) -> NodeMessage<'static> {
        let quantity = Quantity::TemperatureMilliCelsius;
        let reading = Reading { count, uptime_ms: count.wrapping_mul(1000), quantity, value };
        NodeMessage::Reading { node: NodeId(0x5e1f), reading }
    }

    fn frame(message: &NodeMessage<'_>) -> Vec<u8> {
        let mut buffer = [0; FRAME_ENCODED_BYTES_MAX];
        encode_frame(message, &mut buffer).expect("the message fits a frame").to_vec()
    }

    /// Whether each frame in `bytes` was understood.
    fn outcomes(bytes: &[u8]) -> Vec<bool> {
        let mut decoder = FrameDecoder::new();
        bytes.iter().filter_map(|&byte| decoder.push(byte).map(|frame| frame.is_ok())).collect()
    }

    #[test]
    fn a_frame_has_no_zero_but_its_end() {
        let bytes = frame(&reading(0, 0));
        assert_eq!(bytes.iter().position(|&byte| byte == 0), Some(bytes.len() - 1));
    }

    #[test]
    fn the_longest_profile_fits_and_a_longer_one_is_refused() {
        let mut buffer = [0; FRAME_ENCODED_BYTES_MAX];
        let content = [0xff; FRAME_BYTES_MAX];
        let profile = |len: usize| NodeMessage::Profile {
            node: NodeId(u64::MAX),
            window: u32::MAX,
            profile: &content[..len],
        };
        let longest =
            (0..content.len()).rfind(|&len| encode_frame(&profile(len), &mut buffer).is_ok());
        let longest = longest.expect("an empty profile fits");
        assert!(longest > 480, "{longest}");
        assert_eq!(outcomes(&frame(&profile(longest))), [true]);
        assert_eq!(encode_frame(&profile(longest + 1), &mut buffer), Err(FrameError::TooLong));
    }

    #[test]
    fn the_next_frame_is_found_after_noise_without_end() {
        let mut bytes = [0x55; 3 * FRAME_ENCODED_BYTES_MAX].to_vec();
        bytes.push(0);
        bytes.extend(frame(&reading(7, -40_000)));
        assert_eq!(outcomes(&bytes), [false, true]);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut body = Vec::from([VERSION + 1, 1, 2, 3]);
        body.extend(CRC.checksum(&body).to_le_bytes());
        let mut encoded = [0; FRAME_ENCODED_BYTES_MAX];
        let len = cobs::encode(&body, &mut encoded);
        let error = decode_body(&mut encoded[..len]).expect_err("the version is unknown");
        assert_eq!(error, FrameError::Message(Error::Version { met: VERSION + 1 }));
    }

    proptest! {
        #[test]
        fn a_reading_comes_back_as_it_was_sent(count: u32, value: i32) {
            let sent = reading(count, value);
            let bytes = frame(&sent);
            let mut decoder = FrameDecoder::new();
            let (end, body) = bytes.split_last().expect("a frame has bytes");
            for &byte in body {
                prop_assert!(decoder.push(byte).is_none());
            }
            prop_assert_eq!(decoder.push(*end), Some(Ok(sent)));
        }

        #[test]
        fn a_changed_byte_never_passes_for_a_reading(value: i32, place: usize, change in 1u8..) {
            let mut bytes = frame(&reading(1, value));
            let place = place % (bytes.len() - 1);
            bytes[place] ^= change;
            prop_assert!(!outcomes(&bytes).contains(&true));
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            outcomes(&bytes);
        }
    }
}
