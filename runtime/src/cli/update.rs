//! `update`: other limits for a container that exists.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::Path;

use runtime::spec::{BlockIo, Cpu, Memory, Pids, Resources, check, from_json};
use runtime::{Error, Kind, Result};

use super::args::{self, Limits};
use super::store::Status;
use super::{Context, words};

/// Applies the limits of a file or of options.
pub fn update(context: &Context<'_>, args: &args::Update) -> Result<()> {
    let found = context.store.find(&args.id)?;
    if found.status()? == Status::Stopped {
        return Err(Error::new(Kind::State, "", "", "container not running"));
    }
    let resources = match &args.resources {
        Some(path) => from_json(&read(path)?)?,
        None => resources(&args.limits)?,
    };
    check::resources(&resources)?;
    check::resources_warning(&resources).iter().for_each(|w| context.log.warn(w));
    // A record of an older version may have outlived its bundle: then the kernel's defaults.
    let spec = found.record.spec().unwrap_or_default();
    found.cgroup()?.update_from(&spec.linux.resources, &resources)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut json = Vec::new();
    let done = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut json).map(drop)
    } else {
        std::fs::read(path).map(|read| json = read)
    };
    done.map_err(|e| Error::io("open", path.display().to_string(), &e))?;
    Ok(json)
}

fn resources(l: &Limits) -> Result<Resources> {
    let size = |word: &Option<String>| word.as_deref().map(words::bytes).transpose();
    for (option, schema) in [("--l3-cache-schema", &l.l3_cache_schema), ("--mem-bw-schema", &l.mem_bw_schema)] {
        if schema.as_ref().is_some_and(|schema| !schema.is_empty()) {
            return Err(Error::new(Kind::Unsupported, "", option, "Intel RDT is not implemented"));
        }
    }
    let memory = Memory {
        limit: size(&l.memory)?,
        reservation: size(&l.memory_reservation)?,
        swap: size(&l.memory_swap)?,
        kernel: size(&l.kernel_memory)?,
        kernel_tcp: size(&l.kernel_memory_tcp)?,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: l.cpu_share,
        quota: l.cpu_quota,
        burst: l.cpu_burst,
        period: l.cpu_period,
        realtime_runtime: l.cpu_rt_runtime,
        realtime_period: l.cpu_rt_period,
        cpus: l.cpuset_cpus.clone().unwrap_or_default(),
        mems: l.cpuset_mems.clone().unwrap_or_default(),
        idle: l.cpu_idle,
    };
    Ok(Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: l.pids_limit.map(|n| Pids { limit: Some(n) }),
        block_io: l.blkio_weight.map(|weight| BlockIo { weight: Some(weight), ..BlockIo::default() }),
        ..Resources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn options_may_follow_the_id_and_be_negative() {
        let line = [
            "mini",
            "update",
            "c1",
            "--memory",
            "-1",
            "--pids-limit",
            "-1",
            "--cpu-quota",
            "-1",
            "--memory-swap",
            "1g",
        ];
        let Some(args::Command::Update(args)) = args::Mini::try_parse_from(line).unwrap().command else { panic!() };
        let r = resources(&args.limits).unwrap();
        assert_eq!(r.memory.unwrap().limit, Some(-1));
        assert_eq!(r.pids.unwrap().limit, Some(-1));
        assert_eq!(r.cpu.unwrap().quota, Some(-1));
        let line = ["mini", "update", "c1", "--memory", "1", "--resources", "-"];
        assert!(args::Mini::try_parse_from(line).is_err(), "a file and options exclude each other");
        assert!(args::Mini::try_parse_from(["mini", "update", "c1", "-r", "-"]).is_ok());
    }
}
