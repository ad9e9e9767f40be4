//! The cost of a process, as Linux reports it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The kernel counts CPU time for user space in hundredths of a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The cost of a process at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessCost {
    /// Resident memory in MiB.
    pub resident_mib: f64,
    /// The most resident memory that it ever had, in MiB.
    pub peak_mib: f64,
    /// Threads.
    pub threads: u64,
    /// CPU time used until now, in seconds.
    pub cpu_seconds: f64,
}

/// The cost of the process now; `None` when it has ended or this is not Linux.
pub fn cost(id: u32) -> Option<ProcessCost> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    parse(&status, &stat)
}

/// The cost of this process now, and its CPU time to the microsecond.
///
/// # Panics
///
/// When the system does not report it.
pub fn own_cost() -> ProcessCost {
    ProcessCost {
        cpu_seconds: own_cpu_seconds(),
        ..cost(std::process::id()).expect("Linux tells what a process costs")
    }
}

/// The CPU time of this process and all its threads, in user space and in the kernel.
///
/// # Panics
///
/// When the system does not report it.
#[cfg(unix)]
pub fn own_cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel tells what this process used");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// The CPU time of this process.
///
/// # Panics
///
/// Always: only Unix reports it.
#[cfg(not(unix))]
pub fn own_cpu_seconds() -> f64 {
    panic!("the CPU time of a process is measured on Unix only")
}

fn parse(status: &str, stat: &str) -> Option<ProcessCost> {
    let number = |name: &str| -> Option<u64> {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    // The second field is the program's name in parentheses, which may contain anything; utime and stime are 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcessCost {
        resident_mib: number("VmRSS:")? as f64 / 1024.0,
        peak_mib: number("VmHWM:")? as f64 / 1024.0,
        threads: number("Threads:")?,
        cpu_seconds: (ticks(14)? + ticks(15)?) as f64 / TICKS_PER_SECOND,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_understood() {
        let status = "Name:\ta b\nVmHWM:\t 30720 kB\nVmRSS:\t   20480 kB\nThreads:\t5\n";
        let stat = "42 (a b) (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 5 0 1";
        let expected = ProcessCost {
            resident_mib: 20.0,
            peak_mib: 30.0,
            threads: 5,
            cpu_seconds: 2.0,
        };
        assert_eq!(parse(status, stat), Some(expected));
        assert_eq!(parse("Name:\tx\n", stat), None);
    }
}
