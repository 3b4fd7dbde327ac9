//! The page that a child shares with its parent: all that a child ever says.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::error::{Error, Result};

/// What the page holds.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Page {
    /// Index of the step being carried out, in the child's section.
    pub step: AtomicU32,
    /// Why that step failed; 0 while nothing has.
    pub errno: AtomicI32,
    /// What some steps tell beside it: a hook's wait status, the number of a descriptor.
    pub value: AtomicU32,
    /// Who goes on after a step that respawned; 0 while none has.
    pub pid: AtomicU32,
    /// Whether the parent has let the child go ahead of time, and whether that waits for it: [`Page::may_go`].
    ahead: AtomicU32,
    /// The end of what a hook that has failed had said.
    words: Words,
}

/// Text of at most so many bytes, four in each; what is left is 0.
#[repr(transparent)]
#[derive(Debug)]
struct Words([AtomicU32; Page::WORDS / 4]);

impl Default for Words {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::default()))
    }
}

/// Values of [`Page::ahead`].
const WAITS: u32 = 1;
const LET_GO: u32 = 2;

impl Page {
    /// How many bytes of words it takes.
    pub const WORDS: usize = 512;

    /// Keeps a hook's last words, no more than [`Page::WORDS`] of them.
    pub fn keep_words(&self, said: &[u8; Self::WORDS]) {
        for (word, bytes) in self.words.0.iter().zip(said.as_chunks::<4>().0) {
            word.store(u32::from_ne_bytes(*bytes), Ordering::Release);
        }
    }

    /// They, without the white space around them; empty if there are none.
    pub fn words(&self) -> String {
        let bytes: Vec<u8> = self.words.0.iter().flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()
    }

    /// Whether the parent has let the child go already. If not, it will say so on the wire.
    ///
    /// Else it says nothing there: to read its byte would wake it, asleep until it hears of the execve (a socket's reader
    /// tells the writer that there is room again), and cost the child 15 us.
    pub fn may_go(&self) -> bool {
        self.ahead.swap(WAITS, Ordering::AcqRel) == LET_GO
    }

    /// Lets the child go. True if it waits on the wire.
    pub fn let_go(&self) -> bool {
        self.ahead.swap(LET_GO, Ordering::AcqRel) == WAITS
    }

    /// What a child has said that shares the beginning of a file with whoever reads it.
    ///
    /// # Errors
    /// Those of pread(2); a file that is too short says nothing.
    pub fn read(file: &std::fs::File) -> std::io::Result<Self> {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; size_of::<Self>()];
        file.read_at(&mut bytes, 0)?;
        let word = |i: usize| bytes[4 * i..][..4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
        Ok(Self {
            step: word(0).into(),
            errno: word(1).cast_signed().into(),
            value: word(2).into(),
            pid: word(3).into(),
            words: Words(std::array::from_fn(|i| word(5 + i).into())),
            ..Self::default()
        })
    }

    /// The step that is being carried out or was the last.
    pub fn step(&self) -> usize {
        self.step.load(Ordering::Acquire) as usize
    }

    /// The errno of a failed step, 0 if none has failed.
    pub fn errno(&self) -> i32 {
        self.errno.load(Ordering::Acquire)
    }

    /// What the last step told beside it.
    pub fn value(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }
}

/// Owner of one shared page.
#[derive(Debug)]
pub struct Report {
    page: &'static Page,
}

impl Report {
    /// The size of a mapping; the kernel rounds it up to a page anyway.
    pub const LENGTH: usize = 4096;

    /// Maps a fresh page (mmap(2) MAP_SHARED|MAP_ANONYMOUS), or one of `file` for a child whose start comes from another
    /// process.
    pub fn new(file: Option<&std::fs::File>) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            match file {
                None => mmap_anonymous(std::ptr::null_mut(), Self::LENGTH, prot, MapFlags::SHARED),
                Some(file) => mmap(std::ptr::null_mut(), Self::LENGTH, prot, MapFlags::SHARED, file, 0),
            }
        }
        .map_err(|e| Error::sys("mmap", "report page", e))?;
        // SAFETY: the mapping is zeroed (or a file of at least this length that only we write), page-aligned, larger than
        // Page, made of atomics, and lives until Drop, which the borrow of `page` never outlives: it does not leave `self`.
        let page = unsafe { &*address.cast::<Page>() };
        Ok(Self { page })
    }

    /// The page itself.
    pub fn page(&self) -> &Page {
        self.page
    }

    /// The step that is being carried out or was the last.
    pub fn step(&self) -> usize {
        self.page.step()
    }

    /// The errno of a failed step, 0 if none has failed.
    pub fn errno(&self) -> i32 {
        self.page.errno()
    }

    /// What the last step told beside it.
    pub fn value(&self) -> u32 {
        self.page.value()
    }

    /// The pid of the process that went on after a respawn, as its predecessor saw it.
    pub fn pid(&self) -> u32 {
        self.page.pid.load(Ordering::Acquire)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // SAFETY: `page` is the start of a mapping of Self::LENGTH bytes made in `new`, and nothing else refers to it any more.
        let _unmapped = unsafe { rustix::mm::munmap(std::ptr::from_ref(self.page).cast_mut().cast(), Self::LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_second_knows_of_the_first() {
        let early = Page::default();
        assert!(!early.let_go(), "nobody waits: nothing is to be said on the wire");
        assert!(early.may_go());
        let late = Page::default();
        assert!(!late.may_go());
        assert!(late.let_go(), "it waits on the wire");
    }

    /// Nobody waits for a word that is not said, whoever is first.
    #[test]
    fn one_of_two_at_once_is_first() {
        for _ in 0..2000 {
            let (page, gate) = (Page::default(), std::sync::Barrier::new(2));
            let (goes, said) = std::thread::scope(|scope| {
                let child = scope.spawn(|| {
                    gate.wait();
                    page.may_go()
                });
                gate.wait();
                let said = page.let_go();
                (child.join().unwrap(), said)
            });
            assert_ne!(goes, said);
        }
    }

    #[test]
    fn what_is_said_through_a_file_is_read_from_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(Report::LENGTH as u64).unwrap();
        let report = Report::new(Some(&file)).unwrap();
        report.page().step.store(70_000, Ordering::Release);
        report.page().errno.store(-5, Ordering::Release);
        report.page().value.store(u32::MAX, Ordering::Release);
        report.page().pid.store(3, Ordering::Release);
        let page = Page::read(&file).unwrap();
        assert_eq!((page.step(), page.errno(), page.value()), (70_000, -5, u32::MAX));
        assert_eq!(page.pid.load(Ordering::Acquire), 3);
        let empty = Page::read(&tempfile::tempfile().unwrap()).unwrap();
        assert_eq!((empty.step(), empty.errno()), (0, 0));
    }
}
