//! Tells the linker where the shim begins (`sys/early/start.rs` of the runtime).
#![forbid(unsafe_code)]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bin=containerd-shim-mini-v2=-Wl,--entry=begin_start");
}
