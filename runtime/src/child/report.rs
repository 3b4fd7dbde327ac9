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
}

impl Page {
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

/// The size of a mapping; the kernel rounds it up to a page anyway.
const LENGTH: usize = 4096;

impl Report {
    /// Maps a fresh page (mmap(2) MAP_SHARED|MAP_ANONYMOUS), or one of `file` for a child whose start comes from another
    /// process.
    pub fn new(file: Option<&std::fs::File>) -> Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address = unsafe {
            match file {
                None => mmap_anonymous(std::ptr::null_mut(), LENGTH, prot, MapFlags::SHARED),
                Some(file) => mmap(std::ptr::null_mut(), LENGTH, prot, MapFlags::SHARED, file, 0),
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
        self.page.step.load(Ordering::Acquire) as usize
    }

    /// The errno of a failed step, 0 if none has failed.
    pub fn errno(&self) -> i32 {
        self.page.errno.load(Ordering::Acquire)
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
        // SAFETY: `page` is the start of a mapping of LENGTH bytes made in `new`, and nothing else refers to it any more.
        let _unmapped = unsafe { rustix::mm::munmap(std::ptr::from_ref(self.page).cast_mut().cast(), LENGTH) };
    }
}
