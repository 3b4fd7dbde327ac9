//! Putting a detached mount in its place.

use super::compile::Compiler;
use super::rootfs::{DIRECTORY, PLACE};
use super::{Dir, Op, Slot};

impl Compiler<'_> {
    /// Moves `tree` to `place`. Of a directory that goes on a file, and the other way round, move_mount(2) says EINVAL, as
    /// it does of much else; mount(2) says ENOTDIR, and clients know what to tell their users of that ("are you trying to
    /// mount a directory onto a file?"). So whichever of the two is no directory, while the other is, is named.
    pub(super) fn move_to(&mut self, tree: Slot, place: Slot) {
        let (look, file, again, done) = (self.b.label(), self.b.label(), self.b.label(), self.b.label());
        let (dot, probe) = (self.b.str("."), self.b.scratch("directory"));
        let directory =
            |of| Op::Open { dir: Dir::At(of), path: dot, flags: PLACE | DIRECTORY, mode: 0, resolve: 0, into: probe };
        self.b.op_on(Op::MoveMount { from: tree, to: place }, &[(0, done), (libc::EINVAL, look)]);
        self.b.bind(look);
        self.b.op_on(directory(tree), &[(libc::ENOTDIR, file)]);
        self.b.op_on(directory(place), &[(0, again)]);
        self.b.bind(file);
        self.b.op_on(directory(place), &[(libc::ENOTDIR, again)]);
        self.b.op(directory(tree));
        self.b.bind(again);
        self.b.op(Op::MoveMount { from: tree, to: place });
        self.b.bind(done);
    }
}
