//! Values as people write them in annotations: GVariant's text format,
//! <https://docs.gtk.org/glib/gvariant-text-format.html>, without maybe types, which D-Bus has not.

use super::wire::{Value, is_single};

/// Reads one value; that of `uint64 5`, `'text'`, `[1, 2]`, `@as []`, `[('/dev/null', 'rw')]`, `{'a': <true>}`.
///
/// # Errors
/// A sentence: what is wrong.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser { rest: text };
    let value = parser.value(None, 0)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(format!("unexpected {:?} after the value", parser.rest)),
    }
}

/// The words before a value that say its type.
const WORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

#[derive(Clone, Copy)]
struct Parser<'a> {
    rest: &'a str,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn accept(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        there
    }

    fn expect(&mut self, wanted: char) -> Parsed<()> {
        if self.accept(wanted) { Ok(()) } else { Err(format!("expected {wanted:?} before {:?}", self.rest)) }
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// A value, of the given type if there is one.
    fn value(&mut self, kind: Option<&str>, depth: u8) -> Parsed<Value> {
        if depth > 16 {
            return Err("nested too deeply".into());
        }
        let fits = |actual: &str| match kind {
            Some(kind) if kind != actual => Err(format!("is of type {actual:?}, not {kind:?}")),
            _ => Ok(()),
        };
        match self.peek().ok_or("ends where a value is expected")? {
            '@' => {
                self.rest = &self.rest[1..];
                let word = self.word(|c| !c.is_whitespace());
                if !is_single(word) {
                    return Err(format!("{word:?} is not a type"));
                }
                fits(word)?;
                self.value(Some(word), depth + 1)
            }
            '[' => self.array(kind, depth),
            '{' => self.dictionary(kind, depth),
            '(' => self.tuple(kind, depth),
            '<' => {
                self.expect('<')?;
                fits("v")?;
                let inner = self.value(None, depth + 1)?;
                self.expect('>')?;
                Ok(Value::Variant(Box::new(inner)))
            }
            '\'' | '"' => self.quoted().and_then(|text| match kind.unwrap_or("s") {
                "s" => Ok(Value::Text(text)),
                "o" => Ok(Value::Path(text)),
                "g" => Ok(Value::Signature(text)),
                other => Err(format!("{text:?} is a string, not of type {other:?}")),
            }),
            'b' if self.rest[1..].starts_with(['\'', '"']) => {
                self.rest = &self.rest[1..];
                fits("ay")?;
                let mut bytes = self.quoted()?.into_bytes();
                bytes.push(0);
                Ok(Value::bytes(&bytes))
            }
            '+' | '-' | '.' | '0'..='9' => number(self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)), kind),
            _ => match self.word(|c| c.is_ascii_alphanumeric()) {
                word @ ("true" | "false") => fits("b").map(|()| Value::Bool(word == "true")),
                word => {
                    let known = WORDS.iter().find(|(name, _)| *name == word);
                    let (_, named) = known.ok_or_else(|| format!("unrecognized type {word:?}"))?;
                    fits(named)?;
                    self.value(Some(named), depth + 1)
                }
            },
        }
    }

    /// Items up to the closing bracket. Without a type, the first item's is that of all; and whole numbers may turn out
    /// to be meant as broken ones.
    fn items(&mut self, close: char, kind: Option<&str>, depth: u8) -> Parsed<Vec<Value>> {
        let mut items: Vec<Value> = Vec::new();
        let mut kind = kind.map(str::to_owned);
        while !self.accept(close) {
            if !items.is_empty() {
                self.expect(',')?;
            }
            items.push(self.value(kind.as_deref(), depth + 1)?);
            kind = kind.or_else(|| Some(items[0].signature()));
        }
        Ok(items)
    }

    fn array(&mut self, kind: Option<&str>, depth: u8) -> Parsed<Value> {
        self.expect('[')?;
        let element = match kind {
            Some(kind) => Some(kind.strip_prefix('a').ok_or_else(|| format!("is an array, not of type {kind:?}"))?),
            None => None,
        };
        let start = *self;
        let items = self.items(']', element, depth).or_else(|e| {
            *self = start;
            if element.is_none() { self.items(']', Some("d"), depth).map_err(|_| e) } else { Err(e) }
        })?;
        let first = items.first().map(Value::signature);
        let element = element.map(str::to_owned).or(first).ok_or("the type of an empty array must be given")?;
        Ok(Value::Array(element, items))
    }

    fn dictionary(&mut self, kind: Option<&str>, depth: u8) -> Parsed<Value> {
        self.expect('{')?;
        let types = match kind {
            Some(kind) => {
                let inner = kind.strip_prefix("a{").and_then(|k| k.strip_suffix('}')).filter(|k| k.is_ascii());
                Some(inner.filter(|k| k.len() > 1).ok_or_else(|| format!("is a dictionary, not of type {kind:?}"))?)
            }
            None => None,
        };
        let (mut key, mut value) = types.map(|t| t.split_at(1)).map(|(k, v)| (k.to_owned(), v.to_owned())).unzip();
        let mut entries = Vec::new();
        while !self.accept('}') {
            if !entries.is_empty() {
                self.expect(',')?;
            }
            let left: Value = self.value(key.as_deref(), depth + 1)?;
            self.expect(':')?;
            let right: Value = self.value(value.as_deref(), depth + 1)?;
            if left.signature().len() != 1 || matches!(left, Value::Variant(_)) {
                return Err("the key of a dictionary must be of a basic type".into());
            }
            key = key.or_else(|| Some(left.signature()));
            value = value.or_else(|| Some(right.signature()));
            entries.push(Value::Entry(Box::new([left, right])));
        }
        let (Some(key), Some(value)) = (key, value) else {
            return Err("the type of an empty dictionary must be given".into());
        };
        Ok(Value::Array(format!("{{{key}{value}}}"), entries))
    }

    fn tuple(&mut self, kind: Option<&str>, depth: u8) -> Parsed<Value> {
        self.expect('(')?;
        let mut fields: Vec<Value> = Vec::new();
        while !self.accept(')') {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.accept(')') {
                    break; // (1,) is the tuple with one field
                }
            }
            fields.push(self.value(None, depth + 1)?);
        }
        let value = Value::Struct(fields);
        let actual = value.signature();
        match kind {
            _ if actual == "()" => Err("D-Bus has no empty tuple".into()),
            Some(kind) if kind != actual => Err(format!("is of type {actual:?}, not {kind:?}")),
            _ => Ok(value),
        }
    }

    fn quoted(&mut self) -> Parsed<String> {
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map_or('\'', |(_, c)| c);
        let mut out = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return if out.contains('\0') { Err("a string with a NUL in it".into()) } else { Ok(out) };
                }
                '\\' => {
                    let (_, escaped) = chars.next().ok_or("unterminated string")?;
                    let digits = match escaped {
                        'u' => 4,
                        'U' => 8,
                        _ => 0,
                    };
                    out.push(match escaped {
                        'a' => '\x07',
                        'b' => '\x08',
                        'f' => '\x0c',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'v' => '\x0b',
                        'u' | 'U' => {
                            let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                            let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits);
                            code.and_then(char::from_u32).ok_or_else(|| format!("\\{escaped}{hex} is no character"))?
                        }
                        other => other,
                    });
                }
                c => out.push(c),
            }
        }
        Err("unterminated string".into())
    }
}

fn number(word: &str, kind: Option<&str>) -> Parsed<Value> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, bare) = match digits.strip_prefix("0x") {
        Some(hex) => (16, hex),
        None if digits.len() > 1 && digits.starts_with('0') && !digits.contains(['.', 'e', 'E']) => (8, &digits[1..]),
        None => (10, digits),
    };
    let wrong = || format!("bad number {word:?}");
    let broken = radix == 10 && digits.contains(['.', 'e', 'E']);
    let kind = kind.unwrap_or(if broken { "d" } else { "i" });
    if kind == "d" {
        return digits
            .parse::<f64>()
            .ok()
            .filter(|n| n.is_finite())
            .map(|n| Value::Double(n * f64::from(sign)))
            .ok_or_else(wrong);
    }
    if bare.starts_with(['+', '-']) {
        return Err(wrong());
    }
    let n = i128::from_str_radix(bare, radix).map_err(|_| wrong())? * i128::from(sign);
    let range = |_| format!("{word} is out of the range of type {kind:?}");
    Ok(match kind {
        "y" => Value::Byte(n.try_into().map_err(range)?),
        "n" => Value::Int16(n.try_into().map_err(range)?),
        "q" => Value::Uint16(n.try_into().map_err(range)?),
        "i" => Value::Int32(n.try_into().map_err(range)?),
        "u" => Value::Uint32(n.try_into().map_err(range)?),
        "x" => Value::Int64(n.try_into().map_err(range)?),
        "t" => Value::Uint64(n.try_into().map_err(range)?),
        other => return Err(format!("{word} is a number, not of type {other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_types_that_runc_gives_them() {
        for (text, expected) in [
            ("456", Value::Int32(456)),
            ("-0x10", Value::Int32(-16)),
            ("010", Value::Int32(8)),
            ("byte 234", Value::Byte(234)),
            ("int16 234", Value::Int16(234)),
            ("uint16 234", Value::Uint16(234)),
            ("int32 -1", Value::Int32(-1)),
            ("uint32 234", Value::Uint32(234)),
            ("int64 234", Value::Int64(234)),
            ("uint64 18446744073709551615", Value::Uint64(u64::MAX)),
            ("@t 5", Value::Uint64(5)),
            ("234.789", Value::Double(234.789)),
            ("double 3", Value::Double(3.0)),
            ("true", Value::Bool(true)),
            (" boolean false ", Value::Bool(false)),
            ("'inactive-or-failed'", Value::text("inactive-or-failed")),
            (r#""a \"b\" \u00e4\n""#, Value::text("a \"b\" \u{e4}\n")),
            ("objectpath '/a'", Value::Path("/a".into())),
            ("b'ab'", Value::bytes(b"ab\0")),
            ("['a', 'b']", Value::Array("s".into(), vec![Value::text("a"), Value::text("b")])),
            ("@as []", Value::Array("s".into(), vec![])),
            ("[1, 2.5]", Value::Array("d".into(), vec![Value::Double(1.0), Value::Double(2.5)])),
            ("[byte 1, 2]", Value::Array("y".into(), vec![Value::Byte(1), Value::Byte(2)])),
            ("<uint32 1>", Value::Variant(Box::new(Value::Uint32(1)))),
            ("[('a', 'rw')]", {
                let pair = Value::Struct(vec![Value::text("a"), Value::text("rw")]);
                Value::Array("(ss)".into(), vec![pair])
            }),
            ("{'k': 1}", {
                let entry = Value::Entry(Box::new([Value::text("k"), Value::Int32(1)]));
                Value::Array("{si}".into(), vec![entry])
            }),
            ("@a{sv} {}", Value::Array("{sv}".into(), vec![])),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "invalid-value",
            "'open",
            "[",
            "[]",
            "{}",
            "[1, 'a']",
            "byte 256",
            "uint32 -1",
            "1 2",
            "@zz 1",
            "@s 1",
            "uint64 'x'",
            "uint64 true",
            "12ab",
            "0x",
            "--1",
            "()",
            "<1",
            "{[1]: 2}",
            "1.5.2",
            "'\\u00zz'",
            "'a\\u0000'",
            "@a{ 1",
            "byte byte",
            "e5",
            "@a{s} {}",
            "int32 uint32 1",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        let deep = "[".repeat(1000);
        assert!(parse(&deep).is_err());
    }
}
