//! systemd's manager, as far as we need it: org.freedesktop.systemd1(5).

use std::time::Duration;

use super::Property;
use super::bus::{Bus, Failure, escape};
use super::unit::Unit;
use super::wire::{Call, Message, Value};
use crate::error::{Error, Kind, Result};

/// How long systemd may take for one call, or one job; runc's number. A busy one has been seen to need seconds.
const PATIENCE: Duration = Duration::from_secs(30);

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// A connection to the system's manager, or to a user's.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
}

/// Where managers of each kind are found: on a bus, else by systemd's own socket.
fn addresses(user: bool, variable: &dyn Fn(&str) -> Option<String>) -> [String; 2] {
    if !user {
        let bus = variable("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| "unix:path=/run/dbus/system_bus_socket".into());
        return [bus, "unix:path=/run/systemd/private".into()];
    }
    let runtime = variable("XDG_RUNTIME_DIR").map(|dir| escape(&dir));
    let at = |name: &str| runtime.as_ref().map(|dir| format!("unix:path={dir}/{name}")).unwrap_or_default();
    [variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| at("bus")), at("systemd/private")]
}

impl Manager {
    /// Connects. The socket of systemd itself, which only root may use and only where no bus runs, is tried second.
    pub fn connect(user: bool) -> Result<Manager> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let [bus, direct] = addresses(user, &variable);
        // In a user namespace our number is another one outside, so that the other side has to ask the kernel.
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
        let me = whole.then(|| rustix::process::geteuid().as_raw());
        let bus = match Bus::connect(&bus, false, me, PATIENCE) {
            Ok(bus) => bus,
            Err(first) => Bus::connect(&direct, true, me, PATIENCE).map_err(|_| {
                let hint = if user { " (is the package dbus-user-session installed?)" } else { "" };
                Error::new(Kind::Kernel, "connect", "systemd", format!("{first}{hint}"))
            })?,
        };
        Ok(Manager { bus })
    }

    fn call(&mut self, member: &str, body: &[Value]) -> std::result::Result<Vec<Value>, Failure> {
        self.bus.call(&Call { destination: Some(NAME), path: OBJECT, interface: INTERFACE, member, body })
    }

    fn property(&mut self, name: &str) -> Result<String> {
        let body = [Value::text(INTERFACE), Value::text(name)];
        let interface = "org.freedesktop.DBus.Properties";
        let call = Call { destination: Some(NAME), path: OBJECT, interface, member: "Get", body: &body };
        let failed = |reason: String| Error::new(Kind::Kernel, "systemd", name, reason);
        match self.bus.call(&call).map_err(|e| failed(e.to_string()))?.into_iter().next() {
            Some(Value::Variant(value)) if matches!(*value, Value::Text(_)) => {
                let Value::Text(text) = *value else { unreachable!("it has just been looked at") };
                Ok(text)
            }
            other => Err(failed(format!("is no text: {other:?}"))),
        }
    }

    /// systemd's version: 252 of `252.38-1~deb12u1` or `v252`.
    pub fn version(&mut self) -> Result<u32> {
        let text = self.property("Version")?;
        version(&text).ok_or_else(|| Error::new(Kind::Kernel, "systemd", "Version", format!("is no version: {text:?}")))
    }

    /// The group that the manager's own tree begins with, without slashes around; empty for the system's.
    pub fn root(&mut self) -> Result<String> {
        Ok(self.property("ControlGroup")?.trim_matches('/').to_owned())
    }

    /// Makes a unit and waits until it is there. Remains of an older one that failed are swept away; a slice that is
    /// there already is good.
    pub fn start(&mut self, unit: &Unit, properties: Vec<Property>) -> Result<()> {
        const OP: &str = "StartTransientUnit";
        let failed = |e: Failure| self::failed(OP, unit, &e);
        self.watch(unit).map_err(failed)?;
        let list = Value::Array("(sv)".into(), properties.into_iter().map(pair).collect());
        let none = Value::Array("(sa(sv))".into(), Vec::new());
        let body = [Value::text(&unit.name), Value::text("replace"), list, none];
        let mut answer = self.call(OP, &body);
        if let Err(Failure::Refused(name, _)) = &answer
            && name == "org.freedesktop.systemd1.UnitExists"
        {
            if unit.is_slice() {
                return Ok(());
            }
            // It may not have failed, and then what follows says so.
            let _ = self.reset_failed(unit);
            answer = self.call(OP, &body);
        }
        let result = self.job(answer.map_err(failed)?).map_err(failed)?;
        if result == "done" {
            return Ok(());
        }
        // The job's own result is the error that matters.
        let _ = self.reset_failed(unit);
        Err(Error::new(Kind::Kernel, OP, &unit.name, format!("error creating systemd unit: got {result:?}")))
    }

    /// Changes properties until the next boot, and waits until systemd has written the files. It does that after its
    /// answer, but before it looks at another call (manager_loop).
    pub fn set(&mut self, unit: &Unit, properties: Vec<Property>) -> Result<()> {
        const OP: &str = "SetUnitProperties";
        let list = Value::Array("(sv)".into(), properties.into_iter().map(pair).collect());
        self.call(OP, &[Value::text(&unit.name), Value::Bool(true), list]).map_err(|e| failed(OP, unit, &e))?;
        self.version().map(drop)
    }

    /// Stops a unit and waits until it is gone; one that is gone is fine.
    pub fn stop(&mut self, unit: &Unit) -> Result<()> {
        const OP: &str = "StopUnit";
        let failed = |e: Failure| self::failed(OP, unit, &e);
        self.watch(unit).map_err(failed)?;
        match self.call(OP, &[Value::text(&unit.name), Value::text("replace")]) {
            Err(Failure::Refused(name, _)) if name == "org.freedesktop.systemd1.NoSuchUnit" => return Ok(()),
            // However it ends: what is left of its groups is removed by us.
            answer => self.job(answer.map_err(failed)?).map(drop).map_err(failed)?,
        }
        // A unit that has failed stays until this; one that has not is unknown by now.
        let _ = self.reset_failed(unit);
        Ok(())
    }

    fn reset_failed(&mut self, unit: &Unit) -> std::result::Result<(), Failure> {
        self.call("ResetFailedUnit", &[Value::text(&unit.name)]).map(drop)
    }

    /// Asks the bus for the ends of this unit's jobs, and for nothing else. systemd sends those to whoever has asked for
    /// a job, without a subscription to everything it does.
    fn watch(&mut self, unit: &Unit) -> std::result::Result<(), Failure> {
        if self.bus.is_direct() {
            return Ok(());
        }
        let rule = format!(
            "type='signal',sender='{NAME}',path='{OBJECT}',interface='{INTERFACE}',member='JobRemoved',arg2='{}'",
            unit.name
        );
        self.bus.ask_bus("AddMatch", &[Value::Text(rule)]).map(drop)
    }

    /// How the job of an answer ended: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
    fn job(&mut self, answer: Vec<Value>) -> std::result::Result<String, Failure> {
        let job = match answer.into_iter().next() {
            Some(Value::Path(job)) => job,
            other => return Err(Failure::Broken(format!("systemd answered {other:?} instead of a job"))),
        };
        self.bus.signal(|message: &Message| match message.body.as_slice() {
            [_, Value::Path(path), _, Value::Text(result)] if message.member == "JobRemoved" && *path == job => {
                Some(result.clone())
            }
            _ => None,
        })
    }
}

fn failed(op: &'static str, unit: &Unit, failure: &Failure) -> Error {
    Error::new(Kind::Kernel, op, &unit.name, failure.to_string())
}

fn pair((name, value): Property) -> Value {
    Value::Struct(vec![Value::Text(name), Value::Variant(Box::new(value))])
}

fn version(text: &str) -> Option<u32> {
    let text = text.trim_start_matches('v');
    text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_write_them() {
        for (text, number) in [("219", 219), ("v245.4-1.fc32", 245), ("241-1", 241), ("252.38-1~deb12u1", 252)] {
            assert_eq!(version(text), Some(number), "{text}");
        }
        for text in ["NaN", "", "v"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn managers_are_found_where_runc_looks_for_them() {
        let with = |user: bool, set: &'static [(&str, &str)]| {
            addresses(user, &move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(with(false, &[]), ["unix:path=/run/dbus/system_bus_socket", "unix:path=/run/systemd/private"]);
        assert_eq!(with(false, &[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")])[0], "unix:path=/x");
        let runtime: &[_] = &[("XDG_RUNTIME_DIR", "/run/user/1 0")];
        assert_eq!(with(true, runtime), ["unix:path=/run/user/1%200/bus", "unix:path=/run/user/1%200/systemd/private"]);
        assert_eq!(with(true, &[("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=y")]), ["unix:abstract=y", ""]);
    }
}
