//! Specs, roots and bytes that are wrong or hostile: a clear error, nothing left, the neighbours untouched.

use integration::containerd::{IMAGE, LIMIT};
use integration::{Bed, Outcome, Output, cases, ensure, suite};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A root on disk with a shell in it.
fn root(bed: &Bed, name: &str) -> Outcome<PathBuf> {
    let root = bed.directory(name)?;
    for directory in ["bin", "proc", "sys", "dev", "tmp", "run"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::copy(integration::containerd::testbed().join("tools/bin/busybox"), root.join("bin/busybox"))?;
    for applet in ["sh", "true", "cat", "ls", "sleep"] {
        std::fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet))?;
    }
    Ok(root)
}

/// The spec that ctr makes, with this root and command.
fn spec(bed: &Bed, root: &Path, command: &[&str]) -> Outcome<Value> {
    let mut spec: Value = serde_json::from_str(&bed.ctr(&["oci", "spec"])?.ok()?.text())?;
    spec["root"] = json!({ "path": root });
    spec["process"]["args"] = json!(command);
    spec["process"]["env"] = json!(["PATH=/bin"]);
    Ok(spec)
}

/// A spec of a pod member: it goes to the shim where a neighbour lives.
fn in_pod(spec: &mut Value, pod: &str) {
    spec["annotations"] = json!({ "io.kubernetes.cri.sandbox-id": pod });
}

fn run_spec(bed: &Bed, id: &str, spec: &Value) -> Outcome<Output> {
    let mut spec = spec.clone();
    if spec["linux"].is_object() {
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", bed.containerd.namespace));
    }
    run_text(bed, id, &spec.to_string())
}

fn run_text(bed: &Bed, id: &str, text: &str) -> Outcome<Output> {
    let file = bed.directory("spec")?.join(format!("{id}.json"));
    std::fs::write(&file, text)?;
    bed.ctr(&["run", "--rm", "--runtime", bed.runtime().name(), "--config", file.to_str().ok_or("path")?, id])
}

/// Runs a spec in a pod beside a neighbour; it has to fail with one of the words, the neighbour has to live.
fn fails_beside_a_neighbour(bed: &Bed, words: &[&str], change: impl Fn(&mut Value)) -> Outcome {
    let pod = bed.id();
    let flags = ["--null-io", "--annotation", &format!("io.kubernetes.cri.sandbox-id={pod}")];
    let neighbour = bed.detached(&flags, &["sleep", "100000"])?;
    let pid = bed.pid(&neighbour)?;
    let root = root(bed, "root")?;
    let mut spec = spec(bed, &root, &["true"])?;
    in_pod(&mut spec, &pod);
    // What is right without the change has to work, or the failure proves nothing.
    run_spec(bed, &bed.id(), &spec)?.ok()?;
    change(&mut spec);
    let output = run_spec(bed, &bed.id(), &spec)?;
    ensure!(output.code != 0, "succeeded\n{}", output.report());
    let errors = output.errors();
    ensure!(words.iter().any(|words| errors.contains(words)), "none of {words:?}\n{}", output.report());
    let (now, status) = (bed.pid(&neighbour)?, bed.status(&neighbour)?);
    ensure!(now == pid && status.as_deref() == Some("RUNNING"), "the neighbour is {status:?}");
    bed.exec_sh(&neighbour, &[], "echo untouched")?.ok()?.says("untouched\n")?;
    Ok(())
}

fn config_that_is_no_json(bed: &Bed) -> Outcome {
    let whole = spec(bed, &root(bed, "root")?, &["true"])?.to_string();
    for text in [&whole[..whole.len() / 2], "", "null", "[]", "{\"ociVersion\":"] {
        let output = run_text(bed, &bed.id(), text)?;
        ensure!(output.code != 0 && output.errors().contains("ctr:"), "{}", output.report());
    }
    Ok(())
}

fn args_are_missing(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["args", "/process"], |spec| spec["process"]["args"] = json!([]))
}

fn process_is_missing(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["process"], |spec| spec["process"] = Value::Null)
}

fn namespace_of_an_unknown_kind(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["galaxy", "/linux/namespaces"], |spec| {
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.push(json!({ "type": "galaxy" }));
        }
    })
}

fn namespace_path_that_is_missing(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["/no/such/namespace"], |spec| {
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.retain(|entry| entry["type"] != "network");
            list.push(json!({ "type": "network", "path": "/no/such/namespace" }));
        }
    })
}

fn rlimit_of_an_unknown_name(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["RLIMIT_PATIENCE"], |spec| {
        spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_PATIENCE", "soft": 1, "hard": 1 }]);
    })
}

fn bind_source_that_is_missing(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["/no/such/source"], |spec| {
        if let Some(list) = spec["mounts"].as_array_mut() {
            let bind =
                json!({ "destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["rbind"] });
            list.push(bind);
        }
    })
}

fn sysctl_outside_the_namespaces(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["kernel.printk"], |spec| {
        spec["linux"]["sysctl"] = json!({ "kernel.printk": "1 1 1 1" });
    })
}

fn root_that_is_missing(bed: &Bed) -> Outcome {
    fails_beside_a_neighbour(bed, &["/no/such/root"], |spec| spec["root"]["path"] = json!("/no/such/root"))
}

fn root_that_is_a_link(bed: &Bed) -> Outcome {
    let root = root(bed, "real")?;
    let link = bed.directory("links")?.join("link");
    symlink(&root, &link)?;
    // Either it is refused, or followed once, on the host's side, to the directory meant; never anything else.
    let output = run_spec(bed, &bed.id(), &spec(bed, &link, &["ls", "/bin"])?)?;
    if output.code == 0 {
        output.says("busybox\n")?;
    } else {
        ensure!(output.errors().contains("link"), "{}", output.report());
    }
    Ok(())
}

/// Links in the root, where mounts go, that lead out of it: what they lead to must stay as it was.
fn links_at_mount_targets_stay_inside(bed: &Bed) -> Outcome {
    for (number, target) in ["/canary", "../../../../../../../../canary", "/proc/self/cwd/canary"].iter().enumerate() {
        let root = root(bed, &format!("root-{number}"))?;
        let outside = bed.directory(&format!("outside-{number}"))?;
        std::fs::write(outside.join("canary"), "untouched")?;
        let link = target.replace("canary", outside.join("canary").strip_prefix("/")?.to_str().ok_or("path")?);
        symlink(&link, root.join("mnt"))?;
        let source = bed.directory("source")?.join("file");
        std::fs::write(&source, "from the bind")?;
        let mut spec = spec(bed, &root, &["cat", "/mnt"])?;
        if let Some(list) = spec["mounts"].as_array_mut() {
            list.push(json!({ "destination": "/mnt", "type": "bind", "source": source, "options": ["bind"] }));
        }
        // It may fail or mount below the root; what it may not do is mount over, or write to, what is outside.
        run_spec(bed, &bed.id(), &spec)?;
        let canary = std::fs::read_to_string(bed.containerd.host.path(outside.join("canary")))?;
        ensure!(canary == "untouched", "the canary holds {canary:?}");
        let mounts = std::fs::read_to_string(bed.containerd.host.path("/proc/1/mountinfo"))?;
        ensure!(!mounts.contains("canary"), "something was mounted over the canary");
    }
    Ok(())
}

fn link_at_a_directory_target_stays_inside(bed: &Bed) -> Outcome {
    for name in ["proc", "sys", "dev"] {
        let root = root(bed, &format!("root-{name}"))?;
        let outside = bed.directory(&format!("outside-{name}"))?;
        std::fs::write(outside.join("canary"), "untouched")?;
        std::fs::remove_dir(root.join(name))?;
        symlink(&outside, root.join(name))?;
        run_spec(bed, &bed.id(), &spec(bed, &root, &["true"])?)?;
        let left: Vec<_> =
            std::fs::read_dir(bed.containerd.host.path(&outside))?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left == ["canary"], "through /{name} the outside has become {left:?}");
        let mounts = std::fs::read_to_string(bed.containerd.host.path("/proc/1/mountinfo"))?;
        ensure!(!mounts.contains(&format!("outside-{name}")), "something was mounted outside");
    }
    Ok(())
}

fn id_of_a_thousand_characters(bed: &Bed) -> Outcome {
    let id = "x".repeat(1000);
    let output = bed.ctr(&bed.run_words(&id, &["--rm"], &["true"]))?;
    ensure!(output.code != 0, "{}", output.report());
    Ok(())
}

fn ids_that_climb(bed: &Bed) -> Outcome {
    for id in ["../up", "..", "a/b", "-", ""] {
        let output = bed.ctr(&["run", "--rm", "--runtime", bed.runtime().name(), IMAGE, id, "true"])?;
        ensure!(output.code != 0, "{}", output.report());
    }
    Ok(())
}

/// The address of a container's shim, from what containerd or the shim keep in the bundle.
fn socket(bed: &Bed, id: &str) -> Outcome<PathBuf> {
    let bundle = bed.containerd.bundle(id);
    let text = std::fs::read_to_string(bundle.join("bootstrap.json"))
        .or_else(|_| std::fs::read_to_string(bundle.join("address")))?;
    let start = text.find("unix://").ok_or("no address")? + "unix://".len();
    let path: String = text[start..].chars().take_while(|letter| !matches!(letter, '"' | '\n')).collect();
    Ok(bed.containerd.host.path(path))
}

fn garbage_on_the_shims_socket(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let socket = socket(bed, &id)?;
    let header = |length: u32, stream: u32, kind: u8| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(stream.to_be_bytes());
        bytes.extend([kind, 0]);
        bytes
    };
    let frames: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        vec![0; 4096],
        header(0xffff_ffff, 1, 1),
        header(16, 1, 1),
        [header(16, 1, 1), vec![0xff; 16]].concat(),
        [header(4, 2, 9), vec![1, 2, 3, 4]].concat(),
        [header(3, 1, 1), vec![0x0a, 0x7f, 0x00]].concat(),
    ];
    for frame in &frames {
        for _ in 0..5 {
            let mut stream = UnixStream::connect(&socket)?;
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            // The shim may hang up before it has read all: that is an answer too.
            let _ = stream.write_all(frame);
            let _ = stream.read(&mut [0; 256]);
        }
    }
    // Half a frame that never ends, held open while the others work.
    let mut half = UnixStream::connect(&socket)?;
    half.write_all(&header(1000, 1, 1)[..7])?;
    bed.exec_sh(&id, &[], "echo still served")?.ok()?.says("still served\n")?;
    drop(half);
    let status = bed.status(&id)?;
    ensure!(status.as_deref() == Some("RUNNING"), "the container is {status:?}");
    bed.delete(&id, &["--force"], 137)
}

fn many_connections_to_the_shim(bed: &Bed) -> Outcome {
    let id = bed.sleeper()?;
    let socket = socket(bed, &id)?;
    let streams: Vec<_> = (0..200).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    bed.exec_sh(&id, &[], "echo still served")?.ok()?.says("still served\n")?;
    drop(streams);
    let shim = bed.shim(&id)?;
    integration::eventually(LIMIT, || {
        let open = integration::residue::descriptors(&bed.containerd, shim)?.len();
        ensure!(open < 100, "{open} descriptors are still open");
        Ok(())
    })
}

fn main() {
    suite::run(
        "bad_input",
        cases![
            config_that_is_no_json,
            args_are_missing,
            process_is_missing,
            namespace_of_an_unknown_kind,
            namespace_path_that_is_missing,
            rlimit_of_an_unknown_name,
            bind_source_that_is_missing,
            sysctl_outside_the_namespaces,
            root_that_is_missing,
            root_that_is_a_link,
            links_at_mount_targets_stay_inside,
            link_at_a_directory_target_stays_inside,
            id_of_a_thousand_characters,
            ids_that_climb,
            garbage_on_the_shims_socket,
            many_connections_to_the_shim,
        ],
    );
}
