//! Writes Apache Parquet, as much of it as a table of plain columns needs.
//!
//! Format: `apache/parquet-format`, `README.md`, `Encodings.md` and `src/main/thrift/parquet.thrift`; the metadata
//! in Thrift's compact protocol (`apache/thrift`, `doc/specs/thrift-compact-protocol.md`). Each group of rows has one
//! page per column, `PLAIN` and not compressed; columns may be optional, and none repeats. Written front to back, so
//! that a file can be sent while it is made.
//!
//! ```text
//! PAR1 │ page header, levels, values │ … one per column and group … │ FileMetaData │ its length │ PAR1
//! ```

const MAGIC: &[u8] = b"PAR1";

/// The values of a column. Those that are optional have none where there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Texts in UTF-8.
    Text(Vec<Vec<u8>>),
    /// Bytes.
    Bytes(Vec<Vec<u8>>),
    /// Unix times in milliseconds.
    Time(Vec<i64>),
    /// Integers of 32 bits.
    Int(Vec<i32>),
    /// Floats of 32 bits.
    Float(Vec<f32>),
}

/// A column of one group of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its values, of the rows that have one.
    pub values: Values,
    /// Which rows have one; none if each must have one.
    pub present: Option<Vec<bool>>,
}

impl Column {
    /// A column in which each row has a value.
    pub fn new(name: impl Into<String>, values: Values) -> Self {
        Self { name: name.into(), values, present: None }
    }
}

/// A file that is being written.
#[derive(Debug, Default)]
pub struct ParquetWriter {
    // Where the next byte stands.
    offset: u64,
    schema: Vec<Schema>,
    groups: Vec<Group>,
    rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Schema {
    name: String,
    kind: i32,
    converted: Option<i32>,
    is_optional: bool,
}

#[derive(Debug)]
struct Group {
    rows: u64,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    values: u64,
    len_bytes: u64,
}

/// Codes of `parquet.thrift`.
mod code {
    pub const INT32: i32 = 1;
    pub const INT64: i32 = 2;
    pub const FLOAT: i32 = 4;
    pub const BYTE_ARRAY: i32 = 6;
    pub const UTF8: i32 = 0;
    pub const TIMESTAMP_MILLIS: i32 = 9;
    pub const REQUIRED: i32 = 0;
    pub const OPTIONAL: i32 = 1;
    pub const PLAIN: i32 = 0;
    pub const RLE: i32 = 3;
    pub const DATA_PAGE: i32 = 0;
    pub const UNCOMPRESSED: i32 = 0;
}

impl ParquetWriter {
    /// The first bytes of the file.
    pub fn begin(&mut self) -> Vec<u8> {
        self.offset = MAGIC.len() as u64;
        MAGIC.to_vec()
    }

    /// The bytes of a group of rows. Each group has the same columns.
    pub fn group(&mut self, columns: &[Column]) -> Vec<u8> {
        let schema: Vec<Schema> = columns.iter().map(Schema::of).collect();
        if self.groups.is_empty() {
            self.schema = schema;
        } else {
            assert_eq!(self.schema, schema, "every group has the same columns");
        }
        let rows = columns.first().map_or(0, Column::rows);
        let mut bytes = Vec::new();
        let mut chunks = Vec::with_capacity(columns.len());
        for column in columns {
            assert_eq!(column.rows(), rows, "every column has all rows");
            let chunk_begins = bytes.len();
            let page = column.page();
            bytes.extend(page_header(page.len(), rows));
            bytes.extend(page);
            chunks.push(Chunk {
                offset: self.offset + chunk_begins as u64,
                values: rows,
                len_bytes: (bytes.len() - chunk_begins) as u64,
            });
        }
        self.offset += bytes.len() as u64;
        self.rows += rows;
        self.groups.push(Group { rows, chunks });
        bytes
    }

    /// The last bytes of the file: what says where everything is.
    pub fn end(self) -> Vec<u8> {
        let mut metadata = Thrift::default();
        metadata.int(1, 1);
        metadata.list(2, Thrift::STRUCT, 1 + self.schema.len());
        metadata.element(|root| {
            root.text(4, "schema");
            root.int(5, self.schema.len() as i32);
        });
        for column in &self.schema {
            metadata.element(|element| {
                element.int(1, column.kind);
                let repetition = if column.is_optional { code::OPTIONAL } else { code::REQUIRED };
                element.int(3, repetition);
                element.text(4, &column.name);
                if let Some(converted) = column.converted {
                    element.int(6, converted);
                }
            });
        }
        metadata.long(3, self.rows);
        metadata.list(4, Thrift::STRUCT, self.groups.len());
        for group in &self.groups {
            metadata.element(|element| self.describe_group(element, group));
        }
        metadata.text(6, concat!("selvedge ", env!("CARGO_PKG_VERSION")));
        let mut bytes = metadata.end();
        let len = u32::try_from(bytes.len()).expect("a table has less metadata than 4 GiB");
        bytes.extend(len.to_le_bytes());
        bytes.extend(MAGIC);
        bytes
    }

    fn describe_group(&self, element: &mut Thrift, group: &Group) {
        element.list(1, Thrift::STRUCT, group.chunks.len());
        for (column, chunk) in self.schema.iter().zip(&group.chunks) {
            element.element(|of_chunk| {
                of_chunk.long(2, chunk.offset);
                of_chunk.structure(3, |metadata| {
                    metadata.int(1, column.kind);
                    metadata.list(2, Thrift::INT, 2);
                    metadata.plain_int(code::PLAIN);
                    metadata.plain_int(code::RLE);
                    metadata.list(3, Thrift::BINARY, 1);
                    metadata.plain_text(&column.name);
                    metadata.int(4, code::UNCOMPRESSED);
                    metadata.long(5, chunk.values);
                    metadata.long(6, chunk.len_bytes);
                    metadata.long(7, chunk.len_bytes);
                    metadata.long(9, chunk.offset);
                });
            });
        }
        element.long(2, group.chunks.iter().map(|chunk| chunk.len_bytes).sum());
        element.long(3, group.rows);
    }
}

impl Schema {
    fn of(column: &Column) -> Self {
        let (kind, converted) = match &column.values {
            Values::Text(_) => (code::BYTE_ARRAY, Some(code::UTF8)),
            Values::Bytes(_) => (code::BYTE_ARRAY, None),
            Values::Time(_) => (code::INT64, Some(code::TIMESTAMP_MILLIS)),
            Values::Int(_) => (code::INT32, None),
            Values::Float(_) => (code::FLOAT, None),
        };
        let (name, is_optional) = (column.name.clone(), column.present.is_some());
        Self { name, kind, converted, is_optional }
    }
}

impl Column {
    fn rows(&self) -> u64 {
        let values = match &self.values {
            Values::Text(values) | Values::Bytes(values) => values.len(),
            Values::Time(values) => values.len(),
            Values::Int(values) => values.len(),
            Values::Float(values) => values.len(),
        };
        self.present.as_ref().map_or(values, Vec::len) as u64
    }

    /// Definition levels where the column is optional, then the values.
    fn page(&self) -> Vec<u8> {
        let mut page = Vec::new();
        if let Some(present) = &self.present {
            let levels = run_lengths(present);
            page.extend(len_of(&levels));
            page.extend(levels);
        }
        match &self.values {
            Values::Text(values) | Values::Bytes(values) => {
                for value in values {
                    page.extend(len_of(value));
                    page.extend(value);
                }
            }
            Values::Time(values) => page.extend(values.iter().flat_map(|it| it.to_le_bytes())),
            Values::Int(values) => page.extend(values.iter().flat_map(|it| it.to_le_bytes())),
            Values::Float(values) => page.extend(values.iter().flat_map(|it| it.to_le_bytes())),
        }
        page
    }
}

fn len_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("a value is shorter than 4 GiB").to_le_bytes()
}

/// Levels of one bit in the hybrid encoding, of which runs alone are used: their length, doubled, and their level.
fn run_lengths(levels: &[bool]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in levels.chunk_by(|a, b| a == b) {
        push_varint(&mut bytes, 2 * run.len() as u64);
        bytes.push(u8::from(run[0]));
    }
    bytes
}

fn page_header(len_bytes: usize, rows: u64) -> Vec<u8> {
    let len = i32::try_from(len_bytes).expect("a page is shorter than 2 GiB");
    let rows = i32::try_from(rows).expect("a group has fewer rows than 2³¹");
    let mut header = Thrift::default();
    header.int(1, code::DATA_PAGE);
    header.int(2, len);
    header.int(3, len);
    header.structure(5, |page| {
        page.int(1, rows);
        page.int(2, code::PLAIN);
        page.int(3, code::RLE);
        page.int(4, code::RLE);
    });
    header.end()
}

/// A struct in Thrift's compact protocol. Fields come in the order of their ids.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    last_id: u8,
}

impl Thrift {
    const INT: u8 = 5;
    const LONG: u8 = 6;
    const BINARY: u8 = 8;
    const LIST: u8 = 9;
    const STRUCT: u8 = 12;

    fn field(&mut self, id: u8, kind: u8) {
        let step = id - self.last_id;
        assert!((1..16).contains(&step), "ids go up in small steps");
        self.bytes.push(step << 4 | kind);
        self.last_id = id;
    }

    fn int(&mut self, id: u8, value: i32) {
        self.field(id, Self::INT);
        self.plain_int(value);
    }

    fn long(&mut self, id: u8, value: u64) {
        self.field(id, Self::LONG);
        push_varint(&mut self.bytes, value << 1);
    }

    fn text(&mut self, id: u8, text: &str) {
        self.field(id, Self::BINARY);
        self.plain_text(text);
    }

    fn structure(&mut self, id: u8, write: impl FnOnce(&mut Self)) {
        self.field(id, Self::STRUCT);
        self.element(write);
    }

    /// The head of a list, whose elements follow.
    fn list(&mut self, id: u8, kind: u8, len: usize) {
        self.field(id, Self::LIST);
        match u8::try_from(len) {
            Ok(short @ ..15) => self.bytes.push(short << 4 | kind),
            _ => {
                self.bytes.push(0xf0 | kind);
                push_varint(&mut self.bytes, len as u64);
            }
        }
    }

    /// A struct as an element of a list.
    fn element(&mut self, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes.extend(inner.end());
    }

    fn plain_int(&mut self, value: i32) {
        let zigzag = (value << 1 ^ value >> 31).cast_unsigned();
        push_varint(&mut self.bytes, zigzag.into());
    }

    fn plain_text(&mut self, text: &str) {
        push_varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

/// Seven bits at a time, the lowest first.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_has_exactly_the_bytes_of_the_format() {
        let mut writer = ParquetWriter::default();
        let mut file = writer.begin();
        let present = Some(vec![true, true, false]);
        let column = Column { name: "n".into(), values: Values::Int(vec![1, -2]), present };
        file.extend(writer.group(&[column]));
        let metadata_begins = file.len();
        file.extend(writer.end());
        let page = [
            &[4, 0, 0, 0, 4, 1, 2, 0][..], // Two rows have a value, one has none.
            &1_i32.to_le_bytes(),
            &(-2_i32).to_le_bytes(),
        ]
        .concat();
        let header = [0x15, 0, 0x15, 32, 0x15, 32, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0];
        let expected = [MAGIC, &header, &page].concat();
        assert_eq!(file[..metadata_begins], expected);
        assert!(file.ends_with(MAGIC));
        let len = file[file.len() - 8..file.len() - 4].try_into().expect("they are four bytes");
        assert_eq!(u32::from_le_bytes(len) as usize, file.len() - metadata_begins - 8);
    }

    #[test]
    fn lists_and_numbers_of_any_size_are_written() {
        let mut thrift = Thrift::default();
        thrift.list(1, Thrift::STRUCT, 14);
        thrift.list(2, Thrift::STRUCT, 300);
        thrift.plain_int(-1);
        thrift.plain_int(i32::MIN);
        let expected = [0x19, 0xec, 0x19, 0xfc, 0xac, 2, 1, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(thrift.bytes, expected);
    }
}
