//! A connection to a D-Bus, for a few calls in a row: blocking, on one thread, with a deadline for everything.
//!
//! Ours, because what there is does not do: see docs/decisions/cgroups.md. A connection lives as long as one operation
//! on a unit: a bus takes only so many from one user (256 by default), and a node may run more shims than that.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use super::wire::{self, Call, Message, Value};

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other side says no: the name of the error, and its text.
    Refused(String, String),
    /// The connection, or what came over it.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused(name, text) => write!(f, "{name}: {text}"),
            Failure::Broken(reason) => f.write_str(reason),
        }
    }
}

type Result<T> = std::result::Result<T, Failure>;

fn broken<T>(reason: impl Into<String>) -> Result<T> {
    Err(Failure::Broken(reason.into()))
}

/// An open connection.
#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    serial: u32,
    input: Vec<u8>,
    signals: Vec<Message>,
    patience: Duration,
    deadline: Instant,
    direct: bool,
}

impl Bus {
    /// Connects to the first of these places that takes us; `unix:path=…` or `unix:abstract=…`, see the D-Bus
    /// specification, "Server Addresses". `patience` is how long each call may take. A `direct` one has no bus between:
    /// the other side is systemd itself.
    ///
    /// `user` is who we are for the other side; nobody, in a user namespace: then it asks the kernel.
    pub fn connect(addresses: &str, direct: bool, user: Option<u32>, patience: Duration) -> Result<Bus> {
        let mut last = Failure::Broken(format!("no usable D-Bus address in {addresses:?}"));
        let deadline = Instant::now() + patience;
        for address in addresses.split(';') {
            match socket_address(address).and_then(|at| open(&at, address, deadline)) {
                Ok(socket) => {
                    let (input, signals) = (Vec::new(), Vec::new());
                    let mut bus = Bus { socket, serial: 0, input, signals, patience, deadline, direct };
                    bus.greet(user)?;
                    return Ok(bus);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Authenticates and, on a bus, says hello; without waiting in between, as sd-bus does.
    fn greet(&mut self, user: Option<u32>) -> Result<()> {
        let lines = match user {
            Some(uid) => {
                let hex: String = uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
                format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n")
            }
            None => "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_owned(),
        };
        self.write(lines.as_bytes())?;
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                match line.split(' ').next().unwrap_or_default() {
                    "OK" => break,
                    "DATA" => continue,
                    _ => return broken(format!("the D-Bus server does not let us in: {line:?}")),
                }
            }
            if self.input.len() > 1 << 14 {
                return broken("what answers is no D-Bus server");
            }
            self.read()?;
        }
        if self.direct { Ok(()) } else { self.ask_bus("Hello", &[]).map(drop) }
    }

    /// Calls a method of the bus itself.
    pub fn ask_bus(&mut self, member: &str, body: &[Value]) -> Result<Vec<Value>> {
        let bus = "org.freedesktop.DBus";
        self.call(&Call { destination: Some(bus), path: "/org/freedesktop/DBus", interface: bus, member, body })
    }

    /// True if no bus is between us and systemd: it sends its signals unasked then.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Calls a method and waits for its answer. Signals that come meanwhile are kept for [`Bus::signal`].
    pub fn call(&mut self, call: &Call<'_>) -> Result<Vec<Value>> {
        self.deadline = Instant::now() + self.patience;
        self.serial += 1;
        let serial = self.serial;
        let destination = call.destination.filter(|_| !self.direct);
        self.write(&wire::encode(&Call { destination, ..*call }, serial))?;
        loop {
            let message = self.next()?;
            match message.kind {
                2 if message.reply_to == serial => return Ok(message.body),
                3 if message.reply_to == serial => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::Text(text)) => text,
                        _ => String::new(),
                    };
                    return Err(Failure::Refused(message.error, text));
                }
                4 => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal that `wanted` makes something of.
    pub fn signal<T>(&mut self, mut wanted: impl FnMut(&Message) -> Option<T>) -> Result<T> {
        self.deadline = Instant::now() + self.patience;
        loop {
            let found = self.signals.iter().find_map(&mut wanted);
            self.signals.clear();
            if let Some(found) = found {
                return Ok(found);
            }
            let message = self.next()?;
            if message.kind == 4 {
                self.signals.push(message);
            }
        }
    }

    fn next(&mut self) -> Result<Message> {
        loop {
            match wire::length(&self.input) {
                Ok(Some(length)) if self.input.len() >= length => {
                    let message = wire::decode(&self.input[..length]);
                    self.input.drain(..length);
                    return message.ok_or_else(|| Failure::Broken("a malformed D-Bus message".into()));
                }
                Ok(_) => self.read()?,
                Err(reason) => return broken(reason),
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return broken("the D-Bus server has closed the connection"),
                Ok(count) => {
                    self.input.extend(&bytes[..count]);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(e) => return broken(format!("read from D-Bus: {e}")),
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(e) => return broken(format!("write to D-Bus: {e}")),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout)) {
            Ok(0) => broken(format!("no answer over D-Bus for {} s", self.patience.as_secs_f32())),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => broken(format!("poll of D-Bus: {e}")),
        }
    }
}

fn open(at: &SocketAddrUnix, name: &str, deadline: Instant) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |e: Errno| Failure::Broken(format!("failed to connect to D-Bus at {name}: {e}"));
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    loop {
        match connect(&socket, at) {
            Ok(()) => return Ok(socket),
            // The queue of those who want in is full, and poll(2) has no word for it.
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// One address: `unix:path=/a%20b,guid=…`.
fn socket_address(address: &str) -> Result<SocketAddrUnix> {
    let unusable = || Failure::Broken(format!("not a D-Bus address that can be used: {address:?}"));
    let keys = address.strip_prefix("unix:").ok_or_else(unusable)?;
    for (key, value) in keys.split(',').filter_map(|pair| pair.split_once('=')) {
        let value = unescape(value).ok_or_else(unusable)?;
        let made = match key {
            "path" => SocketAddrUnix::new(value.as_slice()),
            "abstract" => SocketAddrUnix::new_abstract_name(&value),
            _ => continue,
        };
        return made.map_err(|_| unusable());
    }
    Err(unusable())
}

/// `%20` in addresses.
fn unescape(value: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// A path as a part of an address.
pub fn escape(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_/.\\*".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

#[cfg(test)]
mod tests;
