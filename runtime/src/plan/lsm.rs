//! The security label of the payload: AppArmor's. SELinux labels are refused by `spec::check`.

use super::Dir;
use super::compile::Compiler;
use crate::error::{Result, apparmor};

impl Compiler<'_> {
    /// Says what execve changes to (apparmor(7), `aa_change_onexec`): only the process itself may, it needs no privilege, and
    /// children inherit it. An exec says it before it is in the container, because /proc of the host is needed for it.
    ///
    /// # Errors
    /// The host has no AppArmor: whatever module answers there instead, the profile would not be in force.
    pub(super) fn lsm(&mut self) -> Result<()> {
        let Some(process) = self.process.filter(|p| !p.apparmor_profile.is_empty()) else { return Ok(()) };
        let pointer = self.pointer("/apparmorProfile");
        if !self.host.apparmor {
            return Err(self.refuse(pointer, &apparmor("it is not enabled on this host")));
        }
        self.b.from(pointer);
        let proc = self.proc_dir();
        let text = format!("exec {}", process.apparmor_profile);
        self.write_file(Dir::At(proc), self.host.apparmor_attr, text.as_bytes());
        Ok(())
    }
}
