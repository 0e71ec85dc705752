//! Servers as processes of their own, pinned to a core, and what the system knows about them.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::load;

/// Ends when it is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) addr: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Allocations and bytes since the start; collections and their pauses in nanoseconds, with a collector.
#[derive(Clone, Copy)]
pub(crate) struct Usage([u64; 4]);

impl Usage {
    pub(crate) fn since(self, before: Self) -> [u64; 4] {
        std::array::from_fn(|i| self.0[i].saturating_sub(before.0[i]))
    }
}

impl Server {
    /// Starts a program on core 0, if there are several, which prints its port.
    pub(crate) fn start(
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", program.display());
        let mut command = pinned("0", program);
        command.args(args).envs(env.iter().copied());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(stdout) = &mut process.stdout {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.map_err(|error| failed(&error))?;
        }
        // Either the port alone, or a line that ends with it.
        let word = line.split_whitespace().find_map(|word| {
            let port = word.rsplit(':').next()?;
            port.parse().ok()
        });
        let Some(port) = word else {
            let _ = process.kill();
            let _ = process.wait();
            return Err(failed(&format!("did not print a port: {line:?}")));
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { process, addr })
    }

    /// Time on a processor so far, of all threads that live.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.process.id());
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        let nanos = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Resident memory, in MiB.
    pub(crate) fn rss(&self) -> f64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.process.id()));
        let pages = statm
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
        pages.unwrap_or(f64::NAN) * 4096.0 / f64::from(1 << 20)
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        if let Some(usage) = load::fetch(self.addr, "/usage")
            .ok()
            .and_then(|text| parse(&text))
        {
            return Some(usage);
        }
        // The inventory shows the same among its figures.
        let live = load::fetch(self.addr, "/live").ok()?;
        let (_, rest) = live.split_once("\"allocated\":[")?;
        let (both, _) = rest.split_once(']')?;
        parse(&format!("{} 0 0", both.replace(',', " ")))
    }
}

/// Reads four numbers.
fn parse(text: &str) -> Option<Usage> {
    let numbers = text.split(' ').map(|word| word.trim().parse().ok());
    let numbers: Vec<u64> = numbers.collect::<Option<_>>()?;
    numbers.try_into().ok().map(Usage)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A command that runs a program on this core, where that is possible.
pub(crate) fn pinned(core: &str, program: &Path) -> Command {
    let possible = Command::new("taskset")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    if cores() > 1 && possible.is_ok_and(|status| status.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(program);
        return command;
    }
    Command::new(program)
}
