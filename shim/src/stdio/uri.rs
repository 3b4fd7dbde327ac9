//! What a client says about its outputs, read as Go's url.Parse does (net/url), for which all clients write.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A URI without what means nothing here: its host and its fragment.
pub(super) struct Uri<'a> {
    /// In lower case.
    pub(super) scheme: String,
    path: &'a str,
    query: &'a str,
}

impl<'a> Uri<'a> {
    /// `None`: there is no scheme, and so it is a path, every letter of it.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
            return None;
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match rest.strip_prefix("//") {
            Some(host) => host.find('/').map_or("", |end| &host[end..]),
            // Without a slash it is opaque to Go, and nothing of it a path.
            None if rest.starts_with('/') => rest,
            None => "",
        };
        Some(Self { scheme: scheme.to_ascii_lowercase(), path, query })
    }

    /// Absolute, and decoded.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        if self.path.is_empty() {
            return Err("no absolute path".into());
        }
        decode(self.path, false).map(|path| OsString::from_vec(path).into())
    }

    /// The first value of each key, decoded. A pair that cannot be read is no error to Go, but is not there.
    pub(super) fn query(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Ok(key), Ok(value)) = (decode(key, true), decode(value, true))
                && pairs.iter().all(|(known, _)| *known != key)
            {
                pairs.push((key, value));
            }
        }
        pairs
    }
}

/// Percent-decoding; in a query `+` is a space. Errors: what begins like an escape and is none.
fn decode(text: &str, query: bool) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '%' => {
                let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    let escape: String = rest.chars().take(3).collect();
                    return Err(format!("invalid escape {escape:?}"));
                };
                bytes.push(byte);
                length = 3;
            }
            '+' if query => bytes.push(b' '),
            _ => bytes.extend_from_slice(&rest.as_bytes()[..length]),
        }
        rest = &rest[length..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> (String, String) {
        let uri = Uri::parse(text).unwrap();
        let path = uri.path().map_or_else(|why| why, |path| path.to_str().unwrap().to_owned());
        (uri.scheme, path)
    }

    /// Each is what url.Parse (Go 1.26) says to Scheme and Path.
    #[test]
    fn schemes_and_paths() {
        for (text, scheme, expected) in [
            ("file:///tmp/o", "file", "/tmp/o"),
            ("file:/tmp/o", "file", "/tmp/o"),
            ("FILE://localhost/tmp/o", "file", "/tmp/o"),
            ("file:////tmp/o", "file", "//tmp/o"),
            ("file:///tmp/a%20b%2Fc+d?e#f", "file", "/tmp/a b/c+d"),
            ("file:///tmp/o#a?b=c", "file", "/tmp/o"),
            ("Binary-V2:///x", "binary-v2", "/x"),
            ("binary://host/x?a=b", "binary", "/x"),
            ("binary:/x?a://b", "binary", "/x"),
            ("a+b.1:/x", "a+b.1", "/x"),
        ] {
            assert_eq!(path(text), (scheme.into(), expected.into()), "{text}");
        }
        for text in ["file:tmp", "file:", "file://", "file://tmp", "binary:?a=/b"] {
            assert_eq!(path(text).1, "no absolute path", "{text}");
        }
        for (text, escape) in [("file:///a%zz", "%zz"), ("file:///a%4", "%4"), ("file:///a%é", "%é")] {
            assert_eq!(path(text).1, format!("invalid escape {escape:?}"));
        }
        for text in ["", "/run/fifo", "/run/a:b", "run/file:///x", "1file:///x", "a b:///x", ":///x", "é:/x"] {
            assert!(Uri::parse(text).is_none(), "{text}");
        }
    }

    /// Each is what url.Values.Get says of url.URL.Query.
    #[test]
    fn queries() {
        let pairs = |query: &str| -> Vec<String> {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let uri = format!("binary:///x?{query}");
            let pairs = Uri::parse(&uri).unwrap().query();
            pairs.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect()
        };
        assert_eq!(pairs("a=b&c=d"), ["a=b", "c=d"]);
        assert_eq!(pairs("a=b&a=c&%61=d"), ["a=b"]);
        assert_eq!(pairs("x+y%2B=1+%3d=&-c"), ["x y+=1 ==", "-c="]);
        assert_eq!(pairs("a=1;b=2&c=3&d=%zz&%e=4&&f=5?6"), ["c=3", "f=5?6"]);
        assert_eq!(pairs("a=b#&c=d"), ["a=b"]);
        assert_eq!(pairs(""), [""; 0]);
    }
}
