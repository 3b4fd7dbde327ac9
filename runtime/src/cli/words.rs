//! Words of the command line that mean numbers: users, signals, sizes, durations. Parsing is total: exactly what was
//! asked for, or an error (CVE-2026-30892 was a user that parsed as another one).
#![forbid(unsafe_code)]

use std::time::Duration;

use runtime::{Error, Kind, Result};

fn bad(op: &'static str, word: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, op, word, why)
}

/// A number of digits only: no sign, no blank, no other base.
fn digits(word: &str) -> Option<u64> {
    let all = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    all.then(|| word.parse().ok()).flatten()
}

/// A uid or gid. 4294967295 is "no change" to the kernel and so is not one.
///
/// # Errors
/// `Invalid`.
pub fn id(word: &str) -> Result<u32> {
    digits(word)
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n != u32::MAX)
        .ok_or_else(|| bad("parse id", word, "is not a number from 0 to 4294967294"))
}

/// `UID` or `UID:GID`.
///
/// # Errors
/// `Invalid`.
pub fn user(word: &str) -> Result<(u32, Option<u32>)> {
    match word.split_once(':') {
        None => Ok((id(word)?, None)),
        Some((uid, gid)) => Ok((id(uid)?, Some(id(gid)?))),
    }
}

/// Names of signals 1 to 31; the index is the number minus one (signal(7), x86-64 and arm64 have the same).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// A signal by number (0 to 64), by name with or without `SIG`, or as `RTMIN+3` and `RTMAX-2`.
///
/// # Errors
/// `Invalid`.
pub fn signal(word: &str) -> Result<i32> {
    let unknown = || bad("", word, "unknown signal");
    if let Some(n) = digits(word) {
        return i32::try_from(n).ok().filter(|n| *n <= 64).ok_or_else(unknown);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(i) = SIGNALS.iter().position(|s| *s == name) {
        return Ok(i as i32 + 1);
    }
    // 32 and 33 are the C library's own.
    let real_time = |from: i64, rest: &str, sign: i64| {
        let offset = if rest.is_empty() { Some(0) } else { digits(&rest[1..]).and_then(|n| i64::try_from(n).ok()) };
        offset.map(|n| from + sign * n).filter(|n| (34..=64).contains(n)).map(|n| n as i32)
    };
    let found = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => real_time(34, rest, 1),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => real_time(64, rest, -1),
        _ => match name {
            "IOT" => Some(6),
            "CLD" => Some(17),
            "POLL" => Some(29),
            _ => None,
        },
    };
    found.ok_or_else(unknown)
}

/// Bytes: a number with or without decimals, and k, m, g, t or p (powers of 1024), b, kb or kib and so on, as docker writes sizes;
/// what is less than a byte is cut. -1 is unlimited.
///
/// # Errors
/// `Invalid`.
pub fn bytes(word: &str) -> Result<i64> {
    if word == "-1" {
        return Ok(-1);
    }
    let lower = word.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit = &lower[number.len()..];
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" if unit != "ib" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        "p" => Some(50),
        _ => None,
    };
    // More decimals than 18 would not fit, and nobody means them.
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let parts = digits(whole).zip(digits(decimals)).filter(|_| decimals.len() <= 18);
    parts
        .zip(shift)
        .map(|((whole, part), shift)| {
            (u128::from(whole) << shift) + (u128::from(part) << shift) / 10_u128.pow(decimals.len() as u32)
        })
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| bad("parse size", word, "is not a number of bytes"))
}

/// A duration: a number with ms, s, m or h.
///
/// # Errors
/// `Invalid`, also for a duration of nothing.
pub fn duration(word: &str) -> Result<Duration> {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    digits(&word[..word.len() - unit.len()])
        .zip(factor)
        .and_then(|(n, factor)| n.checked_mul(factor))
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| bad("parse duration", word, "is not a duration such as 500ms, 5s or 1m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_exact_or_refused() {
        assert_eq!(user("1").unwrap(), (1, None));
        assert_eq!(user("0").unwrap(), (0, None));
        assert_eq!(user("1:2").unwrap(), (1, Some(2)));
        assert_eq!(user("4294967294:2147483648").unwrap(), (4_294_967_294, Some(2_147_483_648)));
        for word in [
            "",
            "+1",
            " 1",
            "1 ",
            "1x",
            "x",
            "-1",
            "1:",
            ":1",
            "1:2:3",
            "0x1",
            "1.0",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "root",
            "1:x",
            "1:-1",
            "1:4294967295",
            "١",
        ] {
            assert!(user(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn signals_by_name_and_number() {
        for (word, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("IOT", 6),
            ("POLL", 29),
        ] {
            assert_eq!(signal(word).unwrap(), number, "{word}");
        }
        for word in ["", "SIG", "65", "-9", "+9", "SIGSIGTERM", "RTMIN+31", "RTMAX-31", "RTMIN-1", "TERM "] {
            assert!(signal(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn sizes_and_durations() {
        for (word, n) in [
            ("0", 0),
            ("-1", -1),
            ("1024", 1024),
            ("1k", 1024),
            ("2M", 2 << 20),
            ("1gb", 1 << 30),
            ("5b", 5),
            ("1.5g", 3 << 29),
            ("0.25GiB", 1 << 28),
            ("2.05k", 2099),
            ("1.999999999999999999", 1),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(bytes(word).unwrap(), n, "{word}");
        }
        for word in [
            "",
            "-2",
            "k",
            "1kk",
            "+1",
            "9223372036854775808",
            "16777216t",
            "8192p",
            "1 k",
            "1.5.g",
            "1.-5g",
            ".5g",
            "1.5gx",
            "1ib",
            "1bb",
            "1e9",
            "0x10m",
            "inf",
            "1.0000000000000000001g",
        ] {
            assert!(bytes(word).is_err(), "{word:?}");
        }
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        for word in ["", "5", "s", "0s", "-1s", "1d", "1.5s"] {
            assert!(duration(word).is_err(), "{word:?}");
        }
    }
}
