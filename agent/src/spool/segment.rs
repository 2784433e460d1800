//! The bytes of a segment: a file with consecutive records of one boot and stream.
//!
//! Its name is `BBBBBBBBBB-FFFFFFFFFFFFFFFFFFFF.log`: boot and first sequence number, in decimal with
//! leading zeros, so that names sort in the order of records. It begins with
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 4 | `SVSG` |
//! | 4 | 1 | version of this layout, 1 |
//! | 5 | 1 | version of the wire that the records are written in |
//!
//! and goes on with records:
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 4 | n, the length of the body, little-endian |
//! | 4 | 4 | CRC-32/ISCSI of length and body, little-endian |
//! | 8 | 1 | 0 one record, 1 merged, 2 dropped |
//! | 9 | 8 | how many sequence numbers it stands for, little-endian |
//! | 17 | n − 9 | the record, encoded; empty if dropped |

use crc::{CRC_32_ISCSI, Crc};
use selvedge_wire::{Boot, Record};

/// A record as the spool keeps it: encoded.
pub(crate) type Entry = Record<Vec<u8>>;

/// The bytes before the first record.
pub(crate) const HEADER: [u8; 6] = [b'S', b'V', b'S', b'G', 1, selvedge_wire::VERSION];

/// The bytes that a record takes beside its own.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 17;

const BODY_OVERHEAD_BYTES: usize = 9;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The name of a segment's file.
pub(crate) fn file_name(boot: Boot, first: u64) -> String {
    format!("{:010}-{first:020}.log", boot.0)
}

/// Boot and first sequence number of a segment's file.
pub(crate) fn parse_file_name(name: &str) -> Option<(Boot, u64)> {
    let (boot, first) = name.strip_suffix(".log")?.split_once('-')?;
    let parsed = (Boot(boot.parse().ok()?), first.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Appends a record's bytes.
pub(crate) fn write_entry(entry: &Entry, bytes: &mut Vec<u8>) {
    let (kind, value): (u8, &[u8]) = match entry {
        Record::One(value) => (0, value),
        Record::Merged { value, .. } => (1, value),
        Record::Dropped { .. } => (2, &[]),
    };
    let len = u32::try_from(BODY_OVERHEAD_BYTES + value.len());
    let len = len.expect("a record is shorter than its limit, which is far below 4 GiB");
    let covers = entry.covers().to_le_bytes();
    let mut crc = CRC.digest();
    for part in [len.to_le_bytes().as_slice(), &[kind], &covers, value] {
        crc.update(part);
    }
    bytes.extend(len.to_le_bytes());
    bytes.extend(crc.finalize().to_le_bytes());
    bytes.push(kind);
    bytes.extend(covers);
    bytes.extend(value);
}

/// The bytes of a whole segment.
pub(crate) fn write_segment(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    entries.iter().for_each(|entry| write_entry(entry, &mut bytes));
    bytes
}

/// How many bytes a record takes in a segment.
pub(crate) fn entry_len_bytes(entry: &Entry) -> usize {
    match entry {
        Record::One(value) | Record::Merged { value, .. } => RECORD_OVERHEAD_BYTES + value.len(),
        Record::Dropped { .. } => RECORD_OVERHEAD_BYTES,
    }
}

/// What could be read of a segment.
pub(crate) struct Readable {
    /// The records before the first bad one.
    pub(crate) entries: Vec<Entry>,
    /// How many bytes they take, with the header; 0 if the header is bad.
    pub(crate) len_bytes: usize,
}

/// Reads records until the end, or the first bad one.
pub(crate) fn read_segment(bytes: &[u8]) -> Readable {
    let mut readable = Readable { entries: Vec::new(), len_bytes: 0 };
    let Some(mut rest) = bytes.strip_prefix(HEADER.as_slice()) else { return readable };
    while let Some((entry, after)) = read_entry(rest) {
        readable.entries.push(entry);
        rest = after;
    }
    readable.len_bytes = bytes.len() - rest.len();
    readable
}

fn read_entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (body, after) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let mut check = CRC.digest();
    check.update(len);
    check.update(body);
    if check.finalize() != u32::from_le_bytes(*crc) {
        return None;
    }
    let (&kind, body) = body.split_first()?;
    let (covers, value) = body.split_first_chunk::<8>()?;
    let covers = u64::from_le_bytes(*covers);
    let entry = match kind {
        0 if covers == 1 => Record::One(value.to_vec()),
        1 if covers > 0 => Record::Merged { covers, value: value.to_vec() },
        2 if covers > 0 && value.is_empty() => Record::Dropped { covers },
        _ => return None,
    };
    Some((entry, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Record::One(b"first".to_vec()),
            Record::Dropped { covers: 7 },
            Record::Merged { covers: 3, value: Vec::new() },
        ]
    }

    #[test]
    fn a_segment_reads_back() {
        let bytes = write_segment(&entries());
        let readable = read_segment(&bytes);
        assert_eq!(readable.entries, entries());
        assert_eq!(readable.len_bytes, bytes.len());
        let lens: usize = entries().iter().map(entry_len_bytes).sum();
        assert_eq!(lens + HEADER.len(), bytes.len());
    }

    #[test]
    fn a_segment_cut_anywhere_gives_a_prefix_of_its_records() {
        let bytes = write_segment(&entries());
        for cut in 0..bytes.len() {
            let readable = read_segment(&bytes[..cut]);
            assert!(readable.entries.len() < 3 && readable.len_bytes <= cut, "cut at {cut}");
            assert_eq!(readable.entries, entries()[..readable.entries.len()], "cut at {cut}");
        }
    }

    #[test]
    fn no_changed_byte_passes() {
        let bytes = write_segment(&entries());
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            let readable = read_segment(&changed);
            assert!(readable.entries.len() < 3, "byte {place}");
            assert_eq!(readable.entries, entries()[..readable.entries.len()], "byte {place}");
        }
    }

    #[test]
    fn names_sort_as_records_do_and_read_back() {
        let names = [(1, 9), (1, 10), (2, 1), (10, 1)].map(|(boot, first)| {
            let name = file_name(Boot(boot), first);
            assert_eq!(parse_file_name(&name), Some((Boot(boot), first)));
            name
        });
        assert!(names.is_sorted());
        for name in ["", "1-1.log", "boot", "0000000001-00000000000000000001.log.new"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
