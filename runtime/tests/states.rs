//! The lifecycle under random interleavings of requests, ends of work, exits and publish failures, checked against an
//! order table that was written from containerd's docs/runtime-v2.md and not from the code.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::SystemTime;

use proptest::prelude::*;
use runtime::lifecycle::{Class, Effect, Event, Exit, Input, Job, Lifecycle, Status};

const EXECS: [&str; 3] = ["a", "b", "c"];

/// A kernel, some workers, some clients and an outbox whose reader fails now and then.
struct World {
    life: Lifecycle,
    shares_pids: bool,
    jobs: Vec<Job>,
    init_alive: bool,
    drained: bool,
    execs_alive: BTreeSet<String>,
    released: BTreeMap<Option<String>, Option<Exit>>,
    kill_alls: usize,
    outbox: VecDeque<Event>,
    delivered: Vec<Event>,
    gone: bool,
}

fn exit(status: u32) -> Exit {
    Exit { status, at: SystemTime::UNIX_EPOCH }
}

impl World {
    fn new(shares_pids: bool) -> Self {
        Self {
            life: Lifecycle::new("c1"),
            shares_pids,
            jobs: Vec::new(),
            init_alive: false,
            drained: false,
            execs_alive: BTreeSet::new(),
            released: BTreeMap::new(),
            kill_alls: 0,
            outbox: VecDeque::new(),
            delivered: Vec::new(),
            gone: false,
        }
    }

    fn feed(&mut self, input: Input) {
        let before = format!("{:?}", self.life);
        match self.life.step(input.clone()) {
            Ok(effects) => effects.into_iter().for_each(|e| self.obey(e)),
            Err(refusal) => {
                assert_eq!(before, format!("{:?}", self.life), "a refusal of {input:?} changed something");
                assert!(!refusal.text.is_empty());
            }
        }
    }

    fn obey(&mut self, effect: Effect) {
        assert!(!self.gone, "{effect:?} after the container was forgotten");
        match effect {
            Effect::Run(job) => {
                if job == Job::KillAll {
                    self.kill_alls += 1;
                }
                assert!(!matches!(job, Job::StartExec(_)) || self.init_alive, "{job:?} beside a dead init");
                self.jobs.push(job);
            }
            Effect::Publish(event) => {
                if let Event::Exit(who, how) = &event {
                    let status = self.life.status(who).unwrap();
                    let frozen = matches!(self.life.status(&None), Some(Status::Paused | Status::Pausing));
                    assert!(status == Status::Stopped || (who.is_some() && frozen), "{event:?} before State shows it");
                    assert!(who.is_some() || self.drained, "{event:?} before its output was read");
                    assert_eq!(self.released.get(who), Some(&Some(*how)), "{event:?} before the waiters were answered");
                }
                self.outbox.push_back(event);
            }
            Effect::Release(who, how) => {
                self.released.insert(who, how);
            }
            Effect::Signal(who, _) => assert!(match who {
                None => true,
                Some(id) => self.execs_alive.contains(&id),
            }),
            Effect::StopOom | Effect::CancelCreate => {}
            Effect::Forget(None) => self.gone = true,
            Effect::Forget(Some(_)) => {}
        }
    }

    /// Ends the job at an index, well or badly.
    fn finish(&mut self, index: usize, ok: bool) {
        let input = match self.jobs.remove(index) {
            Job::Start if ok => Input::StartDone,
            Job::Start => Input::StartFailed,
            Job::StartExec(id) if ok => {
                self.execs_alive.insert(id.clone());
                Input::ExecStarted(id)
            }
            Job::StartExec(id) => Input::ExecFailed(id),
            Job::Pause => Input::PauseDone { ok },
            Job::Resume => Input::ResumeDone { ok },
            Job::KillAll => Input::KillAllDone,
            Job::Delete if ok => Input::DeleteDone,
            Job::Delete => Input::DeleteFailed,
            Job::DeleteExec(id) => Input::ExecDeleted(id),
            Job::Thaw | Job::Update => return,
        };
        self.feed(input);
    }

    /// One random thing.
    fn happen(&mut self, what: u8, which: u8, ok: bool) {
        let id = EXECS[usize::from(which) % EXECS.len()].to_owned();
        match what % 20 {
            0 => self.feed(Input::Start),
            1 => self.feed(Input::Exec(id)),
            2 => self.feed(Input::StartExec(id)),
            3 => self.feed(Input::DeleteExec(id)),
            4 => self.feed(Input::Kill { who: if ok { None } else { Some(id) }, signal: i32::from(which % 10) }),
            5 => self.feed(Input::Pause),
            6 => self.feed(Input::Resume),
            7 => self.feed(Input::Update),
            8 if which > 100 => self.feed(Input::Delete),
            9 if which > 200 => self.init_exits(),
            9 => self.drains(),
            10 => self.feed(Input::Oom),
            11 => self.exec_exits(usize::from(which)),
            12 | 13 if ok => {
                if let Some(event) = self.outbox.pop_front() {
                    self.delivered.push(event);
                }
            }
            _ if !self.jobs.is_empty() => self.finish(usize::from(which) % self.jobs.len(), ok || which > 60),
            _ => {}
        }
    }

    fn init_exits(&mut self) {
        if std::mem::take(&mut self.init_alive) {
            self.feed(Input::Exited(exit(3)));
        }
    }

    /// Init's output is read to its end.
    fn drains(&mut self) {
        let reaped = self.life.status(&None).is_some() && !self.init_alive;
        if reaped && !std::mem::replace(&mut self.drained, true) {
            self.feed(Input::Drained);
        }
    }

    fn exec_exits(&mut self, index: usize) {
        let alive: Vec<_> = self.execs_alive.iter().cloned().collect();
        if let Some(id) = alive.get(index % alive.len().max(1)) {
            self.execs_alive.remove(id);
            self.feed(Input::ExecExited(id.clone(), exit(4)));
        }
    }

    /// Everything ends at last.
    fn end(&mut self) {
        for _ in 0..100 {
            self.init_exits();
            self.drains();
            while !self.execs_alive.is_empty() {
                self.exec_exits(0);
            }
            while !self.jobs.is_empty() {
                self.finish(0, true);
            }
        }
        self.delivered.extend(self.outbox.drain(..));
    }
}

/// For each kind of event: what must have been delivered before it, and what must not have been.
fn order_table(log: &[Event], shares_pids: bool, kill_alls: usize) {
    for (n, event) in log.iter().enumerate() {
        let before = &log[..n];
        let has = |e: &Event| before.contains(e);
        let exited = |who: &Option<String>| before.iter().any(|e| matches!(e, Event::Exit(w, _) if w == who));
        assert!(!before.iter().any(|e| matches!(e, Event::Delete(None, _))), "{event:?} after delete");
        if !matches!(event, Event::Create) {
            assert!(has(&Event::Create), "{event:?} before create");
        }
        match event {
            Event::Create => assert!(!has(event), "two creates"),
            Event::Start => assert!(!has(event) && !exited(&None), "start twice or after exit"),
            Event::ExecAdded(_) => assert!(!exited(&None)),
            Event::ExecStarted(id) => assert!(has(&Event::ExecAdded(id.clone())) && !exited(&None)),
            Event::Exit(None, _) => {
                assert!(!exited(&None), "two exits of init");
                for e in before {
                    if let Event::ExecStarted(id) = e {
                        assert!(exited(&Some(id.clone())), "init's exit before that of exec {id}");
                    }
                }
                assert!(!shares_pids || kill_alls > 0, "leftovers in a shared pid namespace");
            }
            Event::Exit(Some(id), _) => {
                let count = |f: &dyn Fn(&Event) -> bool| before.iter().filter(|e| f(e)).count();
                let started = count(&|e| *e == Event::ExecStarted(id.clone()));
                let exits = count(&|e| matches!(e, Event::Exit(Some(i), _) if i == id));
                assert_eq!(started, exits + 1, "exits of exec {id}");
            }
            Event::Delete(who, _) => assert!(exited(who), "delete before exit"),
            Event::Paused | Event::Resumed | Event::Oom => assert!(!exited(&None), "{event:?} after exit"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_keep_their_order(
        shares_pids: bool,
        early in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..3),
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..120),
    ) {
        let mut world = World::new(shares_pids);
        for (what, which, ok) in early {
            world.happen(what, which, ok);
        }
        world.init_alive = true;
        world.feed(Input::CreateDone { shares_pids });
        for (what, which, ok) in steps {
            world.happen(what, which, ok);
        }
        world.end();
        order_table(&world.delivered, world.shares_pids, world.kill_alls);
        let exits = world.delivered.iter().filter(|e| matches!(e, Event::Exit(None, _))).count();
        prop_assert_eq!(exits, 1, "init's exit is announced exactly once");
        prop_assert!(world.released.contains_key(&None), "somebody waits for ever");
    }

    #[test]
    fn a_failed_create_says_nothing(steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 0..20)) {
        let mut world = World::new(true);
        for (what, which, ok) in &steps {
            world.happen(*what, *which, *ok);
        }
        world.feed(Input::CreateFailed);
        prop_assert!(world.gone && world.outbox.is_empty() && world.delivered.is_empty());
        prop_assert_eq!(world.life.step(Input::Delete).unwrap_err().class, Class::NotFound);
    }
}

/// A container in one of the states that last.
fn in_state(name: &str) -> Lifecycle {
    let mut life = Lifecycle::new("c1");
    let inputs: &[Input] = match name {
        "created" => &[],
        "running" => &[Input::Start, Input::StartDone],
        "paused" => &[Input::Start, Input::StartDone, Input::Pause, Input::PauseDone { ok: true }],
        "stopped" => &[Input::Start, Input::StartDone, Input::Exited(exit(0)), Input::Drained],
        "deleted" => {
            &[Input::Start, Input::StartDone, Input::Exited(exit(0)), Input::Drained, Input::Delete, Input::DeleteDone]
        }
        _ => panic!("{name}"),
    };
    life.step(Input::CreateDone { shares_pids: false }).unwrap();
    for input in inputs {
        life.step(input.clone()).unwrap();
    }
    life
}

/// The state table as containerd's shim has it: `ok`, or the class and words of the refusal.
const TABLE: &str = "
start   created ok
start   running cannot start a running process
start   paused  cannot start a paused process
start   stopped cannot start a stopped process
start   deleted NotFound container not created: not found
kill    created ok
kill    running ok
kill    paused  ok
kill    stopped NotFound process already finished: not found
kill    deleted NotFound container not created: not found
delete  created ok
delete  running cannot delete a running process
delete  paused  cannot delete a paused process
delete  stopped ok
delete  deleted NotFound container not created: not found
exec    created ok
exec    running ok
exec    paused  cannot exec in a paused state
exec    stopped cannot exec in a stopped state
exec    deleted NotFound container not created: not found
pause   created cannot pause task in created state
pause   running ok
pause   paused  cannot pause a paused container
pause   stopped cannot pause a stopped container
resume  created cannot resume task in created state
resume  running cannot resume a running process
resume  paused  ok
resume  stopped cannot resume a stopped container
update  created ok
update  running ok
update  paused  ok
update  stopped cannot update a stopped container
";

#[test]
fn the_state_table_and_its_words() {
    for line in TABLE.lines().filter(|l| !l.is_empty()) {
        let mut words = line.split_whitespace();
        let input = match words.next().unwrap() {
            "start" => Input::Start,
            "kill" => Input::Kill { who: None, signal: 15 },
            "delete" => Input::Delete,
            "exec" => Input::Exec("e".into()),
            "pause" => Input::Pause,
            "resume" => Input::Resume,
            "update" => Input::Update,
            other => panic!("{other}"),
        };
        let answer = in_state(words.next().unwrap()).step(input);
        let expected = words.collect::<Vec<_>>().join(" ");
        let got = match answer {
            Ok(_) => "ok".to_owned(),
            Err(r) if r.class == Class::Unknown => r.text,
            Err(r) => format!("{:?} {}", r.class, r.text),
        };
        assert_eq!(got, expected, "{line}");
    }
}

#[test]
fn execs_have_a_state_table_too() {
    let mut life = in_state("running");
    let text = |r: Result<Vec<Effect>, runtime::lifecycle::Refusal>| r.map(|_| ()).map_err(|r| (r.class, r.text));
    let e = || "e".to_owned();
    let kill = || Input::Kill { who: Some(e()), signal: 9 };
    assert_eq!(text(life.step(kill())).unwrap_err().0, Class::NotFound);
    life.step(Input::Exec(e())).unwrap();
    assert_eq!(text(life.step(Input::Exec(e()))).unwrap_err(), (Class::AlreadyExists, "id e: already exists".into()));
    assert_eq!(text(life.step(kill())).unwrap_err().0, Class::FailedPrecondition);
    life.step(Input::StartExec(e())).unwrap();
    assert!(life.is_starting(&Some(e())) && !life.is_starting(&None));
    assert_eq!(text(life.step(kill())).unwrap_err().0, Class::FailedPrecondition);
    life.step(Input::ExecFailed(e())).unwrap();
    assert!(!life.is_starting(&Some(e())));
    life.step(Input::StartExec(e())).unwrap();
    life.step(Input::ExecStarted(e())).unwrap();
    assert!(!life.is_starting(&Some(e())));
    assert_eq!(text(life.step(Input::DeleteExec(e()))).unwrap_err().1, "cannot delete a running process");
    assert_eq!(text(life.step(Input::StartExec(e()))).unwrap_err().1, "cannot start a running process");
    life.step(kill()).unwrap();
    life.step(Input::Exited(exit(137))).unwrap();
    life.step(Input::Drained).unwrap();
    assert_eq!(life.status(&None), Some(Status::Running), "init's exit waits for the exec's");
    life.step(Input::ExecExited(e(), exit(137))).unwrap();
    assert_eq!(life.status(&None), Some(Status::Stopped));
    assert_eq!(text(life.step(kill())).unwrap_err().1, "process already finished: not found");
    let late = text(life.step(Input::StartExec(e()))).unwrap_err();
    assert_eq!(late.1, "container c1 init process is not running: failed precondition");
    life.step(Input::DeleteExec(e())).unwrap();
    life.step(Input::ExecDeleted(e())).unwrap();
}

/// A frozen group of version 1 acts on SIGKILL when it is thawed, and not before.
#[test]
fn a_sigkill_while_the_group_is_frozen_or_thawed_leaves_it_thawed() {
    let kill = |signal| Input::Kill { who: None, signal };
    let thaws = |effects: &[Effect]| effects.iter().filter(|e| **e == Effect::Run(Job::Thaw)).count();
    let mut life = in_state("running");
    life.step(Input::Pause).unwrap();
    assert_eq!(thaws(&life.step(kill(9)).unwrap()), 0, "not while it is being frozen");
    assert_eq!(thaws(&life.step(Input::PauseDone { ok: true }).unwrap()), 1);

    let mut life = in_state("paused");
    life.step(Input::Resume).unwrap();
    life.step(kill(9)).unwrap();
    assert_eq!(thaws(&life.step(Input::ResumeDone { ok: false }).unwrap()), 1);

    // A pause that fails has thawed it, and is not remembered for the next one.
    let mut life = in_state("running");
    life.step(Input::Pause).unwrap();
    life.step(kill(9)).unwrap();
    assert_eq!(thaws(&life.step(Input::PauseDone { ok: false }).unwrap()), 0);
    life.step(Input::Pause).unwrap();
    life.step(kill(15)).unwrap();
    assert_eq!(thaws(&life.step(Input::PauseDone { ok: true }).unwrap()), 0);

    // Once, also when its exit was held.
    let mut life = in_state("running");
    life.step(Input::Pause).unwrap();
    life.step(kill(9)).unwrap();
    life.step(Input::Exited(exit(137))).unwrap();
    assert_eq!(thaws(&life.step(Input::PauseDone { ok: true }).unwrap()), 1);
}

#[test]
fn an_exec_that_is_deleted_while_it_is_being_started_is_killed_and_deleted() {
    let e = || "e".to_owned();
    let starting = || {
        let mut life = in_state("running");
        for input in [Input::Exec(e()), Input::StartExec(e())] {
            life.step(input).unwrap();
        }
        assert_eq!(life.step(Input::DeleteExec(e())).unwrap(), []);
        assert_eq!(life.step(Input::DeleteExec(e())).unwrap(), [], "the second joins the first");
        life
    };
    let delete = || Effect::Run(Job::DeleteExec(e()));

    let mut life = starting();
    let kill = [Effect::Publish(Event::ExecStarted(e())), Effect::Signal(Some(e()), 9)];
    assert_eq!(life.step(Input::ExecStarted(e())).unwrap(), kill);
    assert_eq!(life.step(Input::DeleteExec(e())).unwrap(), []);
    let ended = life.step(Input::ExecExited(e(), exit(137))).unwrap();
    let gone = [Effect::Release(Some(e()), Some(exit(137))), Effect::Publish(Event::Exit(Some(e()), exit(137)))];
    assert_eq!(ended, [&gone[..], &[delete()]].concat());
    assert_eq!(life.step(Input::ExecDeleted(e())).unwrap(), [Effect::Forget(Some(e()))]);
    // Its name is free, and no longer doomed.
    life.step(Input::Exec(e())).unwrap();
    life.step(Input::StartExec(e())).unwrap();
    assert_eq!(life.step(Input::ExecStarted(e())).unwrap(), [Effect::Publish(Event::ExecStarted(e()))]);

    let mut life = starting();
    assert_eq!(life.step(Input::ExecFailed(e())).unwrap(), [Effect::Release(Some(e()), None), delete()]);
    assert_eq!(life.step(Input::StartExec(e())).unwrap_err().text, "cannot start a deleted process");

    // Init's exit does not overtake it.
    let mut life = starting();
    assert_eq!(life.step(Input::Exited(exit(0))).unwrap(), []);
    assert_eq!(life.step(Input::Drained).unwrap(), []);
    let effects = life.step(Input::ExecFailed(e())).unwrap();
    let last =
        [delete(), Effect::StopOom, Effect::Release(None, Some(exit(0))), Effect::Publish(Event::Exit(None, exit(0)))];
    assert_eq!(effects[1..], last);
}

/// Who reads the output holds the announcement and nothing else.
#[test]
fn init_is_dead_before_its_output_is_read() {
    let announced = |life: &mut Lifecycle| {
        let effects = life.step(Input::Drained).unwrap();
        let last = [Effect::StopOom, Effect::Release(None, Some(exit(3))), Effect::Publish(Event::Exit(None, exit(3)))];
        assert_eq!(effects[..3], last);
        effects[3..].to_vec()
    };
    let mut life = Lifecycle::new("c1");
    for input in [Input::CreateDone { shares_pids: true }, Input::Start, Input::StartDone, Input::Exec("e".into())] {
        life.step(input).unwrap();
    }
    assert_eq!(life.step(Input::Exited(exit(3))).unwrap(), [Effect::Run(Job::KillAll)]);
    let refused = life.step(Input::StartExec("e".into())).unwrap_err();
    assert_eq!(refused.text, "container c1 init process is not running: failed precondition");
    assert_eq!(life.step(Input::KillAllDone).unwrap(), []);
    assert_eq!(life.status(&None), Some(Status::Running), "as long as nobody was told");
    assert_eq!(announced(&mut life), []);

    // Also while its start is still under way, with a hook that hangs.
    let mut life = in_state("created");
    for input in [Input::Exec("e".into()), Input::Start, Input::Exited(exit(3)), Input::Drained] {
        life.step(input).unwrap();
    }
    assert_eq!(life.step(Input::StartExec("e".into())).unwrap_err(), refused);

    // One that never ran can be deleted, before and after.
    let mut life = in_state("created");
    for input in [Input::Start, Input::StartFailed, Input::Exited(exit(3)), Input::Delete, Input::Delete] {
        life.step(input).unwrap();
    }
    assert_eq!(life.status(&None), Some(Status::Created));
    assert_eq!(announced(&mut life), [Effect::Run(Job::Delete)]);
}

/// In a shared pid namespace nobody else would kill it, and init's exit waits for its.
#[test]
fn an_exec_that_is_born_after_the_others_were_killed_is_killed() {
    let e = || "e".to_owned();
    let kill = || Input::Kill { who: None, signal: 9 };
    let born = |shares_pids, inputs: &[Input]| {
        let mut life = Lifecycle::new("c1");
        life.step(Input::CreateDone { shares_pids }).unwrap();
        for input in [Input::Exec(e()), Input::StartExec(e())].iter().chain(inputs) {
            life.step(input.clone()).unwrap();
        }
        life.step(Input::ExecStarted(e())).unwrap()
    };
    let started = || Effect::Publish(Event::ExecStarted(e()));
    let killed = [started(), Effect::Signal(Some(e()), 9)];
    let run = [Input::Start, Input::StartDone];
    assert_eq!(born(true, &[&run[..], &[Input::Exited(exit(0)), Input::KillAllDone]].concat()), killed);
    assert_eq!(born(true, &[Input::Delete, Input::KillAllDone]), killed);
    // While that is under way nobody knows whether it was seen.
    assert_eq!(born(true, &[&run[..], &[kill()]].concat()), killed);
    // The kernel kills it, or there will be another look for it when init ends.
    assert_eq!(born(false, &[&run[..], &[Input::Exited(exit(0))]].concat()), [started()]);
    assert_eq!(born(true, &[&run[..], &[kill(), Input::KillAllDone]].concat()), [started()]);
}
