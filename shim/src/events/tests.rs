//! The outbox against a real ttrpc server behind a wire that breaks.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use containerd_shim_protos::shim_async::{Events, create_events};
use proptest::prelude::*;
use protobuf::well_known_types::empty::Empty;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::*;

const QUICK: send::Timing = send::Timing {
    call: Duration::from_millis(150),
    shortest: Duration::from_millis(1),
    longest: Duration::from_millis(4),
    idle: Duration::from_millis(30),
};

/// How the server treats the next calls; afterwards it takes everything.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Take,
    /// Takes it, but never says so.
    TakeAndHang,
    Hang,
    Refuse(ttrpc::Code),
}

#[derive(Default)]
struct Containerd {
    seen: Mutex<Vec<Envelope>>,
    moods: Mutex<Vec<Mood>>,
    namespaces: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Events for Containerd {
    async fn forward(&self, ctx: &TtrpcContext, req: ForwardRequest) -> ttrpc::Result<Empty> {
        let namespace = ctx.metadata.get("containerd-namespace-ttrpc").cloned().unwrap_or_default();
        self.namespaces.lock().unwrap().push(namespace.concat());
        let mood = self.moods.lock().unwrap().pop().unwrap_or(Mood::Take);
        if matches!(mood, Mood::Take | Mood::TakeAndHang) {
            self.seen.lock().unwrap().push(req.envelope.unwrap());
        }
        match mood {
            Mood::Take => Ok(Empty::new()),
            Mood::Hang | Mood::TakeAndHang => std::future::pending().await,
            Mood::Refuse(code) => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "no"))),
        }
    }
}

async fn serve(path: &Path, containerd: &Arc<Containerd>) -> Server {
    let service = create_events(Arc::clone(containerd) as Arc<dyn Events + Send + Sync>);
    let mut server = Server::new().bind(&format!("unix://{}", path.display())).unwrap().register_service(service);
    server.start().await.unwrap();
    server
}

/// Passes bytes on between `outer` and `inner`; each connection is cut after its number of bytes in either direction, the
/// last number being for ever. A cut may come in the middle of a request, after it, or in the middle of the answer.
async fn wire(outer: PathBuf, inner: PathBuf, mut cuts: Vec<usize>) {
    let mut listener = UnixListener::bind(&outer).unwrap();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let limit = cuts.pop();
        let server = UnixStream::connect(&inner).await.unwrap();
        let ((cr, cw), (sr, sw)) = (client.into_split(), server.into_split());
        let budget = Arc::new(Mutex::new(limit.unwrap_or(usize::MAX)));
        tokio::select! {
            () = pass(cr, sw, Arc::clone(&budget)) => {}
            () = pass(sr, cw, budget) => {}
        }
        if limit.is_some_and(|l| l % 3 == 0) {
            // containerd is away for a moment: nobody listens.
            drop(listener);
            std::fs::remove_file(&outer).unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
            listener = UnixListener::bind(&outer).unwrap();
        }
    }
}

async fn pass(
    from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    budget: Arc<Mutex<usize>>,
) {
    let mut buffer = [0; 512];
    loop {
        from.readable().await.unwrap();
        let got = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let allowed = {
            let mut left = budget.lock().unwrap();
            let allowed = got.min(*left);
            *left -= allowed;
            allowed
        };
        if to.write_all(&buffer[..allowed]).await.is_err() || allowed < got {
            return;
        }
    }
}

fn event(number: u32) -> Event {
    let id = || format!("c{number}");
    match number % 5 {
        0 => Event::Create(TaskCreate { container_id: id(), pid: number, ..TaskCreate::default() }),
        1 => Event::Start(TaskStart { container_id: id(), pid: number, ..TaskStart::default() }),
        2 => Event::ExecAdded(TaskExecAdded { container_id: id(), ..TaskExecAdded::default() }),
        3 => Event::Exit(TaskExit { container_id: id(), pid: number, ..TaskExit::default() }),
        _ => Event::Delete(TaskDelete { container_id: id(), pid: number, ..TaskDelete::default() }),
    }
}

fn inside<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What arrived, without the repetitions that directly follow what they repeat.
fn once(seen: &[Envelope]) -> Vec<Envelope> {
    let mut seen = seen.to_vec();
    seen.dedup();
    seen
}

fn assert_all_in_order(containerd: &Containerd, count: u32) {
    let seen = once(&containerd.seen.lock().unwrap());
    let expected: Vec<_> = (0..count).map(|n| event(n).bytes().unwrap()).collect();
    let arrived: Vec<_> = seen.iter().map(|e| e.event.value.clone()).collect();
    assert_eq!(arrived.len(), expected.len());
    assert_eq!(arrived, expected);
    for (n, envelope) in seen.iter().enumerate() {
        let (topic, name) = event(n as u32).names();
        assert_eq!((envelope.topic.as_str(), envelope.event.type_url.as_str()), (topic, name));
        assert_eq!(envelope.namespace, "k8s.io");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Connections that break anywhere, outages between them, calls that hang: order is kept, nothing is lost, and what is
    /// repeated is repeated at once and with the same timestamp.
    #[test]
    fn order_survives_a_broken_wire(
        cuts in prop::collection::vec(0_usize..900, 0..12),
        moods in prop::collection::vec(prop_oneof![
            30 => Just(Mood::Take),
            4 => Just(Mood::Refuse(ttrpc::Code::UNAVAILABLE)),
            // Rare, for five in a row would rightly give an event up.
            1 => Just(Mood::Refuse(ttrpc::Code::UNKNOWN)),
        ], 0..20),
        pauses in prop::collection::vec(0_u8..4, 1..40),
    ) {
        inside(async {
            let dir = tempfile::tempdir().unwrap();
            let (outer, inner) = (dir.path().join("outer"), dir.path().join("inner"));
            let containerd = Arc::new(Containerd { moods: Mutex::new(moods), ..Containerd::default() });
            let _server = serve(&inner, &containerd).await;
            let outbox = Outbox::with("k8s.io".into(), outer.display().to_string(), BOUND, QUICK);
            tokio::spawn(wire(outer, inner, cuts));
            for (number, pause) in (0..).zip(&pauses) {
                outbox.send(event(number));
                if *pause == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            outbox.drain(Duration::from_secs(10)).await;
            assert!(outbox.0.queue().is_empty());
            assert_all_in_order(&containerd, pauses.len() as u32);
        });
    }

    /// Whatever is pushed: never more bytes than the bound (but for the head), and an exit goes only when nothing of less
    /// worth is behind the head.
    #[test]
    fn the_least_worth_goes_first(sizes in prop::collection::vec((1_usize..60, 0_u8..3), 1..80)) {
        let mut queue = Queue::new(200);
        let worths = [queue::Worth::Passing, queue::Worth::Life, queue::Worth::Exit];
        let mut kept: Vec<(usize, u8)> = Vec::new();
        for (size, worth) in sizes {
            let names = ["passing", "life", "exit"];
            kept.push((size, worth));
            for dropped in queue.push(vec![0; size], worths[usize::from(worth)], names[usize::from(worth)]) {
                let least = kept.iter().skip(1).map(|k| k.1).min().unwrap();
                assert_eq!(dropped, names[usize::from(least)]);
                let at = 1 + kept.iter().skip(1).position(|k| k.1 == least).unwrap();
                kept.remove(at);
            }
            assert!(kept.len() == 1 || kept.iter().map(|k| k.0).sum::<usize>() <= 200);
            assert_eq!(queue.len(), kept.len());
        }
        for (size, _) in kept {
            assert_eq!(queue.head().unwrap().0.len(), size);
            queue.pop();
        }
        assert!(queue.is_empty() && queue.head().is_none());
    }
}

#[test]
fn a_call_that_hangs_is_repeated_with_the_same_timestamp() {
    inside(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let moods = Mutex::new(vec![Mood::Take, Mood::TakeAndHang, Mood::Hang, Mood::Take]);
        let containerd = Arc::new(Containerd { moods, ..Containerd::default() });
        let _server = serve(&path, &containerd).await;
        let outbox = Outbox::with("k8s.io".into(), format!("unix://{}", path.display()), BOUND, QUICK);
        (0..6).for_each(|n| outbox.send(event(n)));
        outbox.drain(Duration::from_secs(5)).await;
        assert_all_in_order(&containerd, 6);
        assert!(containerd.seen.lock().unwrap().len() >= 7, "one of them arrived twice");
        assert!(containerd.namespaces.lock().unwrap().iter().all(|n| n == "k8s.io"));
    });
}

#[test]
fn events_of_an_outage_arrive_after_it_and_an_idle_connection_is_closed() {
    inside(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let containerd = Arc::new(Containerd::default());
        let outbox = Outbox::with("k8s.io".into(), path.display().to_string(), BOUND, QUICK);
        (0..100).for_each(|n| outbox.send(event(n)));
        outbox.drain(Duration::from_millis(30)).await;
        assert_eq!(outbox.0.queue().len(), 100);
        let mut server = serve(&path, &containerd).await;
        outbox.drain(Duration::from_secs(5)).await;
        assert_all_in_order(&containerd, 100);
        assert_eq!(containerd.seen.lock().unwrap().len(), 100);

        // A restart while nothing was under way: the next event finds the new one.
        server.shutdown().await.unwrap();
        drop(server);
        std::fs::remove_file(&path).unwrap();
        let _server = serve(&path, &containerd).await;
        outbox.send(event(100));
        outbox.drain(Duration::from_secs(5)).await;
        assert_all_in_order(&containerd, 101);

        let sockets =
            || std::fs::read_to_string("/proc/self/net/unix").unwrap().matches(path.to_str().unwrap()).count();
        let connected = sockets();
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while sockets() >= connected {
            assert!(tokio::time::Instant::now() < end, "{} then {}", connected, sockets());
            tokio::time::sleep(QUICK.idle).await;
        }
        outbox.send(event(101));
        outbox.drain(Duration::from_secs(5)).await;
        assert_all_in_order(&containerd, 102);
    });
}

#[test]
fn a_broken_event_does_not_hold_up_the_others() {
    inside(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let moods = Mutex::new(vec![Mood::Refuse(ttrpc::Code::INVALID_ARGUMENT); 5]);
        let containerd = Arc::new(Containerd { moods, ..Containerd::default() });
        let _server = serve(&path, &containerd).await;
        let outbox = Outbox::with("k8s.io".into(), path.display().to_string(), BOUND, QUICK);
        (0..3).for_each(|n| outbox.send(event(n)));
        outbox.drain(Duration::from_secs(5)).await;
        let topics: Vec<_> = containerd.seen.lock().unwrap().iter().map(|e| e.topic.clone()).collect();
        assert_eq!(topics, ["/tasks/start", "/tasks/exec-added"]);
    });
}

#[test]
fn without_an_address_nothing_waits() {
    inside(async {
        let outbox = Outbox::with("default".into(), String::new(), BOUND, QUICK);
        outbox.send(event(3));
        outbox.drain(Duration::from_secs(1)).await;
        assert!(outbox.0.queue().is_empty());
    });
}
