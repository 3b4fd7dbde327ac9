//! `state`, `list`, `ps`: what there is, as runc prints it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use runtime::{Error, Kind, Result};
use serde_json::{Value, json};

use super::args::{self, Shape};
use super::store::{Found, Status};
use super::{Context, print};

/// The specification's state of a container, with runc's additions. The bundle may be gone: then its words are missing.
fn describe(found: &Found, owner: &str) -> Result<Value> {
    let record = &found.record;
    let status = found.status()?;
    let spec = record.spec().unwrap_or_default();
    Ok(json!({
        "ociVersion": runtime::plan::hooks::STATE_VERSION,
        "id": record.id,
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": spec.annotations,
        "owner": owner
    }))
}

/// `state`
pub fn state(context: &Context<'_>, id: &str) -> Result<()> {
    let state = describe(&context.store.find(id)?, "")?;
    print(&format!("{state:#}\n"))
}

/// `list`
pub fn list(context: &Context<'_>, args: &args::List) -> Result<()> {
    let found = context.store.all()?;
    if args.quiet {
        let ids: String = found.iter().map(|f| f.record.id.clone() + "\n").collect();
        return print(&ids);
    }
    let states = found.iter().map(|f| describe(f, &owner(f))).collect::<Result<Vec<_>>>()?;
    if args.format == Shape::Json {
        return print(&format!("{}\n", Value::Array(states)));
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|s| {
        ["id", "pid", "status", "bundle", "created", "owner"]
            .map(|key| s[key].as_str().map_or_else(|| s[key].to_string(), str::to_owned))
    }));
    print(&table(&rows))
}

/// Columns as wide as their widest cell and three blanks, as Go's tabwriter makes them for runc.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut out = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0) + 3;
            // Writing to a string does not fail.
            let _ = if i + 1 == N { writeln!(out, "{cell}") } else { write!(out, "{cell:<width$}") };
        }
    }
    out
}

/// Name of the user who made it; the number if it has no name.
fn owner(found: &Found) -> String {
    let uid = std::fs::metadata(&found.dir).map_or(0, |m| m.uid());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// `ps`: the container's pids, or the lines of ps(1) about them.
pub fn ps(context: &Context<'_>, args: &args::Ps) -> Result<()> {
    let found = context.store.find(&args.id)?;
    let pids: BTreeSet<u32> = found.cgroup()?.pids()?.into_iter().collect();
    if args.format == Shape::Json {
        return print(&format!("{}\n", json!(pids)));
    }
    let given = if args.args.is_empty() { vec!["-ef".to_owned()] } else { args.args.clone() };
    let run = Command::new("ps").args(&given).output().map_err(|e| Error::io("exec", "ps", &e))?;
    if !run.status.success() {
        let why = String::from_utf8_lossy(&run.stderr).trim().to_owned();
        return Err(Error::new(Kind::Invalid, "ps", given.join(" "), why));
    }
    print(&only(&String::from_utf8_lossy(&run.stdout), &pids)?)
}

/// The header and the lines whose PID is one of these.
fn only(text: &str, pids: &BTreeSet<u32>) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::new(Kind::Invalid, "ps", "", "couldn't find PID field in ps output"))?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(header).chain(lines.filter(ours)).fold(String::new(), |all, line| all + line + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["ID".to_owned(), "PID".to_owned()], ["long-id".to_owned(), "1".to_owned()]];
        assert_eq!(table(&rows), "ID        PID\nlong-id   1\n");
    }

    #[test]
    fn ps_lines_of_other_processes_are_left_out() {
        let text = "UID   PID  PPID CMD\nroot    1     0 init\nroot   11     1 11 1\n";
        assert_eq!(only(text, &BTreeSet::from([11])).unwrap(), "UID   PID  PPID CMD\nroot   11     1 11 1\n");
        assert!(only("CMD\nx\n", &BTreeSet::new()).is_err());
    }
}
