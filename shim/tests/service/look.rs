//! Looking at a container: the kernel's numbers, cheaply, and nothing stays open for it.
//!
//! `cargo test --release -p containerd-shim-mini-v2 --test service look -- --nocapture` prints what a call costs the shim;
//! `MINI_CALLS=5000` makes it more exact (the clock ticks every 10 ms).

use containerd_shim_protos::api;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::Message;
use runtime::cgroup::Layout;
use serde_json::json;

use crate::bed::{Bed, limit, until};
use crate::on_loop;

/// User and system time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}

fn count(pid: u32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count()
}

async fn stats(bed: &Bed, id: &str) -> Vec<u8> {
    let request = api::StatsRequest { id: id.to_owned(), ..Default::default() };
    bed.task.stats(limit(), &request).await.unwrap().stats.value.clone()
}

/// A file of the container's group on some version 1 hierarchy, or on version 2.
fn kernel(id: &str, controller: &str, file: &str) -> String {
    let layout = Layout::read().unwrap();
    let record = layout.place(&format!("/mini-test/{id}"), "").unwrap();
    let has = |p: &&runtime::cgroup::Place| p.controllers.iter().any(|c| c == controller);
    let dir = record.v1.iter().find(has).or(record.unified.as_ref()).unwrap().dir();
    std::fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn look_is_cheap_and_leaves_nothing_open() {
    on_loop(async {
        let Some(bed) = Bed::new("look").await else { return };
        let id = bed.id("a");
        let request = bed.request(&id, "exec sleep 1000", |spec| {
            spec["linux"]["resources"] = json!({"pids": {"limit": 33}, "memory": {"limit": 64 << 20}});
        });
        bed.task.create(limit(), &request).await.unwrap();
        bed.start(&id, "").await.unwrap();

        stats(&bed, &id).await;
        // The start's worker has answered before it ends.
        until(|| count(bed.shim, "task") == 1, || "a worker stays".into()).await;
        let files = count(bed.shim, "fd");
        let calls: u64 = std::env::var("MINI_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
        let mut last = Vec::new();
        for what in ["State", "Pids", "Stats"] {
            let before = ticks(bed.shim);
            for _ in 0..calls {
                match what {
                    "State" => drop(bed.state(&id, "").await.unwrap()),
                    "Pids" => {
                        let request = api::PidsRequest { id: id.clone(), ..Default::default() };
                        assert_eq!(bed.task.pids(limit(), &request).await.unwrap().processes.len(), 1);
                    }
                    _ => last = stats(&bed, &id).await,
                }
            }
            println!("{what}: {} µs of CPU a call", (ticks(bed.shim) - before) * 10_000 / calls);
        }
        assert!(count(bed.shim, "fd") > files, "files are kept while they are asked for");
        assert_eq!(count(bed.shim, "task"), 1);
        until(|| count(bed.shim, "fd") <= files, || "the files stay open".into()).await;

        agree(&bed, &id, last).await;
        bed.kill(&id, "", 9).await.unwrap();
        bed.wait(&id, "").await.unwrap();
        bed.delete(&id, "").await.unwrap();
    });
}

/// The limits are those given, and the numbers the kernel's, once these stand still for the time between two looks.
async fn agree(bed: &Bed, id: &str, mut last: Vec<u8>) {
    let number = |controller, file| kernel(id, controller, file).trim().parse::<u64>().unwrap();
    for _ in 0..1000 {
        let same = if Layout::read().unwrap().is_unified() {
            let m = v2::Metrics::parse_from_bytes(&last).unwrap();
            let given = (m.pids.limit, m.memory.usage_limit, m.pids.current) == (33, 64 << 20, 1);
            assert_eq!(m.memory.swap_limit, u64::MAX, "max");
            given && m.memory.usage == number("memory", "memory.current")
        } else {
            let m = v1::Metrics::parse_from_bytes(&last).unwrap();
            let given = (m.pids.limit, m.memory.usage.limit, m.pids.current) == (33, 64 << 20, 1);
            given
                && m.memory.usage.usage == number("memory", "memory.usage_in_bytes")
                && m.cpu.usage.total == number("cpuacct", "cpuacct.usage")
        };
        if same {
            return;
        }
        // A task that has just ended is still counted for a moment.
        last = stats(bed, id).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the numbers are not the kernel's");
}
