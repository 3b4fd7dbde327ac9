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

fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" | "-1" => Some(INFINITY),
        digits => digits.parse().ok(),
    }
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
pub fn of_limits(writes: &mut [Write], version: u32, current: &dyn Fn(&str) -> Option<String>) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    let mut set = |name: &str, value: Value| match properties.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value, // `unified` comes last and wins, as in the files
        None => properties.push((name.to_owned(), value)),
    };
    bandwidth(writes, version, current, &mut set);
    let idle = writes.iter().any(|w| w.file == "cpu.idle" && w.value.trim() == "1");
    for write in writes.iter() {
        let (name, value) = match write.file.as_str() {
            "memory.max" => ("MemoryMax", number(&write.value)),
            "memory.high" => ("MemoryHigh", number(&write.value)),
            "memory.low" => ("MemoryLow", number(&write.value)),
            "memory.min" => ("MemoryMin", number(&write.value)),
            "memory.swap.max" => ("MemorySwapMax", number(&write.value)),
            "memory.limit_in_bytes" => ("MemoryLimit", number(&write.value)),
            "pids.max" => ("TasksMax", number(&write.value).map(|n| n.max(1))), // 0 is not taken
            "cpu.shares" => ("CPUShares", number(&write.value)),
            "cpu.weight" if !idle => ("CPUWeight", number(&write.value)),
            "cpu.idle" if idle && version >= IDLE => ("CPUWeight", Some(0)), // systemd's word for idle
            "io.weight" => ("IOWeight", number(write.value.trim_start_matches("default"))),
            "blkio.weight" => ("BlockIOWeight", number(&write.value)),
            "cpuset.cpus" | "cpuset.mems" if version >= CPUSETS => {
                let name = if write.file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                if let Some(bits) = bits(&write.value) {
                    set(name, Value::bytes(&bits));
                }
                continue;
            }
            _ => continue,
        };
        if let Some(value) = value {
            set(name, Value::Uint64(value));
        }
    }
    properties
}

/// `cpu.max` in one file, or quota and period in two.
fn bandwidth(
    writes: &mut [Write],
    version: u32,
    current: &dyn Fn(&str) -> Option<String>,
    set: &mut dyn FnMut(&str, Value),
) {
    let find = |file: &str| writes.iter().rposition(|w| w.file == file);
    let (both, quota, period) = (find("cpu.max"), find("cpu.cfs_quota_us"), find("cpu.cfs_period_us"));
    if both.is_none() && quota.is_none() && period.is_none() {
        return;
    }
    let given = |at: Option<usize>| at.map(|at| writes[at].value.clone());
    let (quota_word, period_word) = match given(both) {
        Some(line) => {
            let mut words = line.split_whitespace().map(str::to_owned);
            let (quota, period) = (words.next(), words.next());
            let now = || current("cpu.max")?.split_whitespace().nth(1).map(str::to_owned);
            (quota, period.or_else(now))
        }
        None => {
            let or_now = |at, file: &str| given(at).or_else(|| current(file));
            (or_now(quota, "cpu.cfs_quota_us"), or_now(period, "cpu.cfs_period_us"))
        }
    };
    let limit = quota_word.and_then(|word| number(&word)).filter(|n| *n != INFINITY && *n != 0);
    let mut wanted = Bandwidth { quota: limit, period: period_word.and_then(|w| number(&w)).unwrap_or(PERIOD) };
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

/// `1,3-5` as a mask, the lowest number in the first byte; `None` if it is no such list, which the file will say better.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // More than any kernel has: a mask is no place for a number of somebody's choice.
        if first > last || last >= 1 << 16 {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0u8);
        (first..=last).for_each(|n| mask[n / 8] |= 1 << (n % 8));
    }
    (!mask.is_empty()).then_some(mask)
}

/// `pids.max` of a list of writes.
pub fn tasks_max(writes: &[Write]) -> Option<u64> {
    writes.iter().rfind(|w| w.file == "pids.max").and_then(|w| number(&w.value))
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
