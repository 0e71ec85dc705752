//! What the programs have in common: arguments, and the order of things.

use crate::{
    harness::{Contest, Report},
    machine,
};

/// Runs the rows that the arguments ask for. `allocator` is what the last line calls the allocator.
pub(crate) fn run(allocator: &str, groups: &[fn(&mut Vec<Contest>)]) {
    let mut list = false;
    let mut prefixes = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--list" => list = true,
            // `cargo bench` passes `--bench`; other flags belong to other harnesses.
            flag if flag.starts_with('-') => {}
            other => prefixes.push(other.to_owned()),
        }
    }

    let mut contests = Vec::new();
    for add in groups {
        add(&mut contests);
    }

    let mut report = Report::new(prefixes);
    if list {
        for row in contests.iter().flat_map(|contest| &contest.rows) {
            if report.wants(row) {
                println!("{row}");
            }
        }
        return;
    }

    println!("group/name | ours | peer (name) | ratio [quartiles] | target | met");
    for contest in contests {
        report.run(contest);
    }
    println!("{}", machine::line(allocator));
}
