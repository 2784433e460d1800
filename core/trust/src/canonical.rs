//! JSON, read strictly, and its OLPC canonical form, which is what signatures cover.
//!
//! The canonical form has no white space, members sorted by name (by code point), integers in
//! decimal, and in strings only `"` and `\` escaped; everything else stands as UTF-8. It has no
//! numbers with a fraction or an exponent, so those are refused, and an object that names a member
//! twice is refused too, because two readers could see two different values.
//!
//! Source: <http://wiki.laptop.org/go/Canonical_JSON>, as TUF 1.0 §4.2.1 takes it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads JSON in which no object has two members of one name and every number is an integer.
///
/// # Errors
/// What is wrong and where, in words; bytes after the value are an error too.
pub(crate) fn parse_strict(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<Strict>(bytes)
        .map(|strict| strict.0)
        .map_err(|error| error.to_string())
}

/// The OLPC canonical form of `value`, or nothing if it holds a number that is not an integer.
pub(crate) fn canonical_form(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write_value(value, &mut out).then_some(out)
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(number) => return write_integer(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => return write_array(items, out),
        Value::Object(members) => return write_object(members, out),
    }
    true
}

// Not as the number writes itself: that would bring the writing of fractions onto devices.
fn write_integer(number: &Number, out: &mut Vec<u8>) -> bool {
    let text = match (number.as_u64(), number.as_i64()) {
        (Some(integer), _) => integer.to_string(),
        (None, Some(integer)) => integer.to_string(),
        (None, None) => return false,
    };
    out.extend(text.bytes());
    true
}

fn write_array(items: &[Value], out: &mut Vec<u8>) -> bool {
    out.push(b'[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if !write_value(item, out) {
            return false;
        }
    }
    out.push(b']');
    true
}

fn write_object(members: &Map<String, Value>, out: &mut Vec<u8>) -> bool {
    // The map may keep the order of insertion: whether it does is a feature that any crate can set.
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| name.as_bytes());
    out.push(b'{');
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        if !write_value(value, out) {
            return false;
        }
    }
    out.push(b'}');
    true
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

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
                return Err(de::Error::custom(format_args!("the member {name:?} appears twice")));
            }
            let Strict(value) = map.next_value()?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> Result<String, String> {
        let value = parse_strict(json.as_bytes())?;
        let bytes = canonical_form(&value).expect("a strict value has a canonical form");
        Ok(String::from_utf8(bytes).expect("the canonical form is UTF-8"))
    }

    #[test]
    fn the_canonical_form_is_the_one_securesystemslib_writes() {
        for (json, expected) in [
            (r#"{}"#, r#"{}"#),
            (r#" [ 1 , -2 , 0 , true , false , null ] "#, r#"[1,-2,0,true,false,null]"#),
            (r#"{"b":1,"a":{"d":[],"c":""}}"#, r#"{"a":{"c":"","d":[]},"b":1}"#),
            (r#""\"\\""#, r#""\"\\""#),
            (r#""\n\u0001\/é\u00e9""#, "\"\n\u{1}/éé\""),
            // By code point: U+FFFD sorts before U+1F600, though not in UTF-16.
            ("{\"\u{1F600}\":1,\"\u{FFFD}\":2}", "{\"\u{FFFD}\":2,\"\u{1F600}\":1}"),
            (r#"{"A":1,"a":2,"B":3}"#, r#"{"A":1,"B":3,"a":2}"#),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(canonical(json).as_deref(), Ok(expected), "{json}");
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
            let error = canonical(json).expect_err(json);
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
