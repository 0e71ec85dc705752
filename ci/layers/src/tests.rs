//! The checker on small trees. `=== FILE` begins a file, `//~ TEXT | TEXT` says which violations
//! its line has.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::circles;
use crate::source::{self, Tree};

fn tree(text: &str) -> Tree {
    let files = text
        .split("=== ")
        .skip(1)
        .filter_map(|file| file.split_once('\n'));
    let files: BTreeMap<&str, &str> = files.collect();
    source::tree(&|name| files.get(name).map(|text| (*text).to_owned())).expect("it parses")
}

#[track_caller]
fn check(text: &str, allowed: &[(&str, &str)]) {
    let mut expected = BTreeSet::new();
    for file in text.split("=== ").skip(1) {
        let (name, lines) = file.split_once('\n').expect("a name");
        for (at, line) in lines.lines().enumerate() {
            let marks = line.split_once("//~ ").map_or("", |(_, marks)| marks);
            for mark in marks.split(" | ").filter(|mark| !mark.is_empty()) {
                expected.insert(format!("{name}:{}: {mark}", at + 1));
            }
        }
    }
    let found = crate::check(&tree(text), allowed);
    assert_eq!(found, expected);
}

#[test]
fn each_violation_is_found_where_it_stands() {
    check(
        r##"
=== src/lib.rs
mod sync; mod account; mod arena; mod pool; mod cancel; mod scope; mod observe; mod wire;
mod middleware; mod extract; mod stray;
pub use crate::scope::{config::Config, RequestScope as Scope, RequestScope};
fn f() { unsafe { g() } } //~ `unsafe` outside UNSAFE_HOMES
=== src/sync.rs
use crate::account::Account; //~ `sync` may not import `account`
=== src/account/mod.rs
use crate::{
    sync::Arc,
    arena::{ //~ `account` may not import `arena`
        Arena,
        raw::Chunk,
    },
    pool as shelf, //~ `account` may not import `pool`
};
=== src/arena/mod.rs
mod raw;
fn a() -> u8 { let c = '"'; crate::pool::give(c) } //~ `arena` may not import `pool`
fn b() { super::cancel::now() } //~ `arena` may not import `cancel`
use crate::*; //~ `arena` imports the crate root whole
mod inner {
    use super::super::scope::X; //~ `arena` may not import `scope`
    use super::fine;
}
fn c<'a>(x: &'a u8) -> crate::RequestScope { todo() } //~ `arena` may not import `scope` (through `crate::RequestScope`)
fn d() { Vec::<crate::observe::Y>::new() } //~ `arena` may not import `observe`
wrap! { struct E { field: crate::observe::F } } //~ `arena` may not import `observe`
wrap! { use crate::{sync::G, pool::H}; } //~ `arena` may not import `pool`
=== src/arena/raw/mod.rs
use super::super::scope::Y; //~ `arena` may not import `scope`
=== src/pool/mod.rs
/* /* nested */ use crate::scope::A; */
use http::HeaderMap; //~ core module `pool` names the crate `http`
use {bytes::Bytes, http_body as body}; //~ core module `pool` names the crate `http_body`
fn a() -> ::axum::Router { todo!() } //~ core module `pool` names the crate `axum`
fn b(_: impl tower_service::Service<()>) {} //~ core module `pool` names the crate `tower_service`
extern crate tower_layer; //~ core module `pool` names the crate `tower_layer`
extern crate self as root; //~ `pool` imports the crate root whole
=== src/cancel/mod.rs
use crate::{self as root, Nowhere}; //~ `cancel` imports the crate root whole | `cancel` names `crate::Nowhere`, no module or root re-export
unsafe fn a() {} //~ `unsafe` outside UNSAFE_HOMES
unsafe impl Send for X {} //~ `unsafe` outside UNSAFE_HOMES
=== src/scope/mod.rs
use crate::wire::A; //~ `scope` may not import `wire`
=== src/observe/mod.rs
use crate::wire::A; //~ `observe` may not import `wire`
=== src/wire/mod.rs
use crate::{scope::A, observe::B}; //~ `wire` may not import `observe`
=== src/middleware/mod.rs
#[cfg(test)] mod tests { use crate::extract::A; } //~ `middleware` may not import `extract`
=== src/extract/mod.rs
fn a() { unsafe { b() } } //~ `unsafe` outside UNSAFE_HOMES
=== src/stray/mod.rs
fn a() {} //~ module `stray` has no row in ci/layers
"##,
        &[
            ("account/mod.rs sync.rs", ""),
            ("observe/mod.rs scope/mod.rs wire/mod.rs", ""),
        ],
    );
}

#[test]
fn what_is_allowed_passes() {
    check(
        r##"
=== src/lib.rs
#![deny(unsafe_code)]
mod sync; mod account; pub mod arena; mod pool; mod scope; mod middleware; mod extract;
pub use arena::{Arena, raw::Chunk};
=== src/sync.rs
pub(crate) use std::sync::Arc;
=== src/account/mod.rs
mod allocator;
=== src/account/allocator.rs
unsafe impl GlobalAlloc for X { unsafe fn a() { unsafe { b() } } }
=== src/arena/mod.rs
//! See crate::scope and [`http::HeaderMap`]; unsafe { } is elsewhere.
/* use crate::scope::Y; /* unsafe { } */ use axum::Router; */
use crate::{arena::raw::Chunk, sync::{self, Arc}};
pub(in crate::arena) mod raw;
pub(crate) fn a<'a>(x: &'a str) -> impl Sized + use<'a> {
    let q = ('"', '\'', b'"', r#"use crate::scope::Z; "unsafe { }"#, "\" axum::Router");
    let axum = q.0; let http = 1;
    (axum, http, Q { http: 2 }, crate::Arena::new::<Chunk>())
}
mod tests { use super::*; use super::super::sync::Arc; mod deep { use super::super::a; } }
=== src/arena/raw/mod.rs
use super::Arena; fn a() { unsafe { crate::arena::b() } }
=== src/pool/mod.rs
use crate::{arena::Arena, sync::Arc};
=== src/scope/mod.rs
use crate::{account::A, arena::B, pool::D, sync::E};
=== src/middleware/mod.rs
use crate::scope::C; use tower_service::Service;
=== src/extract/mod.rs
use crate::middleware::B; use ::axum::Router;
"##,
        &[("arena/mod.rs arena/raw/mod.rs", "")],
    );
}

/// `a` names `b` through two re-exports, `b` names `c` by its path, and `c` chooses between files.
const CIRCLE: &str = r#"
=== src/lib.rs
mod scope;
pub use self::scope::B;
=== src/scope/mod.rs
mod a; mod b; mod c; mod d;
#[cfg_attr(feature = "x", path = "e/on.rs")]
#[cfg_attr(not(feature = "x"), path = "e/off.rs")]
mod e;
pub use self::b::B;
pub(crate) use self::a::A;
=== src/scope/a.rs
use crate::B;
=== src/scope/b.rs
use super::c;
fn f() { c::g() }
=== src/scope/c.rs
use super::e::h;
#[cfg(all(test, not(loom)))]
mod tests { use super::super::d::D; }
=== src/scope/d.rs
use super::{A, b, c::*};
=== src/scope/e/on.rs
use std::fmt;
=== src/scope/e/off.rs
fn h() { crate::scope::A::method() }
"#;

#[test]
fn a_circle_is_followed_through_re_exports_and_module_names() {
    let tree = tree(CIRCLE);
    let [circle] = &circles(&tree)[..] else {
        panic!("one circle");
    };
    let imports = [
        "src/scope/a.rs:1: imports src/scope/b.rs",
        "src/scope/b.rs:2: imports src/scope/c.rs",
        "src/scope/c.rs:1: imports src/scope/e/off.rs",
        "src/scope/e/off.rs:1: imports src/scope/a.rs",
    ];
    assert_eq!(circle.imports, imports);
    assert_eq!(circle.files.len(), 4);
}

#[test]
fn a_circle_is_refused_unless_it_is_allowed() {
    let entry = "scope/a.rs scope/b.rs scope/c.rs scope/e/off.rs";
    check(CIRCLE, &[(entry, "reason")]);
    let refused = "//~ imports src/scope/b.rs, and so on in a circle of 4 files (--graph)";
    let marked = CIRCLE.replace("use crate::B;", &format!("use crate::B; {refused}"));
    check(&marked, &[]);
    let gone = "//~ CIRCLES allows what is no circle: x.rs y.rs";
    let marked = CIRCLE.replace("lib.rs\nmod scope;", &format!("lib.rs\nmod scope; {gone}"));
    check(&marked, &[(entry, "reason"), ("x.rs y.rs", "reason")]);
}
