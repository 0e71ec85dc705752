//! Compares the routes of this crate with plain axum and with Go, over loopback, and writes `docs/results.md`.
//!
//! ```sh
//! cargo run --release -p tower-memory-lab            # about six minutes, and writes docs/results.md
//! cargo run --release -p tower-memory-lab -- --quick # less than a minute, writes to the target directory
//! ```

mod build;
mod burst;
mod load;
mod plots;
mod results;
mod server;
mod sides;
mod stats;

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// How long and how often to measure.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) quick: bool,
    pub(crate) out: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] => run(false),
        ["--quick"] => run(true),
        // The clients of a burst, as a process with more files.
        ["--burst", port, path, connections] => burst::clients(port, path, connections),
        _ => {
            eprintln!("usage: lab [--quick]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(quick: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let programs = build::all(quick)?;
    let out = if quick {
        programs.release.join("lab-results")
    } else {
        build::root().join("docs")
    };
    let plan = Plan {
        rounds: if quick { 1 } else { 5 },
        time: Duration::from_millis(if quick { 300 } else { 1200 }),
        quick,
        out,
    };
    // The processes with the burst wait most of the time, so they run before the others and not beside them.
    let bursts = burst::all(&plan, &programs);
    // Servers have core 0.
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-acp", "1", &own])
        .stdout(Stdio::null())
        .status();
    if !pinned.is_ok_and(|status| status.success()) {
        println!("NOT pinned: taskset fails, or there is one core");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(sides::measure(&plan, &programs))?;
    let path = results::write(&plan, &programs, &measured, &bursts)?;
    println!("\nwrote {}", path.display());
    Ok(())
}
