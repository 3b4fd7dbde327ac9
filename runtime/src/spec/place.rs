//! Where in a JSON text decoding has stopped, as a JSON pointer.

#![forbid(unsafe_code)]

/// A value that has begun and not ended.
enum Open {
    /// With the key of the member whose value this is about, as it is written there, if its colon has been read.
    Object(Option<Vec<u8>>),
    /// With the index of the element.
    Array(usize),
}

/// The JSON pointer (RFC 6901) of the value at which an error of serde_json's is. Its position is a line, from 1 on, and how many bytes
/// of that have been read; where no value was found, the byte that begins none is among them. Up to there the text was understood;
/// what follows does not matter.
///
/// What is nested deeper than serde_json reads is in a member that nobody knows, and is not gone into.
pub(super) fn pointer(json: &[u8], wrong: &serde_json::Error) -> String {
    let (line, column) = (wrong.line(), wrong.column().saturating_sub(usize::from(!wrong.is_data())));
    let before: usize = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = &json[..before.saturating_add(column).min(json.len())];
    const DEEPEST: usize = 128;
    let (mut open, mut deeper) = (Vec::new(), 0_usize);
    let (mut string, mut last, mut escaped) = (None, 0..0, false);
    for (at, byte) in text.iter().enumerate() {
        if let Some(start) = string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => (string, last) = (None, start..at + 1),
                _ => {}
            }
            continue;
        }
        let full = open.len() == DEEPEST;
        match (byte, open.last_mut()) {
            (b'"', _) => string = Some(at),
            (b'{' | b'[', _) if full => deeper += 1,
            (b'}' | b']', _) if deeper > 0 => deeper -= 1,
            _ if deeper > 0 => {}
            (b'{', _) => open.push(Open::Object(None)),
            (b'[', _) => open.push(Open::Array(0)),
            (b'}' | b']', _) => drop(open.pop()),
            (b':', Some(Open::Object(key))) => *key = Some(text[last.clone()].to_vec()),
            (b',', Some(Open::Object(key))) => *key = None,
            (b',', Some(Open::Array(index))) => *index += 1,
            _ => {}
        }
    }
    open.iter().map(segment).collect()
}

fn segment(open: &Open) -> String {
    match open {
        Open::Object(None) => String::new(),
        Open::Object(Some(key)) => {
            let key = serde_json::from_slice(key).unwrap_or_else(|_| String::from_utf8_lossy(key).into_owned());
            format!("/{}", super::check::escape(&key))
        }
        Open::Array(index) => format!("/{index}"),
    }
}
