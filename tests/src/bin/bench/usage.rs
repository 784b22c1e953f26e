//! What processes used, from `/proc`.

use anyhow::{Context as _, Result};

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that this runs on (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A process's CPU time at some moment.
#[derive(Debug)]
pub(crate) struct Cpu {
    process: String,
    seconds: f64,
}

impl Cpu {
    pub(crate) fn of(process: u32) -> Result<Self> {
        Self::read(process.to_string())
    }

    pub(crate) fn of_self() -> Result<Self> {
        Self::read("self".to_owned())
    }

    fn read(process: String) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in brackets may hold spaces: count after it. utime and stime are fields 14 and 15 (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks =
            |field: usize| -> Result<f64> { Ok(fields.get(field).context("too few fields")?.parse()?) };
        Ok(Self { process, seconds: (ticks(11)? + ticks(12)?) / TICKS })
    }

    /// CPU seconds since then.
    pub(crate) fn since(&self) -> Result<f64> {
        Ok(Self::read(self.process.clone())?.seconds - self.seconds)
    }
}

/// The most memory that a process had resident so far, in MiB.
pub(crate) fn peak_mib(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
