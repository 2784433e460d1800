//! NumPy's `.npy` files: a header that says dtype, order and shape, then the elements.
//!
//! Format: "NEP 1 — A Simple File Format for NumPy Arrays", versions 1.0, 2.0 and 3.0.
//! Only little-endian, row-major arrays of the dtypes of [`DType`] are read.
//!
//! | offset | width | meaning |
//! |---|---|---|
//! | 0 | 6 | `\x93NUMPY` |
//! | 6 | 1 | major version |
//! | 7 | 1 | minor version |
//! | 8 | 2 (version 1) or 4 | header length, little-endian |
//! | 10 or 12 | header length | a Python dictionary: `descr`, `fortran_order`, `shape` |

use crate::{DType, Error, NamedTensor, TensorData, tensor::elements};

const MAGIC: &[u8] = b"\x93NUMPY";
const HEADER_BYTES_MAX: usize = 4096;
const AXES_MAX: usize = 8;
/// NumPy aligns the elements to this.
const ALIGNMENT_BYTES: usize = 64;

/// Reads a `.npy` file. `name` becomes the tensor's name and stands in every error.
///
/// # Errors
/// [`Error::Tensor`] where the bytes are no such file, have a dtype or order that is not read, or too
/// few or too many elements.
pub fn read_npy(name: &str, bytes: &[u8]) -> Result<NamedTensor, Error> {
    let refuse = |reason| Error::Tensor { name: name.to_owned(), reason };
    let (header, body) = split(bytes).ok_or_else(|| refuse("is not a .npy file".to_owned()))?;
    let (dtype, shape) = parse_header(header).map_err(refuse)?;
    let expected = elements(&shape).and_then(|count| count.checked_mul(dtype.size_bytes()));
    if expected != Some(body.len()) {
        let found = body.len();
        return Err(refuse(format!("shape {shape:?} of {dtype} does not fill {found} bytes")));
    }
    NamedTensor::new(name, shape, decode(dtype, body))
}

/// The `.npy` file of a tensor, version 1.0: the same tensor always gives the same bytes.
pub fn write_npy(tensor: &NamedTensor) -> Vec<u8> {
    let mut bytes = npy_header(tensor.dtype(), tensor.shape());
    match tensor.data() {
        TensorData::F32(values) => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
        TensorData::I8(values) => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
        TensorData::U8(values) => bytes.extend(values),
        TensorData::I32(values) => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
        TensorData::I64(values) => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
    }
    bytes
}

/// All of a `.npy` file, version 1.0, that comes before its elements.
pub fn npy_header(dtype: DType, shape: &[usize]) -> Vec<u8> {
    let descr = match dtype {
        DType::F32 => "<f4",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
    };
    // A tuple of one needs its comma in Python.
    let extents: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let shape = if shape.len() == 1 { extents.trim_end() } else { extents.trim_end_matches(", ") };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let prefix = MAGIC.len() + 4;
    let padded = (prefix + header.len() + 1).next_multiple_of(ALIGNMENT_BYTES) - prefix;
    header.extend(std::iter::repeat_n(' ', padded - header.len() - 1));
    header.push('\n');
    let len = u16::try_from(header.len()).expect("a header of at most 8 axes is short");
    [MAGIC, &[1, 0], &len.to_le_bytes(), header.as_bytes()].concat()
}

/// Header and elements.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (len, rest) = match rest {
        [1, 0, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, 0, a, b, c, d, rest @ ..] => {
            (usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?, rest)
        }
        _ => return None,
    };
    if len > HEADER_BYTES_MAX {
        return None;
    }
    let (header, body) = rest.split_at_checked(len)?;
    Some((str::from_utf8(header).ok()?, body))
}

fn parse_header(header: &str) -> Result<(DType, Vec<usize>), String> {
    let descr = value_of(header, "descr").and_then(quoted).ok_or("its header has no dtype")?;
    let dtype = match descr {
        "<f4" => DType::F32,
        "|i1" | "<i1" => DType::I8,
        "|u1" | "<u1" => DType::U8,
        "<i4" => DType::I32,
        "<i8" => DType::I64,
        other => {
            let other: String = other.chars().take(16).collect();
            return Err(format!("dtype {other:?} is not read; f32, i8, u8, i32 and i64 are"));
        }
    };
    let order = value_of(header, "fortran_order").ok_or("its header has no order")?;
    if !order.starts_with("False") {
        return Err("column-major order is not read; save it with order='C'".to_owned());
    }
    let shape = value_of(header, "shape").and_then(tuple).ok_or("its header has no shape")?;
    Ok((dtype, shape))
}

/// What follows `'key':` in the header.
fn value_of<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let start = header.find(&format!("'{key}'"))? + key.len() + 2;
    Some(header[start..].trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(inside, _)| inside)
}

fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let extents = inside.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let extents: Vec<usize> = extents.map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
    (extents.len() <= AXES_MAX).then_some(extents)
}

fn decode(dtype: DType, body: &[u8]) -> TensorData {
    match dtype {
        DType::F32 => TensorData::F32(words(body).map(f32::from_le_bytes).collect()),
        DType::I8 => TensorData::I8(words(body).map(i8::from_le_bytes).collect()),
        DType::U8 => TensorData::U8(body.to_vec()),
        DType::I32 => TensorData::I32(words(body).map(i32::from_le_bytes).collect()),
        DType::I64 => TensorData::I64(words(body).map(i64::from_le_bytes).collect()),
    }
}

fn words<const N: usize>(body: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    body.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensors() -> Vec<NamedTensor> {
        let data = [
            (vec![2, 3], TensorData::F32(vec![0.0, -1.5, f32::NAN, f32::INFINITY, 1e-40, 7.0])),
            (vec![4], TensorData::I8(vec![-128, -1, 0, 127])),
            (vec![1, 2, 2], TensorData::U8(vec![0, 1, 128, 255])),
            (vec![], TensorData::I32(vec![i32::MIN])),
            (vec![0, 5], TensorData::I64(vec![])),
        ];
        let named = |(shape, data)| NamedTensor::new("t", shape, data).expect("shapes agree");
        data.into_iter().map(named).collect()
    }

    #[test]
    fn a_tensor_reads_back_from_its_file() {
        for tensor in tensors() {
            let bytes = write_npy(&tensor);
            let back = read_npy("t", &bytes).expect("our own file");
            assert_eq!(back.shape(), tensor.shape());
            // NaN is not equal to itself; bytes are.
            assert_eq!(write_npy(&back), bytes);
            assert_eq!((bytes.len() - tensor.data().len() * tensor.dtype().size_bytes()) % 64, 0);
        }
    }

    #[test]
    fn numpys_own_bytes_are_read_and_written() {
        // numpy.save of numpy.arange(3, dtype='<i4').
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }";
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(format!("{header:<117}\n").bytes());
        bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let tensor = read_npy("t", &bytes).expect("NumPy's bytes");
        assert_eq!(tensor.data(), &TensorData::I32(vec![0, 1, 2]));
        assert_eq!(write_npy(&tensor), bytes);
    }

    #[test]
    fn files_that_are_not_read_are_refused_with_a_reason() {
        let file = |header: &str, body: &[u8]| {
            let len = u16::try_from(header.len()).expect("short").to_le_bytes();
            [MAGIC, &[1, 0], &len, header.as_bytes(), body].concat()
        };
        let cases: &[(Vec<u8>, &str)] = &[
            (vec![], "not a .npy"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "not a .npy"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "not a .npy"),
            (file("{}", &[]), "no dtype"),
            (file("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", &[0; 8]), "\"<f8\""),
            (file("{'descr': '<f4', 'fortran_order': True, 'shape': ()}", &[0; 4]), "column-major"),
            (file("{'descr': '<f4', 'fortran_order': False}", &[0; 4]), "no shape"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", &[]), "no shape"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", &[0; 4]), "[2]"),
            (
                file(
                    "{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}",
                    &[],
                ),
                "does not fill",
            ),
        ];
        let failures: Vec<String> = cases
            .iter()
            .filter_map(|(bytes, reason)| match read_npy("some-tensor", bytes) {
                Err(error) if error.to_string().contains(reason) => None,
                other => Some(format!("{reason}: {other:?}")),
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_without_panic(
            header in "\\PC{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = read_npy("t", &bytes);
            let len = u16::try_from(header.len()).expect("short").to_le_bytes();
            let _ = read_npy("t", &[MAGIC, &[1, 0], &len, header.as_bytes(), &bytes].concat());
        }
    }
}
