//! What processes and the machine used, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that this runs on (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A process's CPU time at some moment.
#[derive(Debug)]
pub struct Cpu {
    process: String,
    seconds: f64,
}

impl Cpu {
    /// That of a process now.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(process: u32) -> Result<Self> {
        Self::read(process.to_string())
    }

    /// That of a process when it started: what is counted since then is all it used.
    pub fn from_start(process: u32) -> Self {
        Self { process: process.to_string(), seconds: 0.0 }
    }

    /// That of this process now.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn of_self() -> Result<Self> {
        Self::read("self".to_owned())
    }

    fn read(process: String) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in brackets may hold spaces: count after it. utime and stime are fields 14 and 15 (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks =
            |field: usize| -> Result<f64> { Ok(fields.get(field).context("too few fields")?.parse()?) };
        Ok(Self { process, seconds: (ticks(11)? + ticks(12)?) / TICKS })
    }

    /// CPU seconds since then.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn since(&self) -> Result<f64> {
        Ok(Self::read(self.process.clone())?.seconds - self.seconds)
    }
}

/// The CPU time of the whole machine at some moment, whoever used it.
#[derive(Debug)]
pub struct Machine {
    busy: f64,
    all: f64,
}

impl Machine {
    /// That of now.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks = line.split_whitespace().skip(1).take(8).map(str::parse);
        let ticks: Vec<f64> = ticks.collect::<Result<_, _>>().context("/proc/stat has no numbers")?;
        let all: f64 = ticks.iter().sum();
        // Fields 4 and 5 are idle and waiting for disks (proc(5)).
        let idle: f64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: all - idle, all })
    }

    /// How busy it was since then.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn busy_since(&self) -> Result<Busy> {
        let now = Self::now()?;
        let busy = now.busy - self.busy;
        Ok(Busy { seconds: busy / TICKS, part: busy / (now.all - self.all).max(1.0) })
    }
}

/// How busy the machine was.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// CPU seconds of all its cores.
    pub seconds: f64,
    /// What part this is of what all its cores could have done, from 0 to 1.
    pub part: f64,
}

/// The most memory that a process had resident so far, in MiB.
///
/// # Errors
/// If there is no such process.
pub fn peak_mib(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
