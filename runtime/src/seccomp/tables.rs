//! System calls by name: which number a name has on which architecture.

use super::Arch;

mod names;

/// One name with its number on x86-64, i386, x32, arm64 and arm.
type Row = (&'static str, [u16; 5]);

/// The architecture has no call of that name.
const NONE: u16 = u16::MAX;

/// Bit 30 marks a call of the x32 ABI (`__X32_SYSCALL_BIT` of asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// arm's private calls (`__ARM_NR_BASE` of asm/unistd.h): far above the table's numbers, so they stand apart.
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0x000f_0001),
    ("cacheflush", 0x000f_0002),
    ("usr26", 0x000f_0003),
    ("usr32", 0x000f_0004),
    ("set_tls", 0x000f_0005),
    ("get_tls", 0x000f_0006),
];

/// The system call of a name, on every architecture at once, so that a name is looked up once per profile.
#[derive(Clone, Copy)]
pub(super) struct Call {
    numbers: [u16; 5],
    private: Option<u32>,
}

/// A search in a sorted table for one name after the other. Profiles list their names sorted, so the next one is mostly a row
/// or two further on; the one that is not costs a binary search.
#[derive(Default)]
pub(super) struct Cursor(usize);

impl Cursor {
    /// The row of this name.
    pub(super) fn find<T>(&mut self, table: &[T], key: impl Fn(&T) -> &str, name: &str) -> Option<usize> {
        const NEAR: usize = 6;
        let before = |row: &T| key(row) < name;
        let rest = match self.0 {
            at if at > 0 && !before(&table[at - 1]) => 0,
            at => at,
        };
        let step = table[rest..].iter().take(NEAR).take_while(|row| before(row)).count();
        self.0 = rest + if step < NEAR { step } else { table[rest..].partition_point(before) };
        table.get(self.0).is_some_and(|row| key(row) == name).then_some(self.0)
    }
}

impl Call {
    /// The call of this name; one without any number if no architecture of the table has it.
    pub(super) fn named(name: &str) -> Self {
        Self::found(name, &mut Cursor::default())
    }

    /// The same for one of many names.
    pub(super) fn found(name: &str, cursor: &mut Cursor) -> Self {
        let row = cursor.find(names::NAMES, |row| row.0, name);
        let private = ARM_PRIVATE.iter().find(|p| p.0 == name).map(|p| p.1);
        Self { numbers: row.map_or([NONE; 5], |at| names::NAMES[at].1), private }
    }

    /// The number in `seccomp_data.nr`, bit 30 of x32 included; `None` if the architecture lacks the call.
    pub(super) fn number(&self, arch: Arch) -> Option<u32> {
        let column = match arch {
            Arch::X86_64 => 0,
            Arch::X86 => 1,
            Arch::X32 => 2,
            Arch::Aarch64 => 3,
            Arch::Arm => 4,
        };
        match (self.numbers[column], arch) {
            (NONE, Arch::Arm) => self.private,
            (NONE, _) => None,
            (number, Arch::X32) => Some(u32::from(number) | X32_BIT),
            (number, _) => Some(u32::from(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(names::NAMES.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn a_cursor_finds_what_a_search_finds() {
        let table: Vec<&str> = names::NAMES.iter().map(|row| row.0).collect();
        let absent = ["", "a", "accept5", "reae", "zzz"];
        let all: Vec<&str> = table.iter().copied().chain(absent).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        // Hither and thither.
        let scattered = (0..all.len()).map(|i| all[i * 101 % all.len()]);
        for order in [sorted.clone(), sorted.into_iter().rev().collect(), scattered.collect()] {
            let mut cursor = Cursor::default();
            for name in order {
                let found = cursor.find(&table, |row| row, name);
                assert_eq!(found, table.binary_search(&name).ok(), "{name}");
            }
        }
    }

    #[test]
    fn numbers_of_each_architecture() {
        let of = |name, arch| Call::named(name).number(arch);
        assert_eq!(of("getpid", Arch::X86_64), Some(39));
        assert_eq!(of("getpid", Arch::X86), Some(20));
        assert_eq!(of("ioctl", Arch::X32), Some(X32_BIT | 514));
        assert_eq!(of("getpid", Arch::Aarch64), Some(172));
        assert_eq!(of("open", Arch::Aarch64), None);
        assert_eq!(of("set_tls", Arch::Arm), Some(0xf0005));
        assert_eq!(of("set_tls", Arch::X86_64), None);
        assert_eq!(of("no_such_call", Arch::X86), None);
    }
}
