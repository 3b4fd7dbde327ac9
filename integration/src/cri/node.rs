//! A containerd made a node: CRI with its handlers, a network, the images; and another version in its place.

use super::with;
use crate::containerd::LIMIT;
use crate::{Bed, Containerd, Outcome, Runtime, Version, client};
use serde_json::{Value, json};
use std::sync::Arc;

/// The image of pods' first containers.
pub const PAUSE: &str = "docker.io/library/mini-pause:latest";
/// A tmpfs of each host: CNI's own caches have their place built in.
const CNI: &str = "/var/lib/cni";

/// Every handler of a containerd. The `runtime_path` of 1.6 is not for shims of v2: it is read and ignored.
pub fn handlers(containerd: &Containerd) -> &'static [&'static str] {
    match (containerd.runtime, containerd.version) {
        (Runtime::Runc, _) => &["runc"],
        (Runtime::Mini, Version::C1_6) => &["mini", "mini-options"],
        (Runtime::Mini, _) => &["mini", "mini-options", "mini-path"],
    }
}

/// Makes a containerd a node: CRI with the handlers, a bridge network, the images in Kubernetes' namespace.
pub fn prepare(containerd: &Arc<Containerd>) -> Outcome {
    set_up(containerd, &[], "")?;
    // What a first pod makes and every later one uses: the bridge, directories.
    let warm = Bed::new(containerd.clone(), "warm-up");
    with(&warm, |cri| cri.pod(json!({}))?.output("one", "true", json!({})).map(drop))?;
    containerd.note_before()
}

/// The same up to the images, with more plugins behind the bridge and more tables in containerd's configuration.
pub fn set_up(containerd: &Containerd, plugins: &[Value], more: &str) -> Outcome {
    let tables = tables(containerd, containerd.version)?;
    let script =
        "mkdir -p \"$0\" && mount -t tmpfs tmpfs \"$0\" && mkdir \"$0/net.d\" && cat >\"$0/net.d/bridge.conflist\"";
    let mut setup = client::start(
        containerd.host.command(Some(LIMIT), &[], &["sh", "-c", script, CNI]),
        "setup of CNI".to_owned(),
        LIMIT,
    )?;
    setup.write(network(plugins).to_string().as_bytes())?;
    drop(setup.take_stdin());
    setup.wait()?.ok()?;
    containerd.restart_with_cri(format(containerd.version), "", &(tables + more))?;
    import(containerd)
}

/// The format of config.toml that a version is given.
pub fn format(version: Version) -> u32 {
    if version.is_1() { 2 } else { 3 }
}

/// Starts another version in the place of a node's containerd that was killed, configured for it.
pub fn replaced_by(containerd: &Containerd, version: Version) -> Outcome {
    containerd.start_with_cri(version, format(version), &tables(containerd, version)?)
}

/// Puts the images into Kubernetes' namespace.
pub fn import(containerd: &Containerd) -> Outcome {
    ["cri/pause.tar", "image/busybox.tar"].iter().try_for_each(|archive| import_one(containerd, archive))
}

/// Puts another archive of the test bed there.
pub fn import_one(containerd: &Containerd, archive: &str) -> Outcome {
    let archive = crate::containerd::testbed().join(archive).display().to_string();
    let words = ["--namespace", "k8s.io", "images", "import", "--snapshotter", "overlayfs", &archive];
    containerd.ctr(&words)?.ok().map(drop)
}

/// The tables of config.toml for a version.
fn tables(containerd: &Containerd, version: Version) -> Outcome<String> {
    // One plugin in 1.x.
    let (images, runtime) = match version {
        version if version.is_1() => ("io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
        _ => ("io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"),
    };
    let sandbox = match version {
        version if version.is_1() => format!("sandbox_image = {PAUSE:?}"),
        _ => format!("[plugins.\"{images}\".pinned_images]\nsandbox = {PAUSE:?}\n[plugins.\"{runtime}\"]"),
    };
    let plugins = crate::containerd::testbed().join("cri/cni");
    let bin = match version {
        version if version.is_1() => format!("bin_dir = {plugins:?}"),
        _ => format!("bin_dirs = [{plugins:?}]"),
    };
    // Of 2.0 and newer: an exec sync whose grandchildren keep its pipes is answered after this time.
    let drain = if version == Version::C1_6 { "" } else { "drain_exec_sync_io_timeout = \"2s\"" };
    let shim = crate::containerd::bin_dir()?.join("containerd-shim-mini-v2");
    let default = handler(containerd.runtime);
    // This root may lack CAP_SYS_RESOURCE, as in nested containers: then no score can be lowered.
    let mut text = format!(
        r#"[plugins."{images}"]
{sandbox}
restrict_oom_score_adj = true
{drain}
[plugins."{runtime}".cni]
{bin}
conf_dir = "{CNI}/net.d"
[plugins."{runtime}".containerd]
default_runtime_name = "{default}"
"#
    );
    let mut add = |name: &str, kind: &str, more: &str| {
        let table = format!("[plugins.\"{runtime}\".containerd.runtimes.{name}");
        text += &format!(
            "{table}]\nruntime_type = \"{kind}\"\n{}\n",
            more.replace("[options]", &format!("{table}.options]"))
        );
    };
    let (mini, runc) = (Runtime::Mini.name(), Runtime::Runc.name());
    for name in handlers(containerd) {
        match *name {
            "mini" => add(name, mini, ""),
            // All keys of runc's table in the default configuration of 1.7, as people copy it.
            "mini-options" => add(
                name,
                mini,
                "[options]\nBinaryName = \"\"\nCriuImagePath = \"\"\nCriuPath = \"\"\nCriuWorkPath = \"\"\nIoGid = 4322\n\
                 IoUid = 4321\nNoNewKeyring = false\nNoPivotRoot = false\nRoot = \"\"\nShimCgroup = \"\"\nSystemdCgroup = false",
            ),
            "mini-path" => add(name, runc, &format!("runtime_path = {shim:?}\n[options]\nSystemdCgroup = false")),
            _ => add(name, runc, ""),
        }
    }
    Ok(text)
}

fn network(more: &[Value]) -> Value {
    let ipam = json!({ "type": "host-local", "dataDir": format!("{CNI}/ipam"),
        "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] });
    let bridge = json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam });
    let plugins: Vec<Value> = [bridge, json!({ "type": "loopback" })].into_iter().chain(more.iter().cloned()).collect();
    json!({ "cniVersion": "0.4.0", "name": "bridge", "plugins": plugins })
}

/// The handler that tests use where they do not say another.
pub fn handler(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Mini => "mini",
        Runtime::Runc => "runc",
    }
}
