//! Images and snapshots that make unusual mounts.

use integration::containerd::testbed;
use integration::{Bed, Outcome, ensure};
use std::path::Path;
use std::process::Command;

/// So many that the directories of an overlay do not fit into a page, even if each were named by a number.
const LAYERS: usize = 120;

/// Adds layers to the busybox image: each one has a file of its own and replaces `/layers/top`.
fn pack(bed: &Bed) -> Outcome<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/add-layers");
    let image = bed.directory("image")?.join("layers.tar").display().to_string();
    let output = Command::new(script)
        .arg(testbed().join("image/busybox.tar"))
        .args(["docker.io/library/mini-layers:latest", &LAYERS.to_string(), &image])
        .output()?;
    ensure!(output.status.success(), "add-layers: {}", String::from_utf8_lossy(&output.stderr));
    Ok(image)
}

pub fn many_layers(bed: &Bed) -> Outcome {
    let archive = pack(bed)?;
    bed.ctr(&["images", "import", "--snapshotter", "overlayfs", &archive])?.ok()?;
    let id = bed.id();
    let flags = ["run", "--rm", "--runtime", bed.runtime().name(), "docker.io/library/mini-layers:latest", &id];
    let script = "cat /layers/top; ls /layers | wc -l; echo changed > /layers/top; cat /layers/top; grep -c ' / / ' /proc/self/mountinfo";
    let output = bed.ctr(&[&flags[..], &["sh", "-c", script]].concat())?.ok()?;
    let expected = format!("{LAYERS}\n{}\nchanged\n1\n", LAYERS + 1);
    ensure!(output.text() == expected, "{}", output.report());
    // The layers themselves are as before.
    let again = bed.id();
    let flags = ["run", "--rm", "--runtime", bed.runtime().name(), "docker.io/library/mini-layers:latest", &again];
    bed.ctr(&[&flags[..], &["cat", "/layers/top"]].concat())?.ok()?.says(&format!("{LAYERS}\n"))?;
    bed.ctr(&["images", "rm", "docker.io/library/mini-layers:latest"])?.ok()?;
    Ok(())
}

/// The snapshotter leaves owners as they are on disk and asks for a mount with mapped ones.
pub fn snapshots_with_mapped_owners(bed: &Bed) -> Outcome {
    let maps = ["--remap-labels", "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
    let flags = [&["--null-io"], &maps[..]].concat();
    let id = bed.detached(&flags, &["sh", "-c", "touch /tmp/made; sleep 100000"])?;
    let script = "id -u; stat -c %u:%g /bin/sh /home/user /tmp/made; cat /proc/self/uid_map";
    let output = bed.exec_sh(&id, &[], script)?.ok()?;
    let words: Vec<String> = output.text().split_whitespace().map(str::to_owned).collect();
    ensure!(words == ["0", "0:0", "1000:1000", "0:0", "0", "100000", "65536"], "{}", output.report());
    // On disk the image's file is root's: nobody has copied and given it away.
    let mounts = bed.ctr(&["snapshot", "--snapshotter", "overlayfs", "mounts", "/target", &id])?.ok()?.text();
    let option = |name: &str| {
        let rest = mounts.split(&format!("{name}=")).nth(1)?;
        Some(rest.split([',', ':', ' ', '\n']).next()?.to_owned())
    };
    let lower = option("lowerdir").ok_or_else(|| format!("no lowerdir in {mounts}"))?;
    let upper = option("upperdir").ok_or_else(|| format!("no upperdir in {mounts}"))?;
    let owner = |path: String| -> Outcome<(u32, u32)> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::symlink_metadata(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok((file.uid(), file.gid()))
    };
    let (of_image, of_container) = (owner(format!("{lower}/bin/sh"))?, owner(format!("{upper}/tmp/made"))?);
    ensure!(of_image == (0, 0), "the image's file belongs to {of_image:?}");
    ensure!(of_container == (100_000, 200_000), "the container's file belongs to {of_container:?}");
    Ok(())
}
