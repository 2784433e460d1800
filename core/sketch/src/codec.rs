//! Bytes in and out: single bytes and LEB128 varints, each number in its one shortest form.

use crate::Error;

/// The longest varint of a `u32`, in bytes.
pub(crate) const VARINT_BYTES_MAX: usize = 5;

/// The longest varint of a `u64`, in bytes.
pub(crate) const VARINT_U64_BYTES_MAX: usize = 10;

const PAYLOAD_BITS: u32 = 7;
const MORE: u8 = 0x80;

/// Fills a buffer from its start.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len_bytes: usize,
}

impl<'b> Writer<'b> {
    pub(crate) fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len_bytes: 0 }
    }

    pub(crate) fn byte(&mut self, byte: u8) -> Result<(), Error> {
        *self.buffer.get_mut(self.len_bytes).ok_or(Error::BufferTooShort)? = byte;
        self.len_bytes += 1;
        Ok(())
    }

    pub(crate) fn varint(&mut self, mut value: u32) -> Result<(), Error> {
        while value >= u32::from(MORE) {
            self.byte(value.to_le_bytes()[0] | MORE)?;
            value >>= PAYLOAD_BITS;
        }
        self.byte(value.to_le_bytes()[0])
    }

    pub(crate) fn varint_u64(&mut self, mut value: u64) -> Result<(), Error> {
        while value >= u64::from(MORE) {
            self.byte(value.to_le_bytes()[0] | MORE)?;
            value >>= PAYLOAD_BITS;
        }
        self.byte(value.to_le_bytes()[0])
    }

    /// Zigzag: 0, −1, 1, −2 and so on become 0, 1, 2, 3 (Protocol Buffers, "Signed Integers").
    pub(crate) fn signed(&mut self, value: i64) -> Result<(), Error> {
        self.varint_u64((value << 1 ^ value >> 63).cast_unsigned())
    }

    /// What was written.
    pub(crate) fn finish(self) -> &'b [u8] {
        &self.buffer[..self.len_bytes]
    }
}

/// Takes bytes from the front of a slice.
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        let (&byte, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (&array, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(array)
    }

    /// Refuses a number that exceeds a `u32` or is longer than it must be.
    pub(crate) fn varint(&mut self) -> Result<u32, Error> {
        u32::try_from(self.varint_u64()?).map_err(|_| Error::Malformed)
    }

    /// Refuses a number that exceeds a `u64` or is longer than it must be.
    pub(crate) fn varint_u64(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for place in (0..u64::BITS).step_by(PAYLOAD_BITS as usize) {
            let byte = self.byte()?;
            let payload = u64::from(byte & !MORE);
            value |= payload << place;
            if byte & MORE == 0 {
                let overlong = byte == 0 && place > 0;
                let exceeds = value >> place != payload;
                return if overlong || exceeds { Err(Error::Malformed) } else { Ok(value) };
            }
        }
        Err(Error::Malformed)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Error> {
        let value = self.varint_u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::TrailingBytes) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_in_a_longer_form_is_refused() {
        for (bytes, expected) in [
            (&[0x00][..], Ok(0)),
            (&[0x80, 0x00], Err(Error::Malformed)),
            (&[0xff, 0x00], Err(Error::Malformed)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], Err(Error::Malformed)),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], Err(Error::Malformed)),
            (&[0x80], Err(Error::Truncated)),
        ] {
            assert_eq!(Reader::new(bytes).varint(), expected, "{bytes:x?}");
        }
        for (last, expected) in [
            (&[0x01][..], Ok(u64::MAX)),
            (&[0x00], Err(Error::Malformed)),
            (&[0x02], Err(Error::Malformed)),
            (&[0x81, 0x00], Err(Error::Malformed)),
            (&[], Err(Error::Truncated)),
        ] {
            let bytes = [&[0xff; 9], last].concat();
            assert_eq!(Reader::new(&bytes).varint_u64(), expected, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn a_number_comes_back_as_it_was_written(short: u32, long: u64, signed: i64, shift in 0..64u32) {
            let (long, signed) = (long >> shift, signed >> shift);
            let mut buffer = [0; VARINT_BYTES_MAX + 2 * VARINT_U64_BYTES_MAX];
            let mut writer = Writer::new(&mut buffer);
            writer.varint(short).expect("the buffer holds the longest varints");
            writer.varint_u64(long).expect("the buffer holds the longest varints");
            writer.signed(signed).expect("the buffer holds the longest varints");
            let mut reader = Reader::new(writer.finish());
            prop_assert_eq!(reader.varint(), Ok(short));
            prop_assert_eq!(reader.varint_u64(), Ok(long));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
