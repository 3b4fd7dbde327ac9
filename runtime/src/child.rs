//! The child between clone3 and execve, and the parent's side of it.
//!
//! Everything the child touches is allocated before the clone; it makes raw system calls only, never allocates, locks,
//! logs or panics, and says no more than `(step, errno)` in a page it shares with the parent.

pub mod call;
pub mod clone;
pub mod gate;
pub mod hook;
pub mod image;
pub mod keeper;
mod made;
pub mod outside;
pub mod raised;
pub mod report;
pub mod run;

pub use clone::{Maker, THREADS, spawn, spawn_by_thread};
pub use gate::{Heard, Wire};
pub use image::Image;
pub use keeper::Keeper;
pub use report::Report;
