//! Hooks that the child runs, and the gate where the parent runs the others.

use super::compile::Compiler;
use super::{Gate, List, Op};
use crate::own::Files;
use crate::spec::{Hook, NamespaceKind};

/// The version of the specification that our states follow, whatever version a bundle was made for.
pub const STATE_VERSION: &str = "1.2.1";

/// The state that a hook reads, split where the pid goes (runtime-spec runtime.md#state).
pub fn state(
    id: &str,
    status: &str,
    bundle: &str,
    annotations: &std::collections::BTreeMap<String, String>,
) -> (String, String) {
    let mut after = format!(",\"status\":{},\"bundle\":{}", json(status), json(bundle));
    if !annotations.is_empty() {
        after.push_str(&format!(",\"annotations\":{}", json(annotations)));
    }
    after.push('}');
    (format!("{{\"ociVersion\":\"{STATE_VERSION}\",\"id\":{},\"pid\":", json(id)), after)
}

/// Strings and maps of strings always serialise.
fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl Compiler<'_> {
    /// prestart and createRuntime hooks, and anything else that the parent does with the finished mounts.
    pub(super) fn outside_hooks(&mut self) {
        let hooks = &self.spec.hooks;
        if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
            self.b.from("/hooks");
            self.gate(Gate::Hooks);
        }
    }

    /// Before pivot_root: the program is the host's, the namespaces are the container's. The environment is the hook's own;
    /// the container's would let an image decide what the host's program loads (CVE-2025-23266).
    pub(super) fn create_container_hooks(&mut self) {
        let spec = self.spec;
        if spec.hooks.create_container.is_empty() {
            return;
        }
        self.b.from("/hooks/createContainer");
        let slot = self.root().slot;
        self.b.op(Op::Fchdir { slot });
        // Ours is 0: what a hook makes would be everybody's to write to.
        self.b.op(Op::Umask { mask: 0o022 });
        self.child_hooks("createContainer", &spec.hooks.create_container, "creating", None, self.host.files);
        self.b.from("");
        self.b.op(Op::Umask { mask: 0 });
    }

    /// After the start gate, with all of the container's confinement. A hook without an environment gets the container's.
    pub(super) fn start_container_hooks(&mut self) {
        let spec = self.spec;
        // The payload's limits hold already.
        self.child_hooks("startContainer", &spec.hooks.start_container, "created", self.env, None);
    }

    fn child_hooks(&mut self, name: &str, hooks: &[Hook], status: &str, env: Option<List>, files: Option<Files>) {
        let bundle = self.bundle.to_string_lossy().into_owned();
        let (before, after) = state(self.id, status, &bundle, &self.spec.annotations);
        for (i, hook) in hooks.iter().enumerate() {
            self.b.from(format!("/hooks/{name}/{i}"));
            let argv = if hook.args.is_empty() { vec![hook.path.clone()] } else { hook.args.clone() };
            let op = Op::Hook {
                path: self.b.str(&hook.path),
                argv: self.b.list(&argv, 0),
                envp: match (&hook.env, env) {
                    // HOME, where it had to be looked up, is in there by now.
                    (None, Some(env)) => env,
                    (own, _) => self.b.list(own.as_deref().unwrap_or(&[]), 0),
                },
                before: self.b.bytes(before.as_bytes()),
                after: self.b.bytes(after.as_bytes()),
                pid: self.wanted.new_has(NamespaceKind::Pid).then_some(1),
                timeout: hook.timeout.unwrap_or(0).clamp(0, i64::from(u32::MAX)) as u32,
                files,
            };
            self.b.op(op);
        }
    }
}
