//! A flame graph of what `perf script` prints: which program, and in it which calls, have how much of the samples.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A function with what it called.
#[derive(Default)]
struct Frame {
    samples: u64,
    calls: BTreeMap<String, Frame>,
}

const WIDTH: f64 = 1200.0;
const ROW: usize = 17;

/// Of all programs but those named in `others`: an SVG.
///
/// A sample is a line that begins with the program's name, then one line per frame, the innermost first, then an empty
/// line (perf-script(1)).
pub fn graph(script: &str, others: &[&str]) -> String {
    let mut root = Frame::default();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.is_empty());
        let Some(head) = lines.next() else { continue };
        let program = head.split_whitespace().next().unwrap_or_default();
        if others.contains(&program) {
            continue;
        }
        let mut frames: Vec<&str> = lines.filter_map(function).collect();
        // One nameless frame is as good as twenty: a stripped program has no other.
        frames.dedup_by(|a, b| a == b && *a == "[unknown]");
        frames.push(program);
        root.samples += 1;
        let mut at = &mut root;
        for frame in frames.into_iter().rev() {
            at = at.calls.entry(frame.to_owned()).or_default();
            at.samples += 1;
        }
    }
    let depth = deepest(&root);
    let height = ROW * (depth + 2);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" \
         font-size=\"11\">\n<text x=\"4\" y=\"12\" fill=\"#777\">{} samples</text>\n",
        root.samples
    );
    draw(&mut text, &root, 0.0, WIDTH / root.samples.max(1) as f64, height);
    text + "</svg>\n"
}

/// `ffff… name+0x12 (object)`: the name.
fn function(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().split_once(' ')?;
    let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
    Some(name.rsplit_once("+0x").map_or(name, |(name, _)| name))
}

fn deepest(frame: &Frame) -> usize {
    frame.calls.values().map(|call| 1 + deepest(call)).max().unwrap_or(0)
}

/// What a frame calls, above it, side by side.
fn draw(text: &mut String, frame: &Frame, mut x: f64, scale: f64, floor: usize) {
    for (name, call) in &frame.calls {
        let width = call.samples as f64 * scale;
        // Narrower than a pixel there is nothing to see.
        if width >= 1.0 {
            let y = floor - ROW;
            let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            // As many characters as fit, at 6.7 pixels each.
            let shown: String = if name.contains('&') && width < 6.7 * name.len() as f64 {
                String::new()
            } else {
                name.chars().take((width / 6.7) as usize).collect()
            };
            let hue = 10 + name.bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 45);
            let _ok = writeln!(
                text,
                "<g><title>{name}: {}</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" \
                 fill=\"hsl({hue},85%,62%)\" stroke=\"#fff\" stroke-width=\"0.5\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{shown}</text></g>",
                call.samples,
                ROW - 1,
                x + 2.0,
                y + 12,
            );
            draw(text, call, x, scale, y);
        }
        x += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
mini 12 3.4: 250000 cpu-clock:
\tffff01 sys_mount+0x12 ([kernel.kallsyms])
\tffff02 do_syscall_64+0x3 ([kernel.kallsyms])

sh 13 3.5: 250000 cpu-clock:
\tffff03 sys_read+0x1 ([kernel.kallsyms])

mini 12 3.6: 250000 cpu-clock:
\tffff04 <alloc>::grow+0x1 (/bin/mini)
\tffff02 do_syscall_64+0x3 ([kernel.kallsyms])
";

    #[test]
    fn frames_are_stacked_and_counted() {
        let svg = graph(SCRIPT, &["sh"]);
        assert!(svg.contains("2 samples"), "{svg}");
        assert!(svg.contains("<title>mini: 2</title>") && svg.contains("<title>do_syscall_64: 2</title>"), "{svg}");
        assert!(svg.contains("<title>sys_mount: 1</title>"), "{svg}");
        assert!(svg.contains("<title>&lt;alloc&gt;::grow: 1</title>"), "{svg}");
        assert!(!svg.contains("sys_read"), "{svg}");
        assert!(graph(SCRIPT, &[]).contains("<title>sys_read: 1</title>"));
    }
}
