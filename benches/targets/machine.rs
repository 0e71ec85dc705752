//! Where and when the numbers were taken.

use std::{
    process::Command,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) fn line(allocator: &str) -> String {
    format!(
        "# {} | {}, {} cores | {} | {allocator} ({})",
        date(),
        processor(),
        thread::available_parallelism().map_or(0, usize::from),
        compiler(),
        libc_version(),
    )
}

/// Today's date (UTC).
fn date() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // Days since 0000-03-01, in eras of 400 years, which all have the same number of days.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(
            || std::env::consts::ARCH.to_owned(),
            |(_, name)| name.trim().to_owned(),
        )
}

fn compiler() -> String {
    Command::new("rustc")
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "rustc ?".to_owned(), |version| version.trim().to_owned())
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn libc_version() -> String {
    // SAFETY: returns a static string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn libc_version() -> String {
    std::env::consts::OS.to_owned()
}

/// Keeps the calling thread on the `nth` processor it may use; without that, two threads that run
/// for some milliseconds often share one.
#[cfg(target_os = "linux")]
pub(crate) fn pin(nth: usize) {
    // SAFETY: a set of processors is plain bits, of which all zeroes is the empty set; the calls get
    // pointers to sets of the size they are told.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &raw mut allowed) != 0 {
            return;
        }
        let all = 0..libc::CPU_SETSIZE as usize;
        let mut usable = all.filter(|&processor| libc::CPU_ISSET(processor, &allowed));
        if let Some(processor) = usable.nth(nth) {
            let mut chosen: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(processor, &mut chosen);
            libc::sched_setaffinity(0, size, &raw const chosen);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_nth: usize) {}
