//! What the files of `src` declare, import and name. `mod` items lead from `src/lib.rs` to all of
//! them.

use std::collections::{BTreeMap, HashMap};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, Meta, Token, UseTree, punctuated::Punctuated};

/// A module's path from the crate's root.
pub(crate) type Module = Vec<String>;

/// A path in the code, or one leaf of a `use`.
pub(crate) struct Reference {
    /// Without a final `self` or `*`.
    pub(crate) path: Vec<String>,
    /// Where the first name stands that is not `crate`, `self` or `super`.
    pub(crate) line: usize,
    pub(crate) absolute: bool,
    /// The name that a `use` binds, or `*`.
    pub(crate) binds: Option<String>,
    pub(crate) reexport: bool,
    /// The module it stands in, and whether that is for tests alone.
    pub(crate) home: Module,
    pub(crate) test: bool,
}

#[derive(Default)]
pub(crate) struct Source {
    pub(crate) module: Module,
    pub(crate) references: Vec<Reference>,
    pub(crate) unsafes: Vec<usize>,
}

#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, Source>,
    /// The files of each module: two where a feature chooses.
    pub(crate) modules: HashMap<Module, Vec<String>>,
    /// The module of each name at the crate's root.
    pub(crate) exports: HashMap<String, String>,
}

pub(crate) type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `src/lib.rs` and all that it leads to.
pub(crate) fn tree(read: Read<'_>) -> Result<Tree, String> {
    let mut tree = Tree::default();
    load(&mut tree, read, "src/lib.rs", Module::new(), false)?;
    if tree.files.is_empty() {
        return Err("no src/lib.rs".to_owned());
    }
    for reference in &tree.files["src/lib.rs"].references {
        let anchors = usize::from(matches!(&*reference.path[0], "crate" | "self"));
        if let (Some(name), [module, _, ..]) = (&reference.binds, &reference.path[anchors..]) {
            tree.exports.insert(name.clone(), module.clone());
        }
    }
    Ok(tree)
}

fn load(
    tree: &mut Tree,
    read: Read<'_>,
    name: &str,
    module: Module,
    test: bool,
) -> Result<(), String> {
    let Some(text) = read(name) else {
        return Ok(());
    };
    let file = syn::parse_file(&text).map_err(|error| format!("{name}: {error}"))?;
    let home = module.clone();
    let mut scan = Scan {
        home,
        test,
        ..Scan::default()
    };
    unsafes(text.parse().unwrap_or_default(), &mut scan.source.unsafes);
    scan.visit_file(&file);
    for module in scan.inline.into_iter().chain([module.clone()]) {
        tree.modules
            .entry(module)
            .or_default()
            .push(name.to_owned());
    }
    for own in scan.macros {
        tree.exports
            .insert(own, module.first().cloned().unwrap_or_default());
    }
    let folder = &name[..=name.rfind('/').unwrap_or(0)];
    for (child, paths, test) in scan.children {
        let stem = format!("src/{}", child.join("/"));
        let mut files = vec![format!("{stem}.rs"), format!("{stem}/mod.rs")];
        files.extend(paths.iter().map(|path| format!("{folder}{path}")));
        let loaded = tree.files.len();
        for file in files {
            load(tree, read, &file, child.clone(), test)?;
        }
        if tree.files.len() == loaded {
            return Err(format!("{name}: no file for `mod {}`", child.join("::")));
        }
    }
    scan.source.module = module;
    tree.files.insert(name.to_owned(), scan.source);
    Ok(())
}

fn unsafes(tokens: TokenStream, lines: &mut Vec<usize>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) if name == "unsafe" => lines.push(name.span().start().line),
            TokenTree::Group(group) => unsafes(group.stream(), lines),
            _ => {}
        }
    }
}

impl Reference {
    /// Follows `crate`, `self` and `super`: the module they lead to, and the names after it.
    pub(crate) fn anchored(&self) -> Option<(Module, &[String])> {
        let at: &[String] = match &*self.path[0] {
            _ if self.absolute => return None,
            "crate" => &[],
            "self" | "super" => &self.home,
            _ => return None,
        };
        let rest = &self.path[usize::from(self.path[0] != "super")..];
        let supers = rest.iter().take_while(|name| *name == "super").count();
        Some((
            at[..at.len().saturating_sub(supers)].to_vec(),
            &rest[supers..],
        ))
    }
}

#[derive(Default)]
struct Scan {
    source: Source,
    home: Module,
    test: bool,
    macros: Vec<String>,
    inline: Vec<Module>,
    /// `mod NAME;`: the module, the files of `path` attributes, whether it is for tests alone.
    children: Vec<(Module, Vec<String>, bool)>,
}

impl Scan {
    fn refer(&mut self, path: &[Ident], absolute: bool, binds: Option<String>, reexport: bool) {
        let anchor = |name: &&Ident| *name == "crate" || *name == "self" || *name == "super";
        let Some(told) = path.iter().find(|name| !anchor(name)).or(path.last()) else {
            return;
        };
        self.source.references.push(Reference {
            path: path.iter().map(ToString::to_string).collect(),
            line: told.span().start().line,
            absolute,
            binds,
            reexport,
            home: self.home.clone(),
            test: self.test,
        });
    }

    fn import(&mut self, tree: &UseTree, prefix: &[Ident], absolute: bool, reexport: bool) {
        let (name, binds) = match tree {
            UseTree::Path(path) => {
                let path_to = [prefix, std::slice::from_ref(&path.ident)].concat();
                return self.import(&path.tree, &path_to, absolute, reexport);
            }
            UseTree::Group(group) => {
                let each = |tree| self.import(tree, prefix, absolute, reexport);
                return group.items.iter().for_each(each);
            }
            UseTree::Name(name) => (Some(&name.ident), &name.ident),
            UseTree::Rename(name) => (Some(&name.ident), &name.rename),
            UseTree::Glob(_) => return self.refer(prefix, absolute, Some("*".into()), reexport),
        };
        let own = name
            .filter(|name| *name != "self" || prefix.is_empty())
            .cloned();
        let binds = if binds == "self" {
            prefix.last().unwrap_or(binds)
        } else {
            binds
        };
        let path: Vec<Ident> = prefix.iter().cloned().chain(own).collect();
        self.refer(&path, absolute, Some(binds.to_string()), reexport);
    }

    /// The paths in a macro. Those in braces after `::` continue the one before.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[Ident]) {
        let (mut path, mut colons) = (prefix.to_vec(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 && path.len() > prefix.len() {
                        self.refer(&path, false, None, false);
                        path.truncate(prefix.len());
                    }
                    path.push(name);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream(), if colons == 2 { &path } else { &[] });
                    }
                    self.refer(&path, false, None, false);
                    path.truncate(prefix.len());
                    colons = 0;
                }
            }
        }
        self.refer(&path, false, None, false);
    }
}

impl Visit<'_> for Scan {
    fn visit_attribute(&mut self, _: &Attribute) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<Ident> = path
            .segments
            .iter()
            .map(|segment| segment.ident.clone())
            .collect();
        self.refer(&names, path.leading_colon.is_some(), None, false);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &syn::Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone(), &[]);
    }

    fn visit_item_macro(&mut self, item: &syn::ItemMacro) {
        self.macros
            .extend(item.ident.as_ref().map(ToString::to_string));
        visit::visit_item_macro(self, item);
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        let test = self.test;
        self.test |= any_for_tests(&item.attrs);
        let reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.import(&item.tree, &[], item.leading_colon.is_some(), reexport);
        self.test = test;
    }

    fn visit_item_extern_crate(&mut self, item: &syn::ItemExternCrate) {
        // `self` is the crate itself here.
        let own = item.ident == "self";
        let name = if own {
            Ident::new("crate", item.ident.span())
        } else {
            item.ident.clone()
        };
        self.refer(&[name], !own, Some(item.ident.to_string()), false);
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        let test = self.test;
        self.test |= any_for_tests(&item.attrs);
        self.home.push(item.ident.to_string());
        if item.content.is_some() {
            self.inline.push(self.home.clone());
            visit::visit_item_mod(self, item);
        } else {
            let paths = item.attrs.iter().filter_map(path_in).collect();
            self.children.push((self.home.clone(), paths, self.test));
        }
        self.home.pop();
        self.test = test;
    }
}

fn any_for_tests(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| for_tests(&attribute.meta))
}

/// Whether `cfg` leaves out the code in all builds but those for tests.
fn for_tests(meta: &Meta) -> bool {
    let inside = || {
        meta.require_list()?
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
    };
    match meta.path().get_ident().map(ToString::to_string).as_deref() {
        Some("test") => matches!(meta, Meta::Path(_)),
        Some("cfg" | "all") => inside().is_ok_and(|inside| inside.iter().any(for_tests)),
        _ => false,
    }
}

/// The file that a `cfg_attr` chooses for a module.
fn path_in(attribute: &Attribute) -> Option<String> {
    let tokens = attribute.meta.require_list().ok()?.tokens.to_string();
    let (_, path) = tokens.split_once("path = \"")?;
    Some(path.split('"').next()?.to_owned())
}
