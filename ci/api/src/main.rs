//! Lists a crate's public items, one a line, from the JSON that rustdoc writes, and checks that they
//! mention no crate that is not allowed: `tower-memory-api RUSTDOC_JSON ALLOWED`.
//!
//! The listing goes to standard output, what is wrong to standard error.
//!
//! Left out is what follows from other lines: automatic and blanket impls, `Unpin` as pin-project-lite
//! spells it out, and the methods of trait impls, whose signatures are the trait's.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::error::Error;
use std::process::ExitCode;

use public_api::{Builder, PublicItem};
use rustdoc_types::{Crate, FORMAT_VERSION, Id, Item, ItemEnum};
use serde_json::Value;

/// Crates of the toolchain. They are no promise beyond the one that Rust makes.
const STANDARD: [&str; 3] = ["alloc", "core", "std"];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(json), Some(allowed), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: tower-memory-api RUSTDOC_JSON ALLOWED");
        return ExitCode::from(2);
    };
    match run(&json, &allowed) {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            for line in wrong {
                eprintln!("api: {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("api: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the listing and returns what is wrong with it.
fn run(json: &str, allowed: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let krate = read(json)?;
    let allowed_text =
        std::fs::read_to_string(allowed).map_err(|error| format!("{allowed}: {error}"))?;
    let allowed_crates = parse(&allowed_text).map_err(|error| format!("{allowed}:{error}"))?;

    let api = Builder::from_rustdoc_json(json)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()?;
    let mut used = BTreeMap::new();
    // What is re-exported is met again with its members, in the same words.
    let mut printed = HashSet::new();
    for public in api.items().filter(|public| !implied(&krate, public)) {
        for name in foreign(&krate, public)? {
            used.entry(name).or_insert_with(|| public.to_string());
        }
        let line = public.to_string();
        if !printed.contains(&line) {
            println!("{line}");
            printed.insert(line);
        }
    }
    Ok(judge(&used, &allowed_crates))
}

/// Reads rustdoc's JSON, if it is in the format that the two libraries know.
fn read(path: &str) -> Result<Crate, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    // Before all the rest: another format has no reason to parse as this one.
    let value: Value = serde_json::from_str(&text)?;
    let format = value["format_version"].as_u64();
    if format != Some(u64::from(FORMAT_VERSION)) {
        let format = format.map_or("none".to_owned(), |format| format.to_string());
        return Err(format!(
            "{path} has format {format}, ci/api reads {FORMAT_VERSION}: \
             public-api and rustdoc-types have to fit the toolchain"
        )
        .into());
    }
    Ok(serde_json::from_value(value)?)
}

/// The allowed crates. A line has the crate's name, a colon and the reason; `#` begins a comment.
fn parse(text: &str) -> Result<BTreeSet<&str>, String> {
    let mut crates = BTreeSet::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(": ") {
            Some((name, reason)) if !reason.trim().is_empty() => {
                if !crates.insert(name) {
                    return Err(format!("{}: {name} stands here twice", at + 1));
                }
            }
            _ => return Err(format!("{}: not \"crate: reason\"", at + 1)),
        }
    }
    Ok(crates)
}

/// Compares the crates in use, each with an item that mentions it, with those that are allowed.
fn judge(used: &BTreeMap<String, String>, allowed: &BTreeSet<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, item) in used {
        if !allowed.contains(name.as_str()) {
            wrong.push(format!("the crate {name} is not allowed: {item}"));
        }
    }
    for name in allowed {
        if !used.contains_key(*name) {
            wrong.push(format!(
                "the crate {name} is allowed, but no item mentions it"
            ));
        }
    }
    wrong
}

/// Whether the item follows from others, and is left out.
fn implied(krate: &Crate, public: &PublicItem) -> bool {
    match inner(krate, public.id()) {
        Some(ItemEnum::Impl(this)) => this
            .trait_
            .as_ref()
            .is_some_and(|of| matches!(last(&of.path), "StructuralPartialEq" | "Unpin")),
        Some(ItemEnum::Function(_)) => public.parent_id().is_some_and(|parent| {
            matches!(inner(krate, parent), Some(ItemEnum::Impl(this)) if this.trait_.is_some())
        }),
        _ => false,
    }
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

fn inner(krate: &Crate, id: Id) -> Option<&ItemEnum> {
    krate.index.get(&id).map(|item: &Item| &item.inner)
}

/// The crates that the item names, but for its own and the standard library's.
fn foreign(krate: &Crate, public: &PublicItem) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut names = BTreeSet::new();
    if let Some(inner) = inner(krate, public.id()) {
        let mut ids = Vec::new();
        collect(&serde_json::to_value(inner)?, &mut ids);
        for id in ids {
            let Some(summary) = krate.paths.get(&id) else {
                return Err(format!("no path for what is in: {public}").into());
            };
            if summary.crate_id == 0 {
                continue;
            }
            let name = &krate.external_crates[&summary.crate_id].name;
            if !STANDARD.contains(&name.as_str()) {
                names.insert(name.clone());
            }
        }
    }
    Ok(names)
}

/// Finds the ids of all paths in a type, a signature, a bound: any object with a `path` and an `id`.
/// Walking the JSON rather than each of its Rust types leaves no kind of them out.
fn collect(value: &Value, ids: &mut Vec<Id>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect(value, ids)),
        Value::Object(fields) => {
            let is_path = fields.contains_key("path") || fields.contains_key("source");
            if let (true, Some(id)) = (is_path, fields.get("id").and_then(Value::as_u64)) {
                ids.extend(u32::try_from(id).map(Id));
            }
            fields.values().for_each(|value| collect(value, ids));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), "pub fn ours::f()".to_owned())])
    }

    #[test]
    fn a_crate_needs_a_reason() {
        assert_eq!(
            parse("# why\n\nbytes: the buffers\n"),
            Ok(BTreeSet::from(["bytes"]))
        );
        assert_eq!(
            parse("bytes: \n"),
            Err("1: not \"crate: reason\"".to_owned())
        );
        assert_eq!(parse("bytes\n"), Err("1: not \"crate: reason\"".to_owned()));
        assert_eq!(
            parse("a: b\na: c\n"),
            Err("2: a stands here twice".to_owned())
        );
    }

    #[test]
    fn what_is_used_and_what_is_allowed_are_the_same() {
        assert!(judge(&used("bytes"), &BTreeSet::from(["bytes"])).is_empty());
        assert_eq!(
            judge(&used("bytes"), &BTreeSet::new()),
            ["the crate bytes is not allowed: pub fn ours::f()"]
        );
        assert_eq!(
            judge(&BTreeMap::new(), &BTreeSet::from(["bytes"])),
            ["the crate bytes is allowed, but no item mentions it"]
        );
    }

    #[test]
    fn paths_are_found_at_any_depth() {
        let value = serde_json::json!({
            "sig": [{ "resolved_path": { "path": "Option", "id": 7, "args": [
                { "type": { "path": "Bytes", "id": 8 } },
            ] } }],
            "id": 9,
        });
        let mut ids = Vec::new();
        collect(&value, &mut ids);
        ids.sort();
        assert_eq!(ids, [Id(7), Id(8)]);
    }
}
