//! The report that is committed as `docs/soak.md`.

use std::process::Command;

use super::{
    checks::{Soaked, mib},
    plan::{Kind, MIX},
};

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".to_owned())
}

/// A number with its thousands apart.
fn apart(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| {
        model.trim_start_matches([':', '\t', ' '])
    });
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{count} cores of {model}, Linux {}",
        output("uname", &["-r"])
    )
}

pub(crate) fn markdown(seed: u64, requests: u64, results: &[Soaked]) -> String {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let mut text = format!(
        "# Soak\n\n\
         Written by `tests/soak`, which says what it does. Run again with\n\
         `SOAK_SEED={seed} SOAK_REQUESTS={requests} SOAK_REPORT=docs/soak.md cargo test --release \
         --all-features --test soak`.\n\n\
         | | |\n|---|---|\n\
         | date | {} |\n| machine | {} |\n| load before | {} |\n| compiler | {}, {profile} build |\n\
         | seed | {seed} |\n\n",
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        machine(),
        std::fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .trim(),
        output("rustc", &["--version"]),
    );
    let mut row = |name: &str, value: &dyn Fn(&Soaked) -> String| {
        let cells: Vec<_> = results.iter().map(value).collect();
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    };
    row("variant", &|result| result.name.to_owned());
    row("---", &|_| "---".to_owned());
    row("requests", &|result| apart(result.requests() as i64));
    row("time, s", &|result| {
        format!("{:.0}", result.took.as_secs_f64())
    });
    row("requests per second", &|result| {
        apart((result.requests() as f64 / result.took.as_secs_f64()) as i64)
    });
    row("in process, HTTP/1, HTTP/2", &|result| {
        result
            .tally
            .ways
            .map(|count| apart(count as i64))
            .join(", ")
    });
    row("response bytes compared, MiB", &|result| {
        apart((result.tally.bytes >> 20) as i64)
    });
    row("bytes of other requests found", &|_| "0".to_owned());
    row("reports, and reports dropped by a full queue", &|result| {
        format!(
            "{}, {}",
            apart(result.reported.0 as i64),
            apart(result.reported.1 as i64)
        )
    });
    row(
        "arenas and blocks made, freed, forgotten on purpose",
        &|result| {
            let counts = [result.heads.0, result.heads.1, result.heads_forgotten()];
            counts.map(apart).join(", ")
        },
    );
    row("tasks that were aborted or given up", &|result| {
        apart(result.overran as i64)
    });
    row("looks at the gauges while requests were open", &|result| {
        apart(result.samples as i64)
    });
    row(
        "live heap, second half over the quarter before, bytes",
        &|result| apart(result.growth().0),
    );
    row(
        "resident set in the second half, MiB per million requests",
        &|result| mib(result.growth().1),
    );
    for at in 0..results[0].outcomes.len() {
        let name = results[0].outcomes[at].0.as_str();
        row(&format!("outcome `{name}`"), &|result| {
            apart(result.outcomes[at].1 as i64)
        });
    }
    text += "\nIn flight, tasks, detached tasks, tokens, and arenas and blocks beyond those forgotten: \
             0 after each\nround, and after the end of the runtime.\n\n\
             | of 1000 | kind | outcomes |\n|---|---|---|\n";
    for (kind, count) in MIX {
        let outcomes: Vec<_> = kind
            .outcomes()
            .iter()
            .map(|outcome| outcome.as_str())
            .collect();
        let requests = match kind {
            Kind::Shutdown => " (three requests)",
            _ => "",
        };
        text += &format!(
            "| {count} | {}{requests} | {} |\n",
            kind.name(),
            outcomes.join(", ")
        );
    }
    text
}
