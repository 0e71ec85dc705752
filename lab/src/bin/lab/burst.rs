//! What a burst of large responses leaves: resident memory before, during, and 30 s after 1000 x 1 MiB.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Plan, build::Programs, load, server::Server};

const BURST: usize = 1000;
const AFTER: Duration = Duration::from_secs(30);

/// In MiB, but for the name.
pub(crate) struct Burst {
    pub(crate) name: String,
    pub(crate) before: f64,
    pub(crate) highest: f64,
    pub(crate) at_end: f64,
    pub(crate) after: f64,
}

impl Burst {
    pub(crate) fn target(&self) -> f64 {
        1.15 * self.before + 4.0
    }
}

/// One after the other, and the waits at the same time.
pub(crate) fn all(plan: &Plan, programs: &Programs) -> Vec<Result<Burst, String>> {
    if plan.quick {
        println!("left out: the burst");
        return Vec::new();
    }
    println!("bursts of {BURST} x 1 MiB");
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (name, program) in &programs.retention {
            for kind in ["hook arena", "plain vec"] {
                running.push(scope.spawn(move || retention(name, program, kind)));
                thread::sleep(Duration::from_secs(8));
            }
        }
        if let Some((program, _)) = &programs.go {
            running.push(scope.spawn(move || go(program)));
        }
        let ended = running.into_iter().map(|one| one.join());
        ended
            .map(|one| one.unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    })
}

/// Runs `retention` of ci/programs and reads what it prints.
fn retention(name: &str, program: &Path, kind: &str) -> Result<Burst, String> {
    let words: Vec<&str> = kind.split(' ').collect();
    let output = Command::new(program)
        .args(&words)
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("{name}, {kind}: {error}"))?;
    parse(name, kind, &String::from_utf8_lossy(&output.stdout))
}

fn parse(name: &str, kind: &str, text: &str) -> Result<Burst, String> {
    let figure = |line: &str| {
        let line = text.lines().find_map(|each| each.strip_prefix(line));
        let figure =
            line.and_then(|line| line.split_whitespace().find_map(|word| word.parse().ok()));
        figure.ok_or_else(|| format!("{name}, {kind}: unexpected output: {text}"))
    };
    let what = match kind {
        "hook arena" => "arena, `on_trim` gives back",
        _ => "`Vec`, nothing set",
    };
    Ok(Burst {
        name: format!("{name}: {what}"),
        before: figure("warmed up: RSS ")?,
        highest: figure("highest in the burst: RSS ")?,
        at_end: figure("after it: RSS ")?,
        after: figure("30 s later: RSS ")?,
    })
}

fn go(program: &Path) -> Result<Burst, String> {
    let server = Server::start(program, &[], &[("GOMAXPROCS", "2")])?;
    let send = |path: &str, connections: usize| {
        // More files than a process may have open by default.
        let me = std::env::current_exe().map_err(|error| error.to_string())?;
        let script = "ulimit -n 8192; exec \"$0\" \"$@\"";
        Command::new("sh")
            .args(["-c", script])
            .arg(me)
            .args([
                "--burst",
                &server.addr.port().to_string(),
                path,
                &connections.to_string(),
            ])
            .spawn()
            .map_err(|error| error.to_string())
    };
    for _ in 0..20 {
        let _ = send("/pooled/100", 64)?.wait();
    }
    thread::sleep(Duration::from_secs(1));
    let before = server.rss();
    let mut clients = send("/burst", BURST)?;
    let mut highest = before;
    let status = loop {
        highest = highest.max(server.rss());
        if let Some(status) = clients.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        return Err("Go: the burst was not answered".into());
    }
    let (at_end, end) = (server.rss(), Instant::now());
    thread::sleep(AFTER.saturating_sub(end.elapsed()));
    Ok(Burst {
        name: "Go: `sync.Pool` of `[]byte`".into(),
        before,
        highest,
        at_end,
        after: server.rss(),
    })
}

/// The clients, in a process of their own.
pub(crate) fn clients(
    port: &str,
    path: &str,
    connections: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    let connections = connections.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = runtime.block_on(load::burst(addr, &load::request(path, None), connections));
    if answered < connections {
        return Err(format!("{answered} of {connections} requests to {path} were answered").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_retention_prints_is_read() {
        let text = "system, arena, hook\n\
            warmed up: RSS 6.0 MiB; pool 0.26 MiB waiting, 0.00 MiB rented\n  \
            12.0 MiB of arenas were freed: RSS 80.0 -> 8.1 MiB, in 3.1ms\n\
            highest in the burst: RSS 1007.4 MiB\n\
            after it: RSS 80.5 MiB; pool 64.00 MiB waiting, 0.00 MiB rented\n\
            10 s later: RSS 79.9 MiB; pool 0.00 MiB waiting, 0.00 MiB rented\n\
            30 s later: RSS 5.2 MiB; pool 0.00 MiB waiting, 0.00 MiB rented\n\
            target 10.9 MiB: met\n";
        let burst = parse("glibc", "hook arena", text).expect("all figures");
        let figures = [burst.before, burst.highest, burst.at_end, burst.after];
        assert_eq!(figures, [6.0, 1007.4, 80.5, 5.2]);
        assert!(burst.name.starts_with("glibc: arena"), "{}", burst.name);
        assert!(parse("glibc", "hook arena", "").is_err());
    }
}
