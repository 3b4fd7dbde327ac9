//! Broken plans: a checker that notices nothing would let every plan pass.

use runtime::plan::{Dir, Edge, Gate, Op, Plan, Section, Slot, Step, laws};

use super::{Odd, PLAIN, exec, hosts, init, spec};

/// The plan of a real spec with most of what there is.
fn sound() -> Plan {
    let mut spec = spec("docker-28.5-userns");
    let process = spec.process.as_mut().unwrap();
    process.terminal = true;
    process.rlimits = vec![runtime::spec::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 9, hard: 9 }];
    init(&hosts::hybrid(), &spec, PLAIN).unwrap()
}

fn spec_of_docker() -> runtime::spec::Spec {
    spec("docker-28.5-default")
}

/// A plan whose limits the child sets itself.
fn plain() -> Plan {
    let mut spec = spec_of_docker();
    spec.process.as_mut().unwrap().rlimits =
        vec![runtime::spec::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 9, hard: 9 }];
    spec.process.as_mut().unwrap().no_new_privileges = true;
    init(&hosts::hybrid(), &spec, PLAIN).unwrap()
}

fn find(plan: &Plan, is: impl Fn(&Op) -> bool) -> usize {
    plan.child.iter().position(|s| is(&s.op)).expect("the plan has such a step")
}

/// Changes the child's steps without touching where edges lead: what is tried is the order.
fn reordered(plan: &Plan, from: usize, to: usize) -> Plan {
    let mut steps = plan.child.to_vec();
    let step = steps.remove(from);
    steps.insert(to, step);
    Plan { child: steps.into(), ..plan.clone() }
}

/// Takes a step out and moves the edges that lead behind it.
fn without(plan: &Plan, section: Section, at: usize) -> Plan {
    let mut plan = plan.clone();
    let steps = match section {
        Section::Prepare => &mut plan.prepare,
        Section::Child => &mut plan.child,
        Section::Maps => &mut plan.maps,
        Section::Limits => &mut plan.limits,
    };
    let mut list = steps.to_vec();
    list.remove(at);
    for edge in list.iter_mut().flat_map(|s| s.on.0.iter_mut()).flatten() {
        edge.to -= u16::from(usize::from(edge.to) > at);
    }
    *steps = list.into();
    plan
}

fn changed(plan: &Plan, at: usize, change: impl FnOnce(&mut Step)) -> Plan {
    let mut plan = plan.clone();
    change(&mut plan.child[at]);
    plan
}

#[track_caller]
fn noticed(plan: &Plan, word: &str) {
    let law = laws::broken(plan);
    assert!(law.as_ref().is_some_and(|law| law.contains(word)), "{word:?} is not in {law:?}");
}

#[test]
fn what_must_be_there_is_missed() {
    let (user, plain) = (sound(), plain());
    assert_eq!((laws::broken(&user), laws::broken(&plain)), (None, None));
    let child = |plan: &Plan, is: &dyn Fn(&Op) -> bool| without(plan, Section::Child, find(plan, is));
    noticed(&child(&plain, &|o| matches!(o, Op::CloseOthers)), "closing what is not its own");
    noticed(&child(&plain, &|o| matches!(o, Op::Signals)), "the signal mask");
    noticed(&child(&plain, &|o| matches!(o, Op::Setsid)), "setsid");
    noticed(&child(&plain, &|o| matches!(o, Op::Setgroups { .. })), "setgroups");
    noticed(&child(&plain, &|o| matches!(o, Op::Setuid { .. })), "user");
    let mut spec = spec_of_docker();
    spec.process.as_mut().unwrap().user.uid = 7;
    let somebody = init(&hosts::hybrid(), &spec, PLAIN).unwrap();
    noticed(&child(&somebody, &|o| matches!(o, Op::KeepCaps { on: true })), "capabilities are kept");
    noticed(&child(&somebody, &|o| matches!(o, Op::KeepCaps { on: false })), "capabilities are kept");
    noticed(&child(&plain, &|o| matches!(o, Op::CheckCwd)), "getcwd");
    noticed(&child(&plain, &|o| matches!(o, Op::ChdirAgain { .. })), "chdir");
    noticed(&child(&plain, &|o| matches!(o, Op::Dup { to: 1, .. })), "opened as 1");
    noticed(&child(&plain, &|o| matches!(o, Op::CloseRange { .. })), "close_range is there 0 times");
    noticed(&child(&plain, &|o| matches!(o, Op::Umount { .. })), "old root");
    noticed(&child(&plain, &|o| matches!(o, Op::Umask { .. })), "umask");
    noticed(&child(&plain, &|o| matches!(o, Op::Gate { .. })), "waits for its start");
    noticed(&child(&user, &|o| matches!(o, Op::Gate { .. })), "gets its maps");
    let text = |plan: &Plan, o: &Op| matches!(o, Op::Propagation { path, .. } if plan.text(*path) == "/");
    noticed(&child(&plain, &|o| text(&plain, o)), "show on the host");
    noticed(&child(&plain, &|o| matches!(o, Op::Fsmount { .. })), "is empty");
    noticed(&Plan { maps: Box::default(), ..user.clone() }, "gets its maps");
    noticed(&Plan { clone_flags: 0, ..user.clone() }, "gets its maps");
    noticed(&Plan { maps: user.maps.clone(), ..plain.clone() }, "");
    let closes = user.prepare.iter().position(|s| matches!(s.op, Op::Close { .. })).unwrap();
    noticed(&without(&user, Section::Prepare, closes), "the child has the host's mounts");
    let mut unlocked = user.clone();
    for step in &mut unlocked.prepare {
        if let Op::OpenTreeOf { path, flags, into, .. } = step.op {
            step.op = Op::OpenTree { dir: Dir::Cwd, path, flags, into };
        }
    }
    noticed(&unlocked, "no locks");
    let looked = |plan: &Plan| plan.prepare.iter().position(|s| matches!(s.op, Op::CheckFs { .. })).unwrap();
    noticed(&without(&plain, Section::Prepare, looked(&plain)), "is not looked at");
}

#[test]
fn another_order_is_noticed() {
    let plan = plain();
    let at = |is: &dyn Fn(&Op) -> bool| find(&plan, is);
    let uid = at(&|o| matches!(o, Op::Setuid { .. }));
    let late = |is: &dyn Fn(&Op) -> bool, word| noticed(&reordered(&plan, at(is), uid), word);
    late(&|o| matches!(o, Op::Setgroups { .. }), "groups");
    late(&|o| matches!(o, Op::Bounding { .. }), "bounding");
    late(&|o| matches!(o, Op::CloseRange { .. }), "close_range before the directory");
    let member = init(&hosts::hybrid(), &spec("cri-2.3-userns-member"), PLAIN).unwrap();
    let (session, again) =
        (find(&member, |o| matches!(o, Op::Setsid)), find(&member, |o| matches!(o, Op::Respawn { .. })));
    noticed(&reordered(&member, again, session), "the last process before the session");
    let mut sharing = init(&hosts::hybrid(), &spec("cri-2.3-privileged-member"), PLAIN).unwrap();
    let last = sharing.prepare.len() - 1;
    assert!(matches!(sharing.prepare[last].op, Op::ChildrenPid { .. }));
    sharing.prepare.swap(last - 1, last);
    noticed(&sharing, "goes on with another pid namespace");
    let early = |is: &dyn Fn(&Op) -> bool, word| noticed(&reordered(&plan, at(is), uid), word);
    early(&|o| matches!(o, Op::Capset { .. }), "capabilities");
    early(&|o| matches!(o, Op::CheckCwd), "");
    let filter = at(&|o| matches!(o, Op::Seccomp { .. }));
    let twice = changed(&plan, filter - 1, |s| s.op = Op::Seccomp { flags: 0, listener: None });
    let twice = changed(&twice, filter, |s| s.op = Op::NoNewPrivs);
    noticed(&twice, "no_new_privs");
    noticed(&reordered(&plan, filter, uid), "");
    let early = at(&|o| matches!(o, Op::AllCpus));
    let limit = Op::Rlimit { resource: 7, soft: 9, hard: 9 };
    noticed(&changed(&plan, early, |s| s.op = limit), "limits");
    let pivot = at(&|o| matches!(o, Op::PivotRoot));
    let from = |what: &str| plan.child.iter().position(|s| plan.text(s.from).starts_with(what)).unwrap();
    noticed(&reordered(&plan, from("/linux/readonlyPaths"), pivot), "");
    let exec = plan.child.len() - 1;
    // Where it lands decides which law is the first to be broken.
    noticed(&reordered(&plan, exec, 5), "");
}

#[test]
fn masks_that_are_covered_are_noticed() {
    let mut spec = spec_of_docker();
    spec.linux.readonly_paths = vec!["/proc".into(), "/proc/sys".into()];
    let plan = init(&hosts::hybrid(), &spec, PLAIN).unwrap();
    let from = |plan: &Plan, what: &str| {
        let steps = plan.child.iter().enumerate().filter(|(_, s)| plan.text(s.from) == what);
        steps.map(|(i, _)| i).collect::<Vec<_>>()
    };
    let (root, below) = (from(&plan, "/linux/readonlyPaths/0"), from(&plan, "/linux/readonlyPaths/1"));
    let first = from(&plan, "/linux/maskedPaths/0")[0];
    noticed(&changed(&plan, first, |s| s.from = plan.child[root[0]].from), "what a mask is put into");
    assert!(below[0] < root[0], "what may cover the mount comes last");
    let early = changed(&plan, below[0], |s| {
        let (Op::OpenTree { into: tree, .. }, Op::Open { dir, path, flags, mode, resolve, .. }) =
            (s.op, plan.child[root[0]].op)
        else {
            unreachable!("a copy of what is fresh, and of what is looked up");
        };
        s.op = Op::Open { dir, path, flags, mode, resolve, into: tree };
    });
    noticed(&early, "a read-only copy may cover");
    let hook = runtime::spec::Hook { path: "/bin/hook".into(), ..runtime::spec::Hook::default() };
    spec.hooks.create_container = vec![hook];
    let plan = init(&hosts::hybrid(), &spec, PLAIN).unwrap();
    assert_eq!(laws::broken(&plan), None);
    let again = find(&plan, |o| matches!(*o, Op::Open { into, .. } if plan.slot_name(into) == "/proc after hooks"));
    let hooked = find(&plan, |o| matches!(o, Op::Hook { .. }));
    let early = changed(&plan, again, |s| s.op = plan.child[hooked].op);
    noticed(&changed(&early, hooked, |s| s.op = plan.child[again].op), "hooks may have covered");
    let looked = changed(&plan, again + 1, |s| s.op = Op::Umask { mask: 0 });
    noticed(&looked, "may be anything");
}

#[test]
fn a_cgroup2_of_the_host_is_noticed() {
    let cgroup = runtime::spec::NamespaceKind::Cgroup;
    let mut spec = spec_of_docker();
    spec.linux.namespaces.retain(|n| n.kind != cgroup);
    spec.linux.namespaces.push(runtime::spec::Namespace { kind: cgroup, path: String::new() });
    let mount = |plan: &Plan| {
        plan.child.iter().any(|s| matches!(s.op, Op::Fsopen { kind, .. } if plan.text(kind) == "cgroup2"))
    };
    let plan = init(&hosts::v2(), &spec, PLAIN).unwrap();
    assert!(mount(&plan));
    assert_eq!(laws::broken(&plan), None);
    let group = libc::CLONE_NEWCGROUP as u64;
    let own = find(&plan, |o| matches!(o, Op::Unshare { flags } if flags & group != 0));
    noticed(&without(&plan, Section::Child, own), "a cgroup2 without a cgroup namespace");
    spec.linux.namespaces.retain(|n| n.kind != cgroup);
    let plan = init(&hosts::v2(), &spec, PLAIN).unwrap();
    assert!(!mount(&plan));
    assert_eq!(laws::broken(&plan), None);
}

#[test]
fn a_procfs_that_is_covered_is_noticed() {
    let plan = plain();
    let score = find(&plan, |o| matches!(*o, Op::Open { path, .. } if plan.text(path) == "self/oom_score_adj"));
    let with = changed(&plan, score, |s| {
        if let Op::Open { resolve, .. } = &mut s.op {
            *resolve = 0x0a;
        }
    });
    noticed(&with, "may be mounted over");
}

#[test]
fn a_way_out_of_the_root_is_noticed() {
    let plan = plain();
    let in_root = |s: &Step| matches!(s.op, Op::Open { resolve, .. } if resolve & 0x10 != 0);
    // The last one: the first are what a law of their own asks for.
    let inside = plan.child.iter().rposition(in_root).unwrap();
    let with = |how: u64| {
        changed(&plan, inside, |s| {
            if let Op::Open { resolve, .. } = &mut s.op {
                *resolve = how;
            }
        })
    };
    noticed(&with(0), "may leave the root");
    noticed(&with(0x10), "magic link");
    let inherited = changed(&plan, inside, |s| {
        if let Op::Open { flags, .. } = &mut s.op {
            *flags &= !(libc::O_CLOEXEC as u32);
        }
    });
    noticed(&inherited, "inherited");
    let blocking = changed(&plan, inside, |s| {
        if let Op::Open { flags, .. } = &mut s.op {
            *flags = libc::O_CLOEXEC as u32;
        }
    });
    noticed(&blocking, "may be anything");
    let Op::Propagation { path: slash, .. } = plan.child[find(&plan, |o| matches!(o, Op::Propagation { .. }))].op
    else {
        unreachable!("found by its kind");
    };
    let by_name =
        Op::OpenTree { dir: runtime::plan::Dir::Cwd, path: slash, flags: libc::O_CLOEXEC as u32, into: Slot(0) };
    let after = find(&plan, |o| matches!(o, Op::Bounding { .. }));
    noticed(&changed(&plan, after, |s| s.op = by_name), "by name inside");
    let made = find(&plan, |o| matches!(o, Op::Mknod { .. }));
    let deep = changed(&plan, made, |s| {
        if let Op::Mknod { name, .. } = &mut s.op {
            *name = slash;
        }
    });
    noticed(&deep, "is not one component");
    let onto = plan.child.iter().position(|s| matches!(s.op, Op::MoveMountTo { .. }) && s.on.0[0].is_none()).unwrap();
    let deep = changed(&plan, onto, |s| {
        if let Op::MoveMountTo { name, .. } = &mut s.op {
            *name = slash;
        }
    });
    noticed(&deep, "may be anything");
    let root = plan.child[..onto].iter().find_map(|s| match s.op {
        Op::Open { dir: runtime::plan::Dir::At(root), resolve, .. } if resolve & 0x10 != 0 => Some(root),
        _ => None,
    });
    let of_the_image = changed(&plan, onto, |s| {
        if let Op::MoveMountTo { dir, .. } = &mut s.op {
            *dir = root.unwrap();
        }
    });
    noticed(&of_the_image, "may be anything");
    let top = plan.child.iter().position(|s| matches!(s.op, Op::MoveMountTo { dir, .. } if Some(dir) == root)).unwrap();
    // Only as long as whatever else is there is looked at.
    let missing = changed(&plan, top, |s| s.on.0[1].as_mut().unwrap().errno = libc::ENOENT);
    noticed(&missing, "may be anything");
    let at_once = find(&plan, |o| matches!(o, Op::Mount { .. }));
    let entered = find(&plan, |o| matches!(o, Op::Fchdir { .. }));
    assert_eq!(entered + 1, at_once);
    noticed(&without(&plan, Section::Child, entered), "may be anything");
    let of_the_image = changed(&plan, entered, |s| s.op = Op::Fchdir { slot: root.unwrap() });
    noticed(&of_the_image, "may be anything");
    let deep = changed(&plan, at_once, |s| {
        if let Op::Mount { path, .. } = &mut s.op {
            *path = slash;
        }
    });
    noticed(&deep, "may be anything");
    let copied =
        find(&plan, |o| matches!(o, Op::OpenTree { flags, .. } if flags & libc::AT_SYMLINK_NOFOLLOW as u32 != 0));
    let link = changed(&plan, copied, |s| {
        if let Op::OpenTree { flags, .. } = &mut s.op {
            *flags &= !(libc::AT_SYMLINK_NOFOLLOW as u32);
        }
    });
    noticed(&link, "may be a link");
}

#[test]
fn what_is_mounted_on_is_what_was_entered() {
    let itself = |plan: &Plan| -> Vec<usize> {
        let is = |s: &Step| matches!(s.op, Op::Mount { path, .. } if plan.text(path) == ".");
        (0..plan.child.len()).filter(|i| is(&plan.child[*i])).collect()
    };
    let plan = init(&hosts::hybrid(), &spec("ctr-2.3-default"), PLAIN).unwrap();
    assert_eq!(laws::broken(&plan), None);
    let [run] = itself(&plan)[..] else { panic!("/run") };
    noticed(&without(&plan, Section::Child, run - 1), "may be anything");
    // After very many mounts the slots of places are used again: a place is entered each time, whatever number it has.
    let mount = |n: usize, kind: &str| runtime::spec::Mount {
        destination: if kind == "bind" { format!("/deep/volume/{n}") } else { format!("/t{n}") },
        kind: kind.into(),
        source: "/tmp".into(),
        options: vec![if kind == "bind" { "rbind" } else { "mode=700" }.into()],
        ..runtime::spec::Mount::default()
    };
    for between in 0..40 {
        let mut spec = spec("ctr-2.3-default");
        spec.mounts.extend((0..60).map(|n| mount(n, "bind")));
        spec.mounts.push(mount(100, "tmpfs"));
        spec.mounts.extend((200..200 + between).map(|n| mount(n, "bind")));
        spec.mounts.push(mount(300, "tmpfs"));
        let plan = init(&hosts::hybrid(), &spec, PLAIN).unwrap();
        assert_eq!(laws::broken(&plan), None, "{between} mounts between two");
        assert_eq!(itself(&plan).len(), 3);
    }
}

#[test]
fn edges_that_lead_nowhere_are_noticed() {
    let plan = plain();
    let with = find(&plan, |o| matches!(o, Op::Fsopen { .. }));
    let edge = |to: u16, errno: i32| changed(&plan, with, |s| s.on.0[0] = Some(Edge { errno, to }));
    noticed(&edge(with as u16, libc::EIO), "edge to");
    noticed(&edge(plan.child.len() as u16 + 1, libc::EIO), "edge to");
    noticed(&edge(with as u16 + 1, libc::EIO), "is empty");
    noticed(&edge(with as u16 + 2, 0), "no way leads here");
    let close = find(&plan, |o| matches!(o, Op::CloseRange { .. }));
    let inherit = changed(&plan, close, |s| {
        if let Op::CloseRange { first, .. } = &mut s.op {
            *first = 2;
        }
    });
    noticed(&inherit, "what is inherited is closed");
}

#[test]
fn a_listener_that_stays_open_is_noticed() {
    let profile = br#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    let mut spec = spec_of_docker();
    spec.linux.seccomp = Some(runtime::spec::from_json(profile).unwrap());
    for started_by_others in [false, true] {
        let plan = init(&hosts::hybrid(), &spec, Odd { started_by_others, ..PLAIN }).unwrap();
        assert_eq!(laws::broken(&plan), None);
        let filter = find(&plan, |o| matches!(o, Op::Seccomp { .. }));
        let start = find(&plan, |o| matches!(o, Op::Gate { gate: Gate::Start, .. }));
        assert_eq!(filter < start, started_by_others);
        noticed(&changed(&plan, filter + 2, |s| s.op = Op::NoNewPrivs), "");
        noticed(&changed(&plan, filter + 2, |s| s.op = Op::Inherit { fd: 3 }), "a listener is handed over and closed");
        noticed(&reordered(&plan, filter + 1, filter + 2), "");
    }
}

#[test]
fn an_exec_has_no_start_of_its_own() {
    let spec = spec_of_docker();
    let plan = exec(&hosts::hybrid(), &spec, spec.process.as_ref().unwrap(), PLAIN).unwrap();
    assert_eq!(laws::broken(&plan), None);
    let mut init_less = plan.clone();
    init_less.given.init = None;
    assert!(laws::broken(&init_less).is_some());
    let join = find(&plan, |o| matches!(o, Op::Setns { .. }));
    let home = find(&plan, |o| matches!(o, Op::Home { .. }));
    noticed(&without(&plan, Section::Child, home - 1), "is empty");
    assert!(join < home);
}

/// Most single steps cannot be left out without anybody noticing.
#[test]
fn few_steps_can_be_left_out() {
    let plan = plain();
    let unnoticed: Vec<&Step> = (0..plan.child.len())
        .filter(|i| laws::broken(&without(&plan, Section::Child, *i)).is_none())
        .map(|i| &plan.child[i])
        .collect();
    println!("{} of {} steps can be left out unnoticed", unnoticed.len(), plan.child.len());
    // What a spec asks for is checked against it, not by the laws of any plan: names, sysctls, options of file systems.
    let pivotal =
        |s: &&&Step| matches!(s.op, Op::PivotRoot | Op::Umount { .. } | Op::CloseRange { .. } | Op::Fsopen { .. });
    assert_eq!(unnoticed.iter().find(pivotal), None);
}

#[test]
fn what_a_thread_must_leave_alone_is_noticed() {
    let mut spec = spec_of_docker();
    spec.process.as_mut().unwrap().apparmor_profile = "docker-default".into();
    let host = runtime::Host { apparmor: true, ..hosts::hybrid() };
    let process = spec.process.clone().unwrap();
    let plan = exec(&host, &spec, &process, PLAIN).unwrap();
    assert_eq!(laws::broken(&plan), None);
    let fork = plan.by_thread().unwrap();
    let early = |is: &dyn Fn(&Op) -> bool| {
        let mut plan = plan.clone();
        let mut list = plan.child.to_vec();
        let step = list[find(&plan, is)];
        list.insert(fork, step);
        for edge in list.iter_mut().flat_map(|s| s.on.0.iter_mut()).flatten() {
            edge.to += u16::from(usize::from(edge.to) > fork);
        }
        list[fork].on = runtime::plan::Edges::default();
        plan.child = list.into();
        noticed(&plan, "by a thread");
    };
    let task = plan.given.tasks[0];
    early(&|o| matches!(o, Op::Signals));
    early(&|o| matches!(o, Op::Umask { .. }));
    early(&|o| matches!(o, Op::Setsid));
    early(&|o| matches!(o, Op::Capset { .. }));
    early(&|o| matches!(*o, Op::Write { slot, .. } if slot == task));
    let closed = find(&plan, |o| matches!(*o, Op::Close { slot } if plan.slot_name(slot) == "/proc"));
    noticed(&without(&plan, Section::Child, closed), "</proc> is open when the process is seen");
    let joined = find(&plan, |o| matches!(*o, Op::Write { slot, .. } if slot == task));
    noticed(&without(&plan, Section::Child, joined), "joins its groups");
    noticed(&changed(&plan, fork, |s| s.op = Op::Fork { into: None }), "joins its groups");
    noticed(&changed(&plan, fork, |s| s.op = Op::Respawn { flags: 0 }), "which waits until its parent knows it");
    let waits = find(&plan, |o| matches!(o, Op::AwaitParent { .. }));
    noticed(&without(&plan, Section::Child, waits), "");
    let user = |s: &mut Step| {
        if let Op::Setns { flags, .. } = &mut s.op {
            *flags |= libc::CLONE_NEWUSER as u64;
        }
    };
    let setns = find(&plan, |o| matches!(o, Op::Setns { .. }));
    noticed(&changed(&plan, setns, user), "by a thread");
    let cgroup = |s: &mut Step| {
        if let Op::Setns { flags, .. } = &mut s.op {
            *flags |= libc::CLONE_NEWCGROUP as u64;
        }
    };
    noticed(&changed(&plan, setns, cgroup), "from inside a cgroup namespace");
    let mut old = plan.clone();
    let label = find(&plan, |o| matches!(o, Op::Open { .. }));
    let path = plan.section(Section::Limits).iter().find_map(|s| match s.op {
        Op::Open { path, .. } => Some(path),
        _ => None,
    });
    if let Op::Open { path: place, .. } = &mut old.child[label].op {
        *place = path.unwrap();
    }
    noticed(&old, "by a thread");
}
