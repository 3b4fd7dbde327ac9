//! libseccomp with runc's use of it, as the oracle for verdicts.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use runtime::seccomp::{Arch, Insn};
use runtime::spec::Seccomp;

use super::machine::{self, Data};
use super::profile::action;

/// A running `oracle.c`.
pub struct Oracle {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Builds and starts it. `LIBSECCOMP` names another library than the installed one.
    pub fn start() -> Self {
        static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
        let program = BUILT.get_or_init(|| {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/oracle.c");
            let program =
                PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("seccomp-oracle-{}", std::process::id()));
            let built =
                Command::new("cc").args(["-O1", "-o"]).arg(&program).args([source, "-ldl"]).status().expect("cc");
            assert!(built.success(), "cc could not build the oracle");
            program
        });
        let mut command = Command::new(program);
        command.args(std::env::var_os("LIBSECCOMP"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("oracle");
        let requests = child.stdin.take().expect("stdin");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        Self { child, requests, answers }
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.requests, "{request}").expect("the oracle has died: is libseccomp2 installed?");
        let mut answer = String::new();
        let got = self.answers.read_line(&mut answer).expect("answer");
        assert!(got > 0, "the oracle has died: is libseccomp2 installed?");
        answer.trim().to_owned()
    }

    /// The library's number of a name; pseudo numbers below zero as they are, `None` for a name it does not have.
    pub fn number(&mut self, name: &str, arch: Arch) -> Option<i32> {
        Some(self.ask(&format!("name {} {name}", token(arch))).parse().expect("number")).filter(|&n| n != -1)
    }

    /// What runc would load for a profile on x86-64, with more architectures than the profile may name. `Err` is the errno of
    /// the rule that the library refuses.
    pub fn compile(&mut self, profile: &Seccomp, more: &[Arch]) -> Result<Verdicts, i32> {
        let default = action(&profile.default_action, profile.default_errno_ret);
        // runc asks for the tree (2) only above 32 rules. Without it libseccomp 2.5 and 2.6 forget to load the number of the call
        // if the first call of the list does not exist on x86-64 and x32 is listed; without rules the tree is wrong.
        let rules = profile.syscalls.iter().any(|rule| action(&rule.action, rule.errno_ret) != default);
        assert_eq!(self.ask(&format!("new {default} {}", if rules { 2 } else { 1 })), "ok");
        let mut arches = vec![Arch::X86_64];
        for (word, arch) in [("SCMP_ARCH_X86", Arch::X86), ("SCMP_ARCH_X32", Arch::X32)] {
            if profile.architectures.iter().any(|a| a == word) {
                arches.push(arch);
            }
        }
        arches.extend(more);
        for &arch in &arches[1..] {
            assert_eq!(self.ask(&format!("arch {}", token(arch))), "ok");
        }
        for rule in &profile.syscalls {
            let wanted = action(&rule.action, rule.errno_ret);
            if wanted == default {
                continue;
            }
            let op = |word: &str| match word {
                "SCMP_CMP_NE" => 1,
                "SCMP_CMP_LT" => 2,
                "SCMP_CMP_LE" => 3,
                "SCMP_CMP_EQ" => 4,
                "SCMP_CMP_GE" => 5,
                "SCMP_CMP_GT" => 6,
                "SCMP_CMP_MASKED_EQ" => 7,
                _ => panic!("{word}"),
            };
            let args: Vec<String> =
                rule.args.iter().map(|a| format!(" {} {} {} {}", a.index, op(&a.op), a.value, a.value_two)).collect();
            let twice = (0..6).any(|i| rule.args.iter().filter(|a| a.index == i).count() > 1);
            for name in &rule.names {
                let sets = if twice { args.clone() } else { vec![args.concat()] };
                for set in sets {
                    let answer = self.ask(&format!("rule {wanted} {name}{set}"));
                    if let Some(errno) = answer.strip_prefix("error ") {
                        return Err(errno.parse().expect("errno"));
                    }
                }
            }
        }
        let text = self.ask("export");
        let words: Vec<u32> = text.split(' ').map(|w| w.parse().expect(&text)).collect();
        let insn = |w: &[u32]| Insn { code: w[0] as u16, jt: w[1] as u8, jf: w[2] as u8, k: w[3] };
        let program = words.chunks_exact(4).map(insn).collect();
        let quiet = matches!(default & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000);
        let mut last = Vec::new();
        for &arch in &arches {
            let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
            let largest = names.filter_map(|name| self.number(name, arch)).max().filter(|&n| n > 0 && !quiet);
            last.push((arch, largest.map(|n| n as u32)));
        }
        Ok(Verdicts { program, last })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// libseccomp's name of an architecture: the kernel's but for x32.
fn token(arch: Arch) -> u32 {
    if arch == Arch::X32 { 0x4000_003e } else { arch.audit() }
}

/// libseccomp's program with the stub that runc puts before it.
pub struct Verdicts {
    pub program: Vec<Insn>,
    last: Vec<(Arch, Option<u32>)>,
}

impl Verdicts {
    pub fn of(&self, data: &Data) -> u32 {
        let x32 = data.arch == Arch::X86_64.audit() && data.nr & 0x4000_0000 != 0;
        let stub = |(arch, last): &(Arch, Option<u32>)| {
            arch.audit() == data.arch && (*arch == Arch::X32) == x32 && last.is_some_and(|last| data.nr > last)
        };
        if self.last.iter().any(stub) { 0x0005_0000 | 38 } else { machine::run(&self.program, data).0 }
    }
}
