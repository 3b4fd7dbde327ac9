//! ttrpc as a client and as a server, blocking and on one thread: what a call costs is then the shim's, not a client's
//! event loop. The frame is that of ttrpc's protocol.md: length, stream, type, flags.

use containerd_shim_protos::ttrpc::proto::{Request, Response};
use protobuf::Message;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::Outcome;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// A connection to a shim, on which several calls can be under way.
pub struct Connection {
    stream: UnixStream,
    next: u32,
    arrived: HashMap<u32, Response>,
}

/// A call under way.
#[derive(Clone, Copy)]
pub struct Call(u32);

impl Connection {
    /// Connects to `unix://PATH` or a path.
    pub fn open(address: &str) -> Outcome<Connection> {
        let stream = UnixStream::connect(address.trim_start_matches("unix://"))?;
        // A shim that does not answer must not stop a run for ever.
        stream.set_read_timeout(Some(Duration::from_secs(40)))?;
        Ok(Connection { stream, next: 1, arrived: HashMap::new() })
    }

    /// Sends a request without waiting for its answer.
    pub fn send(&mut self, service: &str, method: &str, message: &impl Message) -> Outcome<Call> {
        let mut request = Request::new();
        (request.service, request.method) = (service.to_owned(), method.to_owned());
        request.payload = message.write_to_bytes()?;
        let stream = self.next;
        self.next += 2;
        write_frame(&mut self.stream, stream, REQUEST, &request.write_to_bytes()?)?;
        Ok(Call(stream))
    }

    /// Waits for an answer; those of other calls that come before it are kept.
    pub fn answer<R: Message>(&mut self, call: Call) -> Outcome<R> {
        loop {
            if let Some(response) = self.arrived.remove(&call.0) {
                let status = response.status.unwrap_or_default();
                if status.code.value() != 0 {
                    return Err(format!("the shim answers {:?}: {}", status.code, status.message).into());
                }
                return Ok(R::parse_from_bytes(&response.payload)?);
            }
            let (stream, kind, body) = read_frame(&mut self.stream)?;
            if kind == RESPONSE {
                self.arrived.insert(stream, Response::parse_from_bytes(&body)?);
            }
        }
    }

    /// Sends and waits.
    pub fn call<R: Message>(&mut self, service: &str, method: &str, message: &impl Message) -> Outcome<R> {
        let call = self.send(service, method, message)?;
        self.answer(call)
    }
}

/// Answers every request of one client with an empty message, until it hangs up: containerd's events service.
pub fn accept_everything(mut stream: UnixStream) {
    let mut answer = Response::new();
    answer.mut_status();
    let Ok(answer) = answer.write_to_bytes() else { return };
    while let Ok((id, kind, _)) = read_frame(&mut stream) {
        if kind == REQUEST && write_frame(&mut stream, id, RESPONSE, &answer).is_err() {
            return;
        }
    }
}

fn write_frame(to: &mut UnixStream, stream: u32, kind: u8, body: &[u8]) -> Outcome {
    let mut frame = Vec::with_capacity(10 + body.len());
    frame.extend(u32::try_from(body.len())?.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(body);
    Ok(to.write_all(&frame)?)
}

fn read_frame(from: &mut UnixStream) -> Outcome<(u32, u8, Vec<u8>)> {
    let mut head = [0; 10];
    from.read_exact(&mut head)?;
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut body = vec![0; number(0) as usize];
    from.read_exact(&mut body)?;
    Ok((number(4), head[8], body))
}
