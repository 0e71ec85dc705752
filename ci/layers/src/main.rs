//! Checks the structure of `src` (docs/DESIGN.md, "Modules"): `tower-memory-layers [--graph] [DIR]`.
//!
//! 1. A module imports only the modules in its row of [`MODULES`].
//! 2. Core modules do not name the crates in [`HTTP_CRATES`].
//! 3. `unsafe` stands only under [`UNSAFE_HOMES`].
//! 4. Files do not import one another in a circle, except for [`CIRCLES`].
//!
//! Each violation is printed as `file:line`. Comments and strings do not count. Test modules count
//! for all rules but the fourth. `--graph` also prints every circle, with one import for each edge.

mod graph;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use self::Layer::{Core, Http};
use self::source::{Reference, Tree};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Core,
    Http,
}

/// Each module, and what it may import besides itself.
#[rustfmt::skip]
const MODULES: &[(Layer, &str, &str)] = &[
    (Core, "bug",        ""),
    (Core, "sync",       ""),
    (Core, "config",     ""),
    (Core, "pack",       ""),
    (Core, "counted",    "sync"),
    (Core, "thread_number", ""),
    (Core, "sharded",    "sync thread_number"),
    (Core, "label_table", "sync"),
    (Core, "names",      "sync"),
    (Core, "sampler",    "sync names"),
    (Core, "account",    "sync names sampler"),
    (Core, "histogram",  "account"),
    (Core, "recycled",   "account"),
    (Core, "slab",       "sync thread_number account"),
    (Core, "housekeeping", "sync account slab"),
    (Core, "trace",      "sync names account housekeeping"),
    (Core, "arena",      "sync account trace"),
    (Core, "json",       "sync arena"),
    (Core, "deadline",   "sync housekeeping"),
    (Core, "cancel",     "sync housekeeping account deadline"),
    (Core, "pool",       "sync account config slab arena histogram housekeeping pack"),
    (Core, "profile",    "names account sampler"),
    (Core, "route",      "sync names account pool label_table"),
    (Core, "journal",    "sync pack thread_number account cancel route"),
    (Core, "task",       "sync names counted housekeeping slab recycled account cancel route trace"),
    (Core, "limit",      "sync thread_number account config counted slab housekeeping route"),
    (Core, "scope",      "sync counted sharded recycled housekeeping slab account arena deadline cancel pool route journal task limit trace"),
    (Http, "observe",    "sync housekeeping histogram slab account arena deadline cancel pool route journal task limit scope"),
    (Http, "wire",       "sync account arena json deadline cancel route limit scope"),
    (Http, "middleware", "sync sharded recycled config housekeeping account arena deadline cancel pool route limit scope observe wire"),
    (Http, "client",     "sync deadline cancel scope wire"),
    (Http, "guide",      ""),
    (Http, "test_util",  "account scope"),
    (Http, "debug",      "sync housekeeping account cancel trace profile limit task scope observe"),
    (Http, "extract",    "sync arena cancel json limit scope observe wire middleware"),
];

const HTTP_CRATES: &[&str] = &["http", "http_body", "tower_service", "tower_layer", "axum"];

const UNSAFE_HOMES: &[&str] = &[
    "src/account/allocator.rs",
    "src/account/raw/",
    "src/arena/raw/",
    "src/counted.rs",
    "src/sampler/raw/",
    "src/scope/erased.rs",
    "src/trace/clock.rs",
];

/// Circles that are allowed, each with the reason. A circle may be smaller than its entry.
#[rustfmt::skip]
const CIRCLES: &[(&str, &str)] = &[];
const MOST_CIRCLES: usize = 2;
const _: () = assert!(CIRCLES.len() <= MOST_CIRCLES);

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let graph = args.first().is_some_and(|arg| arg == "--graph");
    args.drain(..usize::from(graph));
    if args.len() > 1 || args.iter().any(|arg| arg.starts_with('-')) {
        eprintln!("usage: tower-memory-layers [--graph] [DIR]");
        return ExitCode::from(2);
    }
    let root = Path::new(args.first().map_or(".", String::as_str));
    let tree = match source::tree(&|file| std::fs::read_to_string(root.join(file)).ok()) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("layers: {error}");
            return ExitCode::from(2);
        }
    };
    if graph {
        for circle in graph::circles(&tree) {
            let files: Vec<&str> = circle.files.into_iter().collect();
            println!(
                "circle of {} files: {}",
                files.len(),
                files.join(" ").replace("src/", "")
            );
            println!("  {}", circle.imports.join("\n  "));
        }
    }
    let violations = check(&tree, CIRCLES);
    for violation in &violations {
        println!("{violation}");
    }
    println!(
        "layers: {} files, {} violations",
        tree.files.len(),
        violations.len()
    );
    ExitCode::from(u8::from(!violations.is_empty()))
}

/// All violations, as `file:line: text`.
fn check(tree: &Tree, allowed: &[(&str, &str)]) -> BTreeSet<String> {
    let mut violations = BTreeSet::new();
    for (name, file) in &tree.files {
        let mut report =
            |line: usize, text: String| violations.insert(format!("{name}:{line}: {text}"));
        if !UNSAFE_HOMES.iter().any(|home| name.starts_with(home)) {
            for &line in &file.unsafes {
                report(line, "`unsafe` outside UNSAFE_HOMES".to_owned());
            }
        }
        let Some(module) = file.module.first() else {
            continue;
        };
        let Some((layer, _, may)) = MODULES.iter().find(|row| row.1 == module) else {
            report(1, format!("module `{module}` has no row in ci/layers"));
            continue;
        };
        for reference in &file.references {
            if let Some(text) = judge(tree, *layer, module, may, reference) {
                report(reference.line, text);
            }
        }
    }
    violations.extend(graph::violations(&graph::circles(tree), allowed));
    violations
}

/// Rules 1 and 2 for one path.
fn judge(tree: &Tree, layer: Layer, module: &str, may: &str, from: &Reference) -> Option<String> {
    let first = from.path[0].as_str();
    let Some((home, names)) = from.anchored() else {
        let path = from.binds.is_some() || from.absolute || from.path.len() > 1;
        return (layer == Core && path && HTTP_CRATES.contains(&first))
            .then(|| format!("core module `{module}` names the crate `{first}`"));
    };
    if !home.is_empty() {
        return None;
    }
    let Some(name) = names.first() else {
        // A path that ends at the root and binds nothing is a visibility.
        let whole = from.binds.is_some();
        return whole.then(|| format!("`{module}` imports the crate root whole"));
    };
    let own = MODULES.iter().any(|row| row.1 == name).then_some(name);
    let Some(target) = own.or(tree.exports.get(name)) else {
        return Some(format!(
            "`{module}` names `crate::{name}`, no module or root re-export"
        ));
    };
    let via = own.map_or_else(|| format!(" (through `crate::{name}`)"), |_| String::new());
    let allowed = target == module || may.split(' ').any(|other| other == target);
    (!allowed).then(|| format!("`{module}` may not import `{target}`{via}"))
}
