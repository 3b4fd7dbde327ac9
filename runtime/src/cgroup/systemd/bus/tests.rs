use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A server on a socket of its own, and the address of it.
fn serve(talk: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, String, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a bus");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("unix:path={}", escape(path.to_str().unwrap()));
    let thread = std::thread::spawn(move || talk(listener.accept().unwrap().0));
    (dir, address, thread)
}

/// Takes one message of the client and gives its serial.
fn take(stream: &mut UnixStream) -> u32 {
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; wire::length(&head).unwrap().unwrap() - 16];
    stream.read_exact(&mut rest).unwrap();
    u32::from_le_bytes(head[8..12].try_into().unwrap())
}

fn let_in(stream: &mut UnixStream, lines: &str) {
    let mut said = vec![0; lines.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), lines);
    stream.write_all(b"OK 0123\r\n").unwrap();
}

/// A message of another kind than a call: the fields that `encode` cannot write are put in by hand.
fn message(kind: u8, fields: &[(u8, Value)], body: &[Value]) -> Vec<u8> {
    let fields = fields.iter().map(|(c, v)| Value::Struct(vec![Value::Byte(*c), Value::Variant(v.clone().into())]));
    let call = Call { destination: None, path: "/", interface: "i", member: "m", body };
    let whole = wire::encode(&call, 1);
    let old = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    let payload = &whole[16 + old.next_multiple_of(8)..];
    let signature = body.iter().map(Value::signature).collect();
    let array = Value::Array(
        "(yv)".into(),
        fields
            .chain([Value::Struct(vec![Value::Byte(8), Value::Variant(Box::new(Value::Signature(signature)))])])
            .collect(),
    );
    // An array as the only argument has the length and the padding that it has in a header.
    let whole = wire::encode(&Call { body: &[array], ..call }, 1);
    let old = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    let array = &whole[16 + old.next_multiple_of(8)..];
    let length = u32::from_le_bytes(array[..4].try_into().unwrap());
    let mut out = vec![b'l', kind, 0, 1];
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(9u32.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(&array[8..]); // the first field is aligned to 8: four bytes of padding there, none in a header
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(payload);
    out
}

fn ping(bus: &mut Bus) -> Result<Vec<Value>> {
    bus.call(&Call { destination: Some("a.b"), path: "/", interface: "a.b", member: "Ping", body: &[] })
}

#[test]
fn answers_errors_and_signals_are_told_apart() {
    let (_dir, address, server) = serve(|mut stream| {
        let_in(&mut stream, "\0AUTH EXTERNAL 3432\r\nBEGIN\r\n");
        let hello = take(&mut stream);
        stream.write_all(&message(2, &[(5, Value::Uint32(hello))], &[Value::text(":1.5")])).unwrap();
        let call = take(&mut stream);
        let mut all = message(4, &[(3, Value::text("JobRemoved"))], &[Value::Uint32(1), Value::text("early")]);
        all.extend(message(2, &[(5, Value::Uint32(call + 7))], &[])); // an answer to somebody else
        all.extend(message(2, &[(5, Value::Uint32(call))], &[Value::Path("/job".into())]));
        for byte in all {
            stream.write_all(&[byte]).unwrap(); // however it is cut
        }
        let call = take(&mut stream);
        let name = Value::text("org.freedesktop.systemd1.UnitExists");
        let error = message(3, &[(4, name), (5, Value::Uint32(call))], &[Value::text("it is there")]);
        stream.write_all(&error).unwrap();
        stream.write_all(&message(4, &[(3, Value::text("JobRemoved"))], &[Value::Uint32(2)])).unwrap();
    });
    let mut bus = Bus::connect(&format!("unix:path=/nonexistent;{address},guid=00"), false, Some(42), LONG).unwrap();
    assert_eq!(ping(&mut bus), Ok(vec![Value::Path("/job".into())]));
    let number = |m: &Message| (m.member == "JobRemoved").then(|| m.body.first().cloned()).flatten();
    assert_eq!(bus.signal(number), Ok(Value::Uint32(1)));
    let refused = ping(&mut bus).unwrap_err();
    assert_eq!(refused.to_string(), "org.freedesktop.systemd1.UnitExists: it is there");
    assert_eq!(bus.signal(number), Ok(Value::Uint32(2)));
    server.join().unwrap();
    assert!(ping(&mut bus).is_err(), "the server is gone");
}

#[test]
fn a_direct_connection_says_no_hello_and_names_nobody() {
    let (_dir, address, server) = serve(|mut stream| {
        let_in(&mut stream, "\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
        let serial = take(&mut stream);
        stream.write_all(&message(2, &[(5, Value::Uint32(serial))], &[])).unwrap();
    });
    let mut bus = Bus::connect(&address, true, None, LONG).unwrap();
    assert_eq!(ping(&mut bus), Ok(vec![]));
    server.join().unwrap();
}

#[test]
fn whoever_does_not_answer_is_not_waited_for_for_ever() {
    // The client's patience ends, then its connection, and then the server's.
    let silent = |mut stream: UnixStream| drop(std::io::copy(&mut stream, &mut std::io::sink()));
    let (_dir, address, server) = serve(silent);
    let failure = Bus::connect(&address, false, Some(0), Duration::from_millis(20)).unwrap_err().to_string();
    assert!(failure.contains("no answer over D-Bus"), "{failure}");
    server.join().unwrap();
    let (_dir, address, server) = serve(move |mut stream| {
        let_in(&mut stream, "\0AUTH EXTERNAL 30\r\nBEGIN\r\n");
        silent(stream);
    });
    let mut bus = Bus::connect(&address, true, Some(0), LONG).unwrap();
    bus.patience = Duration::from_millis(20);
    assert!(ping(&mut bus).unwrap_err().to_string().contains("no answer over D-Bus"));
    assert!(bus.signal(|_| Some(())).unwrap_err().to_string().contains("no answer over D-Bus"));
    drop(bus);
    server.join().unwrap();
}

#[test]
fn what_is_no_bus_is_refused() {
    for answer in [&b"REJECTED EXTERNAL\r\n"[..], b"220 mail\r\n", b""] {
        let (_dir, address, server) = serve(move |mut stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(answer).unwrap();
        });
        Bus::connect(&address, false, Some(0), LONG).unwrap_err();
        server.join().unwrap();
    }
    for address in ["", "tcp:host=x", "unix:", "unix:path=/%zz", "unix:path=/nonexistent/bus", "autolaunch:"] {
        let failure = Bus::connect(address, false, Some(0), LONG).unwrap_err();
        assert!(matches!(failure, Failure::Broken(_)), "{address}");
    }
}
