//! Which file imports which, and the circles among them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::source::{Reference, Tree};

/// Files that import one another.
pub(crate) struct Circle<'a> {
    pub(crate) files: BTreeSet<&'a str>,
    /// One line for each import within the circle.
    pub(crate) imports: Vec<String>,
}

/// Finds all circles.
pub(crate) fn circles(tree: &Tree) -> Vec<Circle<'_>> {
    let edges = edges(tree);
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        reach.entry(from).or_default().insert(to);
        reach.entry(to).or_default();
    }
    for via in tree.files.keys().map(String::as_str) {
        let onward = reach.get(via).cloned().unwrap_or_default();
        for from in reach.values_mut().filter(|from| from.contains(via)) {
            from.extend(&onward);
        }
    }
    let mut found: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for ((from, to), line) in edges {
        let members = reach[from]
            .iter()
            .filter(|other| reach[*other].contains(from));
        let members: BTreeSet<&str> = members.copied().collect();
        if members.contains(to) {
            let imports = found.entry(members).or_default();
            imports.push(format!("{from}:{line}: imports {to}"));
        }
    }
    let circle = |(files, imports)| Circle { files, imports };
    found.into_iter().map(circle).collect()
}

/// Circles that are not allowed, and allowed ones that are gone.
pub(crate) fn violations(circles: &[Circle<'_>], allowed: &[(&str, &str)]) -> Vec<String> {
    let allows = |entry: &str, circle: &Circle<'_>| {
        let mut files = circle.files.iter();
        files.all(|file| {
            entry
                .split(' ')
                .any(|name| file.strip_prefix("src/") == Some(name))
        })
    };
    let mut violations = Vec::new();
    for circle in circles {
        if !allowed.iter().any(|(entry, _)| allows(entry, circle)) {
            let (first, count) = (&circle.imports[0], circle.files.len());
            violations.push(format!(
                "{first}, and so on in a circle of {count} files (--graph)"
            ));
        }
    }
    for (entry, _) in allowed {
        if !circles.iter().any(|circle| allows(entry, circle)) {
            violations.push(format!(
                "src/lib.rs:1: CIRCLES allows what is no circle: {entry}"
            ));
        }
    }
    violations
}

/// What `use` binds in each module.
type Bound<'a> = HashMap<(&'a [String], &'a str), Vec<&'a Reference>>;

/// The imports from file to file, each with its first line. A re-export is not one: what uses it is
/// followed to the file that defines the item.
fn edges(tree: &Tree) -> BTreeMap<(&str, &str), usize> {
    let mut bound = Bound::new();
    let counted = |from: &&Reference| !from.test && !from.absolute;
    for reference in tree
        .files
        .values()
        .flat_map(|file| &file.references)
        .filter(counted)
    {
        if let Some(name) = &reference.binds {
            bound
                .entry((&reference.home, name))
                .or_default()
                .push(reference);
        }
    }
    let mut edges = BTreeMap::new();
    for (from, file) in &tree.files {
        for reference in file
            .references
            .iter()
            .filter(counted)
            .filter(|from| !from.reexport)
        {
            for to in files(tree, &bound, reference, &[], 0)
                .iter()
                .filter(|to| *to != from)
            {
                let line = edges
                    .entry((from.as_str(), to.as_str()))
                    .or_insert(reference.line);
                *line = reference.line.min(*line);
            }
        }
    }
    edges
}

/// The files that define what the reference and the names after it mean. None for items of other
/// crates, nor for a module as such: what is used of it is a longer path.
fn files<'a>(
    tree: &'a Tree,
    bound: &Bound<'_>,
    reference: &Reference,
    after: &[String],
    depth: usize,
) -> &'a [String] {
    let anchored = reference.anchored();
    let inside = anchored.is_some();
    let (mut at, names) = anchored.unwrap_or_else(|| (reference.home.clone(), &reference.path));
    let names = [names, after].concat();
    for (i, name) in names.iter().enumerate() {
        let child = [&at[..], std::slice::from_ref(name)].concat();
        if tree.modules.contains_key(&child) {
            at = child;
            continue;
        }
        for (key, rest) in [(&**name, &names[i + 1..]), ("*", &names[i..])] {
            for import in bound.get(&(&at[..], key)).into_iter().flatten() {
                // A name that stands for itself leads here again.
                if depth < 16 {
                    let found = files(tree, bound, import, rest, depth + 1);
                    if !found.is_empty() {
                        return found;
                    }
                }
            }
        }
        let known = tree.modules.get(&at).filter(|_| inside || i > 0);
        return known.map_or(&[], Vec::as_slice);
    }
    &[]
}
