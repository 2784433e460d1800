//! JSON, read strictly.
//!
//! RFC 8259 without what two readers could read differently: an object that names a member twice is
//! refused, and so is a number that is not an integer of 64 bits, which has no canonical form.
//!
//! A reader of its own, because one that also reads fractions, and into any type, would be a large part of
//! what this crate adds to a device.

use serde_json::{Map, Value};

/// How deep arrays and objects may lie in each other.
const DEPTH_MAX: usize = 127;

/// Reads JSON in which no object has two members of one name and every number is an integer.
///
/// # Errors
/// What is wrong and where, in words; bytes after the value are an error too.
pub(crate) fn parse_strict(bytes: &[u8]) -> Result<Value, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = reader.value().and_then(|value| match reader.peek_token() {
        None => Ok(value),
        Some(_) => Err("trailing characters"),
    });
    value.map_err(|reason| format!("{reason} at byte {}", reader.at))
}

type Read<T> = Result<T, &'static str>;

const ENDS_EARLY: &str = "EOF where more must follow";

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Read<Value> {
        match self.peek_token().ok_or(ENDS_EARLY)? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string().map(Value::String),
            b'-' | b'0'..=b'9' => self.integer(),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            _ => Err("expected a value"),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Read<Value>) -> Read<Value> {
        if self.depth == DEPTH_MAX {
            return Err("recursion deeper than the limit");
        }
        self.at += 1;
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Read<Value> {
        let mut members = Map::new();
        let mut more = !self.take_token(b'}');
        while more {
            if self.peek_token().ok_or(ENDS_EARLY)? != b'"' {
                return Err("expected the name of a member");
            }
            let name = self.string()?;
            if members.contains_key(&name) {
                return Err("a member that appears twice");
            }
            self.expect(b':', "expected ':'")?;
            members.insert(name, self.value()?);
            more = self.goes_on(b'}')?;
        }
        Ok(Value::Object(members))
    }

    fn array(&mut self) -> Read<Value> {
        let mut items = Vec::new();
        let mut more = !self.take_token(b']');
        while more {
            items.push(self.value()?);
            more = self.goes_on(b']')?;
        }
        Ok(Value::Array(items))
    }

    /// Whether a comma follows, and not `end`.
    fn goes_on(&mut self, end: u8) -> Read<bool> {
        if self.take_token(end) {
            return Ok(false);
        }
        self.expect(b',', "expected ',' or an end").map(|()| true)
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let special = |byte: u8| matches!(byte, b'"' | b'\\' | 0..b' ');
            let plain = rest.bytes().position(special).ok_or(ENDS_EARLY)?;
            text.push_str(&rest[..plain]);
            self.at += plain + 1;
            match rest.as_bytes()[plain] {
                b'"' => return Ok(text),
                b'\\' => text.push(self.escape()?),
                _ => return Err("a control character in a string"),
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        Ok(match self.next().ok_or(ENDS_EARLY)? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.hex_escape(),
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            _ => return Err("an unknown escape"),
        })
    }

    fn hex_escape(&mut self) -> Read<char> {
        let unit = self.code_unit()?;
        if !(0xd800..0xdc00).contains(&unit) {
            return char::from_u32(unit).ok_or(BAD_HEX_ESCAPE);
        }
        let escaped = self.next() == Some(b'\\') && self.next() == Some(b'u');
        let low = if escaped { self.code_unit()? } else { 0 };
        if !(0xdc00..0xe000).contains(&low) {
            return Err(BAD_HEX_ESCAPE);
        }
        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(BAD_HEX_ESCAPE)
    }

    fn code_unit(&mut self) -> Read<u32> {
        (0..4).try_fold(0, |unit, _| {
            let digit = char::from(self.next().ok_or(ENDS_EARLY)?).to_digit(16);
            Ok(unit << 4 | digit.ok_or(BAD_HEX_ESCAPE)?)
        })
    }

    fn integer(&mut self) -> Read<Value> {
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let digits = self.at;
        let mut magnitude = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            let shifted = magnitude.checked_mul(10).ok_or(NOT_AN_INTEGER)?;
            magnitude = shifted.checked_add(u64::from(digit - b'0')).ok_or(NOT_AN_INTEGER)?;
            self.at += 1;
        }
        let leading_zero = self.text.as_bytes().get(digits) == Some(&b'0');
        match self.at - digits {
            0 => return Err("expected a digit"),
            1 => {}
            _ if leading_zero => return Err("a number that begins with 0"),
            _ => {}
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(NOT_AN_INTEGER);
        }
        match 0i64.checked_sub_unsigned(magnitude) {
            _ if !negative => Ok(Value::from(magnitude)),
            // That would be -0.
            None | Some(0) => Err(NOT_AN_INTEGER),
            Some(integer) => Ok(Value::from(integer)),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Read<Value> {
        if !self.text[self.at..].starts_with(word) {
            return Err("expected true, false or null");
        }
        self.at += word.len();
        Ok(value)
    }

    fn expect(&mut self, token: u8, otherwise: &'static str) -> Read<()> {
        match self.peek_token() {
            Some(_) if self.take_token(token) => Ok(()),
            Some(_) => Err(otherwise),
            None => Err(ENDS_EARLY),
        }
    }

    fn take_token(&mut self, token: u8) -> bool {
        let taken = self.peek_token() == Some(token);
        self.at += usize::from(taken);
        taken
    }

    /// The next byte that is not white space.
    fn peek_token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

const BAD_HEX_ESCAPE: &str = "a hex escape that is no character";
const NOT_AN_INTEGER: &str = "a number that is not an integer of 64 bits";

#[cfg(test)]
mod tests {
    use std::fmt;

    use proptest::prelude::*;
    use serde::{
        Deserialize, Deserializer,
        de::{self, MapAccess, SeqAccess, Visitor},
    };

    use super::*;

    /// The same through `serde_json`'s reader, which is what the reader is held against.
    #[derive(Debug)]
    struct Strict(Value);

    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(StrictVisitor).map(Self)
        }
    }

    struct StrictVisitor;

    impl<'de> Visitor<'de> for StrictVisitor {
        type Value = Value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON without fractions and without repeated members")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
            Ok(Value::Bool(value))
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
            Ok(Value::from(value))
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
            Ok(Value::from(value))
        }

        fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
            Err(E::custom("a number is not an integer of 64 bits"))
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
            Ok(Value::from(value))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
            let mut items = Vec::new();
            while let Some(Strict(item)) = seq.next_element()? {
                items.push(item);
            }
            Ok(Value::Array(items))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
            let mut members = Map::new();
            while let Some(name) = map.next_key::<String>()? {
                if members.contains_key(&name) {
                    return Err(de::Error::custom(format_args!(
                        "the member {name:?} appears twice"
                    )));
                }
                let Strict(value) = map.next_value()?;
                members.insert(name, value);
            }
            Ok(Value::Object(members))
        }
    }

    #[test]
    fn json_that_two_readers_could_read_differently_is_refused() {
        for (json, reason) in [
            (r#"{"a":1,"a":2}"#, "appears twice"),
            (r#"{"a":1,"\u0061":1}"#, "appears twice"),
            (r#"{"x":[{"a":1,"a":1}]}"#, "appears twice"),
            ("1.0", "not an integer"),
            ("1e3", "not an integer"),
            ("-0", "not an integer"),
            ("18446744073709551616", "not an integer"),
            ("{} {}", "trailing"),
            ("{}\0", "trailing"),
            (r#"{"a":1"#, "EOF"),
            (r#""\ud800""#, "hex escape"),
            (&"[".repeat(200), "recursion"),
        ] {
            let error = parse_strict(json.as_bytes()).expect_err(json);
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    fn check_like_serde_json(text: &[u8]) -> Result<(), TestCaseError> {
        let expected = serde_json::from_slice::<Strict>(text);
        match (parse_strict(text), expected) {
            (Ok(value), Ok(Strict(expected))) => prop_assert_eq!(value, expected),
            (Err(_), Err(_)) => {}
            (met, expected) => prop_assert!(false, "{met:?} but {expected:?}"),
        }
        Ok(())
    }

    #[test]
    fn what_is_at_an_edge_reads_as_serde_json_reads_it() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let objects = |depth: usize| r#"{"a":"#.repeat(depth) + "1" + &"}".repeat(depth);
        for text in [
            &nested(DEPTH_MAX),
            &nested(DEPTH_MAX + 1),
            &objects(DEPTH_MAX),
            &objects(DEPTH_MAX + 1),
            "",
            " ",
            "-",
            "--1",
            "+1",
            "01",
            "-01",
            "0",
            "00",
            "1.",
            "1e",
            ".5",
            "0x1",
            "1 2",
            "-9223372036854775808",
            "-9223372036854775809",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-18446744073709551616",
            "tru",
            "true",
            "truex",
            "nul",
            "falsefalse",
            "NaN",
            "Infinity",
            "[",
            "]",
            "[]",
            "[ ]",
            "[,]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{",
            "}",
            "{}",
            "{ }",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1 "b":2}"#,
            "{a:1}",
            "{1:1}",
            "{\"a\":1]",
            r#"""#,
            r#""\"#,
            r#""\x""#,
            r#""\u12""#,
            r#""\u12G4""#,
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\ud800""#,
            r#""\ud800x""#,
            r#""\ud83d\ude00""#,
            r#""\udbff\udfff""#,
            r#""\u0000\b\f\n\r\t\/\"\\""#,
            "\"\u{7f}\"",
            "\"\u{1f}\"",
            "\"\t\"",
            "\u{feff}1",
            "'a'",
            "/**/1",
            "1//",
            "\u{a0}1",
            "1\u{b}",
            "\t\r\n 1 \t\r\n",
        ] {
            check_like_serde_json(text.as_bytes())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for bytes in [&b"\"\xff\""[..], b"\xff", b"\"\xc3\"", b"\"\xed\xa0\x80\"", b"1\0"] {
            check_like_serde_json(bytes).unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn any_text_of_tokens_reads_as_serde_json_reads_it(
            tokens in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"\\n\"", "\"\\u00e9\"", "0", "1", "-1",
                    "18446744073709551615", "1.5", "true", "false", "null", " ", "\n", "\"", "\\", "\\ud800", "é",
                ]),
                0..12,
            ),
        ) {
            check_like_serde_json(tokens.concat().as_bytes())?;
        }

        #[test]
        fn any_value_reads_back_and_with_a_byte_changed_as_serde_json_reads_it(
            value in any_json(),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
        ) {
            let mut text = value.to_string().into_bytes();
            prop_assert_eq!(parse_strict(&text), Ok(value));
            let at = at.index(text.len());
            text[at] = to;
            check_like_serde_json(&text)?;
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
