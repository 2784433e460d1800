//! The OLPC canonical form of JSON, which is what signatures cover.
//!
//! It has no white space, members sorted by name (by code point), integers in decimal, and in strings
//! only `"` and `\` escaped; everything else stands as UTF-8. It has no numbers with a fraction or an
//! exponent.
//!
//! Source: <http://wiki.laptop.org/go/Canonical_JSON>, as TUF 1.0 §4.2.1 takes it.

use std::{cmp::Reverse, collections::BinaryHeap};

use serde_json::{Map, Number, Value};

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
    // A heap brings less code onto devices than a sort.
    let members: Vec<_> = members.iter().collect();
    let places = members.iter().enumerate();
    let mut places: BinaryHeap<_> =
        places.map(|(place, (name, _))| (Reverse(name.as_bytes()), place)).collect();
    out.push(b'{');
    while let Some((_, place)) = places.pop() {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        let (name, value) = members[place];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse_strict;

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
}
