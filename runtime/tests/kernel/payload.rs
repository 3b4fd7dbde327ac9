//! What runs inside of containers: the test's own static binary under another name.

use std::ptr;

/// Tells a payload from a test run; the next arguments are the mode and what it takes.
pub const WORD: &str = "from-inside";

/// Plays the payload if this process is one.
pub fn play() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [WORD, "huge", pages, reserve] => huge(pages.parse().unwrap(), reserve == "reserved"),
        [WORD, ..] => panic!("no such payload: {args:?}"),
        _ => {}
    }
}

/// Maps huge pages one by one and touches each. Says how many there were when mmap(2) refused; a page that is mapped
/// without a reservation and then not to be had is SIGBUS.
fn huge(pages: usize, reserved: bool) -> ! {
    const SIZE: usize = 2 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    let flags = flags | if reserved { 0 } else { libc::MAP_NORESERVE };
    for page in 0..pages {
        // SAFETY: a new mapping, which overlaps nothing.
        let at = unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            println!("{page} pages, then {}", std::io::Error::last_os_error());
            std::process::exit(0);
        }
        // SAFETY: the first byte of the mapping just made.
        unsafe { at.cast::<u8>().write_volatile(1) };
    }
    println!("all {pages} pages");
    std::process::exit(0);
}
