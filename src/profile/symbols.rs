//! Names of functions for addresses.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

/// A function that an address belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: Box<str>,
    /// As the linker knows it. `go tool pprof` shortens a name that equals this one.
    pub(super) linked: Box<str>,
    pub(super) file: Box<str>,
    pub(super) line: u32,
}

/// One call of a stack.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) address: usize,
    /// Innermost first, unless the address was not resolved.
    functions: OnceLock<Arc<[Function]>>,
    /// How many of them are not shown.
    pub(super) hidden: usize,
}

impl Frame {
    pub(super) const fn new(address: usize) -> Self {
        Self {
            address,
            functions: OnceLock::new(),
            hidden: 0,
        }
    }

    pub(super) fn functions(&self) -> &[Function] {
        let all = self.functions.get().map_or(&[][..], |all| all);
        all.get(self.hidden..).unwrap_or(&[])
    }
}

/// What was found for addresses so far.
#[derive(Default)]
pub(super) struct Resolver(HashMap<usize, Arc<[Function]>>);

impl Resolver {
    /// Resolves the addresses of a stack, and cuts the allocator's own calls off.
    pub(super) fn resolve(&mut self, frames: &mut Vec<Frame>) {
        for frame in &*frames {
            let known = self.0.entry(frame.address);
            let functions = known.or_insert_with(|| lookup(frame.address).into());
            // Set already if it was resolved before.
            let _ = frame.functions.set(Arc::clone(functions));
        }
        trim(frames);
    }
}

fn lookup(address: usize) -> Vec<Function> {
    let mut functions = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let Some(name) = symbol.name() else {
            return;
        };
        let shown = format!("{name:#}");
        let linked = name.as_str().unwrap_or_default();
        functions.push(Function {
            linked: if linked == shown {
                format!("_{shown}").into()
            } else {
                linked.into()
            },
            name: shown.into(),
            file: symbol
                .filename()
                .map_or_else(Box::default, |file| file.to_string_lossy().into()),
            line: symbol.lineno().unwrap_or(0),
        });
    });
    functions
}

/// Cuts the allocator's calls off, which are the innermost ones, and those of the standard library that called
/// it. Not by pprof's `drop_frames`, which cuts from the other end: at the closure that a thread runs.
fn trim(frames: &mut Vec<Frame>) {
    let is_entry = |frame: &Frame| {
        let mut names = frame.functions().iter().map(|function| &*function.name);
        names.any(|name| ENTRIES.iter().any(|entry| name.contains(entry)))
    };
    // What the allocator has called may have any name. Without its name, nothing is cut blindly.
    let inside = frames.iter().position(is_entry).unwrap_or(0);
    let mut whole = inside;
    for frame in frames.iter_mut().skip(inside) {
        let functions = frame.functions();
        let own = functions
            .iter()
            .take_while(|function| is_plumbing(&function.name));
        let own = own.count();
        if own == 0 || own < functions.len() {
            frame.hidden += own;
            break;
        }
        whole += 1;
    }
    // Nothing else is there: better the allocator than nothing.
    if whole < frames.len() {
        frames.drain(..whole);
    }
}

/// Parts of the names of the functions that a program's allocations enter the allocator by. Without debug
/// information, ours have no name where they are inlined into the compiler's.
const ENTRIES: [&str; 3] = [
    "tower_memory::account::allocator::TrackingAllocator",
    "__rust_alloc",
    "__rust_realloc",
];

fn is_plumbing(name: &str) -> bool {
    const OURS: [&str; 2] = ["tower_memory::account::", "tower_memory::sampler::"];
    const OTHERS: [&str; 7] = [
        "__r",
        "alloc::",
        "core::",
        "std::alloc::",
        "hashbrown::",
        "bytes::",
        "realloc",
    ];
    let bare = name.trim_start_matches(['<', '&', '_']);
    name.contains(" as alloc::")
        || OURS
            .iter()
            .chain(&OTHERS)
            .any(|prefix| name.starts_with(prefix) || bare.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_begins_where_the_allocator_was_called() {
        let function = |name: &str| Function {
            name: name.into(),
            linked: name.into(),
            file: Box::default(),
            line: 0,
        };
        let frame = |names: &[&str]| {
            let frame = Frame::new(1);
            let functions: Vec<_> = names.iter().map(|name| function(name)).collect();
            assert!(frame.functions.set(functions.into()).is_ok());
            frame
        };
        let mut frames = vec![
            frame(&["std::thread::local::LocalKey<T>::try_with"]),
            frame(&["tower_memory::account::allocator::count_large_reallocation"]),
            frame(&["__rustc::__rust_realloc"]),
            frame(&["alloc::raw_vec::RawVec<T>::grow_one", "app::inlined"]),
            frame(&["alloc::boxed::call_once", "app::outer"]),
        ];
        trim(&mut frames);
        let names = |frames: &[Frame]| -> Vec<Box<str>> {
            let functions = frames.iter().flat_map(Frame::functions);
            functions.map(|function| function.name.clone()).collect()
        };
        let expected = ["app::inlined", "alloc::boxed::call_once", "app::outer"];
        assert_eq!(names(&frames), expected.map(Into::into));
        // What is nothing but plumbing stays.
        let mut frames = vec![frame(&["__rustc::__rust_alloc"])];
        trim(&mut frames);
        assert_eq!(frames.len(), 1);
    }

    #[test]
    fn plumbing_is_what_allocates_for_others() {
        for name in [
            "__rustc::__rust_alloc",
            "<tower_memory::account::allocator::TrackingAllocator<A> as core::alloc::global::GlobalAlloc>::alloc",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
            "<u8 as alloc::vec::spec_from_elem::SpecFromElem>::from_elem",
        ] {
            assert!(is_plumbing(name), "{name}");
        }
        for name in [
            "app::handler",
            "<app::Order as core::fmt::Debug>::fmt",
            "std::thread::spawn",
        ] {
            assert!(!is_plumbing(name), "{name}");
        }
    }
}
