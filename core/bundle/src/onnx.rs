//! Where the initialisers of an ONNX file lie: just enough of Protocol Buffers to find their bytes.
//!
//! Nothing is decoded and nothing is believed: what does not parse has no initialisers, and every range
//! lies inside the file. The work is linear in the number of fields, whose contents are skipped.
//!
//! Vocabulary (Protocol Buffers encoding): a *field* is a *tag*, a varint of field number and wire type,
//! and a value; the wire type LEN is a varint length and that many bytes.

use std::ops::Range;

/// `ModelProto.graph`
const MODEL_GRAPH: u64 = 7;
/// `GraphProto.initializer`
const GRAPH_INITIALIZER: u64 = 5;
/// `TensorProto.name`
const TENSOR_NAME: u64 = 8;
/// `TensorProto.raw_data`
const TENSOR_RAW_DATA: u64 = 9;

/// The most initialisers that are looked for; a file with more is treated as if it had none.
const INITIALISERS_MAX: usize = 1 << 16;

/// An initialiser that is stored as raw data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Initialiser<'a> {
    /// Its name, not necessarily UTF-8.
    pub name: &'a [u8],
    /// Where its raw data lies in the file; not empty.
    pub data: Range<usize>,
}

/// The initialisers with raw data, in the order of the file; none if the bytes are no ONNX file.
pub(crate) fn initialisers(file: &[u8]) -> Vec<Initialiser<'_>> {
    read(file).unwrap_or_default()
}

fn read(file: &[u8]) -> Option<Vec<Initialiser<'_>>> {
    let mut found = Vec::new();
    for field in Fields::of(file, 0..file.len()) {
        let (number, graph) = field?;
        if number != MODEL_GRAPH {
            continue;
        }
        for field in Fields::of(file, graph) {
            let (number, tensor) = field?;
            if number == GRAPH_INITIALIZER {
                found.extend(initialiser(file, tensor)?);
            }
            if found.len() > INITIALISERS_MAX {
                return None;
            }
        }
    }
    Some(found)
}

/// The tensor in `range`; the outer `None` means that it does not parse, the inner one that it has no
/// raw data.
fn initialiser(file: &[u8], range: Range<usize>) -> Option<Option<Initialiser<'_>>> {
    let (mut name, mut data) = (0..0, 0..0);
    for field in Fields::of(file, range) {
        match field? {
            (TENSOR_NAME, value) => name = value,
            (TENSOR_RAW_DATA, value) => data = value,
            _ => {}
        }
    }
    Some((!data.is_empty()).then(|| Initialiser { name: &file[name], data }))
}

/// The fields of a message: number, and where the value lies for LEN (for others an empty range).
/// `None` ends it: the message does not parse.
struct Fields<'a> {
    file: &'a [u8],
    rest: Range<usize>,
}

impl<'a> Fields<'a> {
    /// The fields of the message in `range`, which lies inside the file.
    fn of(file: &'a [u8], range: Range<usize>) -> Self {
        Self { file, rest: range }
    }

    fn field(&mut self) -> Option<(u64, Range<usize>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => {
                self.varint()?;
                0..0
            }
            1 => {
                self.skip(8)?;
                0..0
            }
            2 => {
                let len = self.varint()?;
                self.skip(usize::try_from(len).ok()?)?
            }
            5 => {
                self.skip(4)?;
                0..0
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn skip(&mut self, len: usize) -> Option<Range<usize>> {
        let end = self.rest.start.checked_add(len).filter(|end| *end <= self.rest.end)?;
        let skipped = self.rest.start..end;
        self.rest.start = end;
        Some(skipped)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.file[self.skip(1)?.start];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Fields<'_> {
    type Item = Option<(u64, Range<usize>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = 0..0;
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::example::{cases, onnx_file};

    #[test]
    fn initialisers_are_found_by_name_with_their_bytes() {
        let tensors = [("a", vec![1; 300]), ("weights/0", vec![2; 5]), ("empty", vec![])];
        let file = onnx_file(b"nodes", &tensors);
        let found = initialisers(&file);
        let found: Vec<_> = found.iter().map(|i| (i.name, &file[i.data.clone()])).collect();
        assert_eq!(found, [(&b"a"[..], &[1; 300][..]), (b"weights/0", &[2; 5])]);
    }

    #[test]
    fn the_models_of_this_repository_have_initialisers() {
        for model in ["shuttle", "meter-digits"] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
            let file = std::fs::read(format!("{folder}/{model}/v2/model.onnx")).expect("a recipe");
            let found = initialisers(&file);
            let bytes: usize = found.iter().map(|initialiser| initialiser.data.len()).sum();
            assert!(found.len() > 10 && bytes > file.len() / 3, "{model}: {found:?}");
        }
    }

    #[test]
    fn what_does_not_parse_has_no_initialisers() {
        let good = onnx_file(b"nodes", &[("a", vec![1; 300])]);
        let mut group = good.clone();
        group.extend([0x0b]);
        let huge_len = [&[0x3a][..], &[0xff; 9], &[1]].concat();
        let endless_varint = vec![0xff; 20];
        for bytes in [&good[..good.len() - 1], &group, &huge_len, &endless_varint, b"{\"a\":1}"] {
            assert_eq!(initialisers(bytes), [], "{bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(2048))]

        #[test]
        fn hostile_bytes_never_panic_and_every_range_lies_inside(
            garbage in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
        ) {
            let mut file = onnx_file(&garbage, &[("a", vec![1; 200]), ("b", garbage.clone())]);
            let at = at.index(file.len());
            let end = (at + 3).min(file.len());
            file.splice(at..end, garbage.iter().copied().take(3));
            for bytes in [&garbage[..], &file] {
                for initialiser in initialisers(bytes) {
                    prop_assert!(initialiser.data.end <= bytes.len());
                    prop_assert!(!initialiser.data.is_empty());
                }
            }
        }
    }
}
