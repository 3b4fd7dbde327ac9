//! D-Bus values and messages as bytes, as far as systemd's manager needs them.
//!
//! Source: the D-Bus specification, "Type System" and "Message Protocol". We write little endian; what comes from the
//! other side is checked before it is believed.

/// A value of D-Bus's type system.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    Int16(i16),
    /// `q`
    Uint16(u16),
    /// `i`
    Int32(i32),
    /// `u`
    Uint32(u32),
    /// `x`
    Int64(i64),
    /// `t`
    Uint64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a…`: the signature of an element, and the elements.
    Array(String, Vec<Value>),
    /// `(…)`
    Struct(Vec<Value>),
    /// `{…}`, only inside of an array.
    Entry(Box<[Value; 2]>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// An array of bytes.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".into(), bytes.iter().copied().map(Value::Byte).collect())
    }

    /// Its type.
    pub fn signature(&self) -> String {
        let basic = match self {
            Value::Byte(_) => "y",
            Value::Bool(_) => "b",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::Uint64(_) => "t",
            Value::Double(_) => "d",
            Value::Text(_) => "s",
            Value::Path(_) => "o",
            Value::Signature(_) => "g",
            Value::Variant(_) => "v",
            Value::Array(element, _) => return format!("a{element}"),
            Value::Struct(fields) => return format!("({})", all(fields)),
            Value::Entry(pair) => return format!("{{{}}}", all(pair.as_slice())),
        };
        basic.to_owned()
    }
}

fn all(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// Alignment of the type that a signature begins with.
fn alignment(signature: u8) -> usize {
    match signature {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.pad(N);
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.0.push(*n),
            Value::Bool(b) => self.number(u32::from(*b).to_le_bytes()),
            Value::Int16(n) => self.number(n.to_le_bytes()),
            Value::Uint16(n) => self.number(n.to_le_bytes()),
            Value::Int32(n) => self.number(n.to_le_bytes()),
            Value::Uint32(n) => self.number(n.to_le_bytes()),
            Value::Int64(n) => self.number(n.to_le_bytes()),
            Value::Uint64(n) => self.number(n.to_le_bytes()),
            Value::Double(n) => self.number(n.to_le_bytes()),
            Value::Text(s) | Value::Path(s) => self.text(s),
            Value::Signature(s) => self.signature(s),
            Value::Array(element, items) => {
                self.number([0; 4]);
                let length = self.0.len() - 4;
                self.pad(alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
                let start = self.0.len();
                items.iter().for_each(|item| self.put(item));
                let bytes = (self.0.len() - start) as u32;
                self.0[length..length + 4].copy_from_slice(&bytes.to_le_bytes());
            }
            Value::Struct(fields) => {
                self.pad(8);
                fields.iter().for_each(|field| self.put(field));
            }
            Value::Entry(pair) => {
                self.pad(8);
                pair.iter().for_each(|half| self.put(half));
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.put(inner);
            }
        }
    }
}

/// What a method call names.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Bus name; `None` on a connection without a bus between.
    pub destination: Option<&'a str>,
    /// Object.
    pub path: &'a str,
    /// Interface of the method.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
    /// Its arguments.
    pub body: &'a [Value],
}

/// A method call as bytes.
pub fn encode(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut body = Writer::default();
    call.body.iter().for_each(|value| body.put(value));
    let mut fields = vec![(1, Value::Path(call.path.into()))];
    fields.extend(call.destination.map(|name| (6, Value::text(name))));
    fields.extend([(2, Value::text(call.interface)), (3, Value::text(call.member))]);
    let signature = Some(all(call.body)).filter(|s| !s.is_empty());
    fields.extend(signature.map(|s| (8, Value::Signature(s))));
    let fields = fields.into_iter().map(|(code, v)| Value::Struct(vec![Value::Byte(code), Value::Variant(v.into())]));
    let mut message = Writer(vec![b'l', 1, 0, 1]);
    message.put(&Value::Uint32(body.0.len() as u32));
    message.put(&Value::Uint32(serial));
    message.put(&Value::Array("(yv)".into(), fields.collect()));
    message.pad(8);
    message.0.extend(body.0);
    message.0
}

/// A message from the other side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// 2 is an answer, 3 an error, 4 a signal.
    pub kind: u8,
    /// The call that is answered.
    pub reply_to: u32,
    /// Name of a signal.
    pub member: String,
    /// Name of an error.
    pub error: String,
    /// Arguments.
    pub body: Vec<Value>,
}

/// Larger than anything that systemd sends us, smaller than what would hurt.
const LARGEST: usize = 1 << 20;

/// Length of the message that begins here, as soon as enough of it is there to tell.
///
/// # Errors
/// This is no message, or one of a size that nobody sends.
pub fn length(start: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(head) = start.first_chunk::<16>() else { return Ok(None) };
    if head[0] != b'l' || head[3] != 1 {
        return Err("not a D-Bus message of this machine's byte order");
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let (body, fields) = (number(4), number(12));
    if body > LARGEST || fields > LARGEST {
        return Err("a D-Bus message larger than any that is expected");
    }
    Ok(Some(16 + fields.next_multiple_of(8) + body))
}

/// A whole message. `None` if it is malformed.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader { bytes, at: 12 };
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let mut signature = String::new();
    let Value::Array(_, fields) = reader.one("a(yv)")? else { return None };
    for field in fields {
        let Value::Struct(pair) = field else { return None };
        let [Value::Byte(code), Value::Variant(value)] = <[Value; 2]>::try_from(pair).ok()? else { return None };
        match (code, *value) {
            (3, Value::Text(name)) => message.member = name,
            (4, Value::Text(name)) => message.error = name,
            (5, Value::Uint32(serial)) => message.reply_to = serial,
            (8, Value::Signature(s)) => signature = s,
            _ => {}
        }
    }
    reader.pad(8)?;
    let mut rest = signature.as_bytes();
    while !rest.is_empty() {
        message.body.push(reader.value(&mut rest, 0)?);
    }
    Some(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn pad(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.pad(N)?;
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.take(1)? == [0]).then_some(text)
    }

    fn one(&mut self, signature: &str) -> Option<Value> {
        let mut rest = signature.as_bytes();
        let value = self.value(&mut rest, 0)?;
        rest.is_empty().then_some(value)
    }

    /// One value of the type that the signature begins with, which is cut off it. The specification limits nesting to 64.
    fn value(&mut self, signature: &mut &[u8], depth: u8) -> Option<Value> {
        if depth > 64 {
            return None;
        }
        let (&first, rest) = signature.split_first()?;
        let whole = *signature;
        *signature = rest;
        Some(match first {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            b'n' => Value::Int16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::Uint16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::Int32(i32::from_le_bytes(self.number()?)),
            b'u' | b'h' => Value::Uint32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::Int64(i64::from_le_bytes(self.number()?)),
            b't' => Value::Uint64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let length = u32::from_le_bytes(self.number()?) as usize;
                let text = self.text(length)?;
                if first == b's' { Value::Text(text) } else { Value::Path(text) }
            }
            b'g' => {
                let length = self.take(1)?[0].into();
                Value::Signature(self.text(length)?)
            }
            b'v' => {
                let length = self.take(1)?[0].into();
                let inner = self.text(length)?;
                let mut rest = inner.as_bytes();
                let value = self.value(&mut rest, depth + 1)?;
                if !rest.is_empty() {
                    return None;
                }
                Value::Variant(Box::new(value))
            }
            b'a' => {
                let length = u32::from_le_bytes(self.number()?) as usize;
                self.pad(alignment(*rest.first()?))?;
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
                *signature = skip(rest)?;
                let element = &rest[..rest.len() - signature.len()];
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(&mut &*element, depth + 1)?);
                }
                Value::Array(String::from_utf8(element.to_vec()).ok()?, items)
            }
            b'(' | b'{' => {
                self.pad(8)?;
                *signature = skip(whole)?;
                let mut inner = &rest[..rest.len() - signature.len() - 1];
                let mut fields = Vec::new();
                while !inner.is_empty() {
                    fields.push(self.value(&mut inner, depth + 1)?);
                }
                if first == b'(' { Value::Struct(fields) } else { Value::Entry(Box::new(fields.try_into().ok()?)) }
            }
            _ => return None,
        })
    }
}

/// What follows the one complete type that a signature begins with. There is no empty struct: a value of it would have no
/// bytes, and an array no end.
fn skip(signature: &[u8]) -> Option<&[u8]> {
    let (mut open, mut before) = (0u32, 0);
    for (i, byte) in signature.iter().enumerate() {
        match (std::mem::replace(&mut before, *byte), byte) {
            (b'(' | b'{' | b'a', b')' | b'}') => return None,
            (_, b'(' | b'{') => open += 1,
            (_, b')' | b'}') => open = open.checked_sub(1)?,
            (_, b'a') => continue,
            _ => {}
        }
        if open == 0 {
            return Some(&signature[i + 1..]);
        }
    }
    None
}

/// True if a signature is exactly one complete type.
pub fn is_single(signature: &str) -> bool {
    let known = |b: u8| b"ybnqiuxtdsogvah(){}".contains(&b);
    signature.bytes().all(known) && skip(signature.as_bytes()).is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: Value) -> Value {
        Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value))])
    }

    /// The bytes of an answer with this body.
    fn answer(body: &[Value]) -> Vec<u8> {
        let call = Call { destination: None, path: "/", interface: "a.b", member: "C", body };
        let mut bytes = encode(&call, 7);
        bytes[1] = 2;
        bytes
    }

    #[test]
    fn what_is_written_can_be_read() {
        let body = [
            Value::text("unit.scope"),
            Value::Byte(1),
            Value::Array(
                "(sv)".into(),
                vec![
                    pair("PIDs", Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)])),
                    pair("Delegate", Value::Bool(true)),
                    pair("AllowedCPUs", Value::bytes(&[3, 0, 1])),
                    pair("DeviceAllow", Value::Array("(ss)".into(), Vec::new())),
                    pair("CPUQuotaPerSecUSec", Value::Uint64(u64::MAX)),
                    pair("Half", Value::Double(0.5)),
                ],
            ),
            Value::Array("{sx}".into(), vec![Value::Entry(Box::new([Value::text("k"), Value::Int64(-1)]))]),
            Value::Array("(sa(sv))".into(), Vec::new()),
            Value::Path("/a".into()),
        ];
        let bytes = answer(&body);
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        let message = decode(&bytes).unwrap();
        assert_eq!(message.body, body);
        assert_eq!((message.kind, message.member.as_str()), (2, "C"));
    }

    /// The Hello of libdbus, as strace(1) shows it.
    #[test]
    fn a_call_is_written_as_libdbus_writes_it() {
        let call = Call {
            destination: Some("org.freedesktop.DBus"),
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            body: &[],
        };
        let expected: &[u8] = b"l\x01\0\x01\0\0\0\0\x01\0\0\0n\0\0\0\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
            \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x03\x01s\0\x05\0\0\0Hello\0\0\0";
        assert_eq!(encode(&call, 1), expected);
    }

    #[test]
    fn broken_messages_are_refused() {
        let bytes =
            answer(&[Value::text("x"), Value::Variant(Box::new(Value::Array("y".into(), vec![Value::Byte(1)])))]);
        for cut in 16..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
        // Whatever one byte says, nothing panics.
        for at in 0..bytes.len() {
            for value in [0, 1, b'a', b'(', b'v', 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = value;
                let _ = decode(&broken);
            }
        }
        // Elements without bytes could be any number.
        let mut endless = answer(&[Value::Array("()".into(), Vec::new()), Value::Uint64(0)]);
        let at = endless.len() - 16;
        endless[at] = 8;
        assert_eq!(decode(&endless), None);
        assert!(length(&[b'B'; 16]).is_err());
        assert!(length(&[b'l', 2, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert_eq!(length(b"l"), Ok(None));
    }

    #[test]
    fn single_types() {
        for good in ["s", "as", "a(ss)", "a{sv}", "(a(yv)s)", "aau"] {
            assert!(is_single(good), "{good}");
        }
        for bad in ["", "ss", "a", "(s", "s)", "az", "a(s", "()", "a()", "a{}", "(s())", "(sa)"] {
            assert!(!is_single(bad), "{bad}");
        }
    }
}
