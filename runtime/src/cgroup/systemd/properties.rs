//! What systemd is told about limits, so that it does not take back what the control files say (it writes them again
//! when it reloads): made of the very list of writes that goes to the files, so that the two cannot differ.

use std::collections::BTreeMap;

use super::gvariant;
use super::wire::Value;
use crate::cgroup::Version;
use crate::cgroup::limits::Write;
use crate::error::{Error, Result};

/// A property of a unit.
pub type Property = (String, Value);

/// systemd's "no limit", `CGROUP_LIMIT_MAX` and `USEC_INFINITY`.
const INFINITY: u64 = u64::MAX;

/// The kernel's default period of a cpu quota, in microseconds.
const PERIOD: u64 = 100_000;

/// systemd versions that know a property.
const QUOTA_PERIOD: u32 = 242;
const CPUSETS: u32 = 244;
const IDLE: u32 = 252;
const OOM_POLICY: u32 = 253;

/// A value of a file, unlimited or else what `read` takes it for.
fn limit(text: &str, read: fn(&str) -> Option<u64>) -> Option<u64> {
    match text.trim() {
        "max" | "-1" => Some(INFINITY),
        digits => read(digits),
    }
}

/// The number that a text begins with, whose base its prefix says, and the rest: the kernel's `simple_strtoull`.
fn leading(text: &str) -> Option<(u64, &str)> {
    let hex =
        text.strip_prefix("0x").or(text.strip_prefix("0X")).filter(|d| d.starts_with(|c: char| c.is_ascii_hexdigit()));
    let base = if hex.is_some() { 16 } else { 10 - 2 * u32::from(text.starts_with('0')) };
    let digits = hex.unwrap_or(text);
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    Some((u64::from_str_radix(&digits[..end], base).ok()?, &digits[end..]))
}

/// A number in any base: the kernel's `kstrtoull`.
fn number(text: &str) -> Option<u64> {
    leading(text).filter(|(_, rest)| rest.is_empty()).map(|(n, _)| n)
}

/// A number of bytes, such as `512M`: the kernel's `memparse`.
fn size(text: &str) -> Option<u64> {
    let (n, rest) = leading(text)?;
    let power = match rest {
        "" => 0,
        unit => 1 + ["K", "M", "G", "T", "P", "E"].iter().position(|known| unit.eq_ignore_ascii_case(known))?,
    };
    n.checked_mul(1 << (10 * power))
}

/// A decimal number, where the kernel takes no other.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// Not left to the files: what systemd has not been told it takes back.
fn unknown(write: &Write, what: &str) -> Error {
    Error::invalid(&write.from, format!("value conversion error: {:?} is no {what}", write.value.trim()))
}

/// Quota and period of a request in microseconds; no quota is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bandwidth {
    quota: Option<u64>,
    period: u64,
}

impl Bandwidth {
    /// systemd counts in whole percents of a cpu: rounded up, as in runc, and the files get the same.
    fn per_second(&mut self) -> u64 {
        let Some(quota) = self.quota else { return INFINITY };
        let per_second = (u128::from(quota) * 1_000_000 / u128::from(self.period.max(1))).min(u64::MAX.into()) as u64;
        if per_second.is_multiple_of(10_000) {
            return per_second;
        }
        let rounded = (per_second / 10_000 + 1).saturating_mul(10_000);
        self.quota = Some((u128::from(rounded) * u128::from(self.period) / 1_000_000) as u64);
        rounded
    }
}

/// Turns a list of writes into properties, for systemd of this version; raises the quotas in the list to what systemd can
/// express. What no property of that version stands for is left to the files, as in runc.
///
/// `current` is the present content of a file of the `cpu` controller, for what an update does not name.
///
/// # Errors
/// With the write's pointer: a value that a property stands for, and that is not understood.
pub fn of_limits(
    writes: &mut [Write],
    version: u32,
    current: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Property>> {
    let mut properties: Vec<Property> = Vec::new();
    let mut set = |name: &str, value: Value| match properties.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value, // `unified` comes last and wins, as in the files
        None => properties.push((name.to_owned(), value)),
    };
    bandwidth(writes, version, current, &mut set)?;
    let idle = writes.iter().any(|w| w.file == "cpu.idle" && w.value.trim() == "1");
    for write in writes.iter() {
        let (name, value) = match write.file.as_str() {
            "memory.max" => ("MemoryMax", limit(&write.value, size)),
            "memory.high" => ("MemoryHigh", limit(&write.value, size)),
            "memory.low" => ("MemoryLow", limit(&write.value, size)),
            "memory.min" => ("MemoryMin", limit(&write.value, size)),
            "memory.swap.max" => ("MemorySwapMax", limit(&write.value, size)),
            "memory.limit_in_bytes" => ("MemoryLimit", limit(&write.value, size)),
            "pids.max" => ("TasksMax", limit(&write.value, number).map(|n| n.max(1))), // 0 is not taken
            "cpu.shares" => ("CPUShares", limit(&write.value, number)),
            "cpu.weight" if !idle => ("CPUWeight", limit(&write.value, number)),
            "cpu.idle" if idle && version >= IDLE => ("CPUWeight", Some(0)), // systemd's word for idle
            "io.weight" if write.value.contains(':') => continue,            // a device's
            "io.weight" => ("IOWeight", limit(write.value.trim_start_matches("default"), decimal)),
            "blkio.weight" => ("BlockIOWeight", limit(&write.value, number)),
            "cpuset.cpus" | "cpuset.mems" if version >= CPUSETS => {
                let name = if write.file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                let bits = bits(&write.value).ok_or_else(|| unknown(write, "list of numbers"))?;
                set(name, Value::bytes(&bits));
                continue;
            }
            _ => continue,
        };
        set(name, Value::Uint64(value.ok_or_else(|| unknown(write, "number"))?));
    }
    Ok(properties)
}

/// `cpu.max` in one file, or quota and period in two.
fn bandwidth(
    writes: &mut [Write],
    version: u32,
    current: &dyn Fn(&str) -> Option<String>,
    set: &mut dyn FnMut(&str, Value),
) -> Result<()> {
    let find = |file: &str| writes.iter().rposition(|w| w.file == file);
    let (both, quota, period) = (find("cpu.max"), find("cpu.cfs_quota_us"), find("cpu.cfs_period_us"));
    let Some(named) = both.or(quota).or(period) else { return Ok(()) };
    let given = |at: Option<usize>| at.map(|at| writes[at].value.clone());
    let (quota_word, period_word) = match given(both) {
        Some(line) => {
            let mut words = line.split_whitespace().map(str::to_owned);
            let (quota, period) = (words.next(), words.next());
            let now = || current("cpu.max")?.split_whitespace().nth(1).map(str::to_owned);
            (Some(quota.unwrap_or_default()), period.or_else(now))
        }
        None => {
            let or_now = |at, file: &str| given(at).or_else(|| current(file));
            (or_now(quota, "cpu.cfs_quota_us"), or_now(period, "cpu.cfs_period_us"))
        }
    };
    let word = |word: String| limit(&word, decimal).ok_or_else(|| unknown(&writes[named], "number"));
    let period = period_word.map_or(Ok(PERIOD), word)?;
    let quota_now = quota_word.map_or(Ok(INFINITY), word)?;
    let mut wanted = Bandwidth { quota: Some(quota_now).filter(|n| *n != INFINITY && *n != 0), period };
    if version >= QUOTA_PERIOD {
        set("CPUQuotaPeriodUSec", Value::Uint64(wanted.period));
    }
    set("CPUQuotaPerSecUSec", Value::Uint64(wanted.per_second()));
    if let Some(rounded) = wanted.quota {
        if let Some(at) = both {
            let period = writes[at].value.split_whitespace().nth(1).map(|p| format!(" {p}")).unwrap_or_default();
            writes[at].value = format!("{rounded}{period}");
        } else if let Some(at) = quota {
            writes[at].value = rounded.to_string();
        }
    }
    Ok(())
}

/// `memory.oom.group` is a property that only a new unit takes.
pub fn oom_policy(unified: &BTreeMap<String, String>, version: u32) -> Option<Property> {
    let word = match unified.get("memory.oom.group")?.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None, // the file will say what is wrong
    };
    (version >= OOM_POLICY).then(|| ("OOMPolicy".to_owned(), Value::text(word)))
}

/// `1,3-5` as a mask, the lowest number in the first byte; `None` if it is no such list.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask = vec![0u8]; // an empty list is one, too
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // More than any kernel has: a mask is no place for a number of somebody's choice.
        if first > last || last >= 1 << 16 {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        (first..=last).for_each(|n| mask[n / 8] |= 1 << (n % 8));
    }
    Some(mask)
}

/// `pids.max` of a list of writes.
pub fn tasks_max(writes: &[Write]) -> Option<u64> {
    writes.iter().rfind(|w| w.file == "pids.max").and_then(|w| limit(&w.value, number))
}

/// The properties of `org.systemd.property.NAME` annotations; `…Sec` is given in seconds and becomes `…USec`, as in runc.
///
/// # Errors
/// With the annotation's pointer: no name of a property; no value in GVariant's text format.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        let pointer = || format!("/annotations/{}", key.replace('~', "~0").replace('/', "~1"));
        let bad = |reason: String| Error::invalid(pointer(), reason);
        if name.len() < 3 {
            return Err(bad("name incorrect: too short".into()));
        }
        if !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(bad("name incorrect: contains non-alphabetic character".into()));
        }
        let value = gvariant::parse(text).map_err(|e| bad(format!("{text:?}: value parse error: {e}")))?;
        let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        properties.push(match stem {
            None => (name.to_owned(), value),
            Some(stem) => {
                let micros = micros(&value)
                    .ok_or_else(|| bad(format!("{text:?}: value parse error: not a number of seconds")))?;
                (format!("{stem}USec"), Value::Uint64(micros))
            }
        });
    }
    Ok(properties)
}

fn micros(seconds: &Value) -> Option<u64> {
    let whole = match *seconds {
        Value::Byte(n) => n.into(),
        Value::Int16(n) => n.try_into().ok()?,
        Value::Uint16(n) => n.into(),
        Value::Int32(n) => n.try_into().ok()?,
        Value::Uint32(n) => n.into(),
        Value::Int64(n) => n.try_into().ok()?,
        Value::Uint64(n) => n,
        Value::Double(n) => return (n >= 0.0).then_some((n * 1e6) as u64),
        _ => return None,
    };
    u64::checked_mul(whole, 1_000_000)
}

/// The properties that tell systemd which accounting a unit needs: all, as the file system driver has it.
pub fn accounting(version: Version) -> Vec<Property> {
    let io = if version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
    let on = |name: &str| (name.to_owned(), Value::Bool(true));
    [on("MemoryAccounting"), on("CPUAccounting"), on(io), on("TasksAccounting")].to_vec()
}

#[cfg(test)]
mod tests;
