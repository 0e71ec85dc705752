//! Names of routes and tasks as small numbers, which an account can keep in one word.

use std::{
    collections::BTreeMap,
    fmt,
    panic::Location,
    // Not loom's, which cannot be in a `static`.
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::draw::mixed;

/// How many routes have a number of their own. Further ones share [`OTHER`].
pub(super) const ROUTES: usize = 1024;
const OTHER_ROUTE: u16 = ROUTES as u16 - 1;

/// How many places in the code, or names, tasks can have.
const SITES: usize = 1024;
const OTHER_TASK: u16 = SITES as u16 + 1;

/// Places that are looked at for a name.
const PROBES: usize = 16;

/// The name of all names beyond the bounds, as that of routes.
const OTHER: &str = "{other}";

static NAMES: Mutex<BTreeMap<&'static str, u16>> = Mutex::new(BTreeMap::new());

/// Which task it is.
#[derive(Clone, Copy)]
enum Site {
    Named(&'static str),
    At(&'static Location<'static>),
}

static TASKS: [OnceLock<Site>; SITES] = [const { OnceLock::new() }; SITES];

/// The number of a route, from one on. Names are kept for ever, so there is a bound.
pub(super) fn route(name: &str) -> u16 {
    let mut names = names();
    if let Some(number) = names.get(name) {
        return *number;
    }
    let number = names.len() as u16 + 1;
    if number >= OTHER_ROUTE {
        return OTHER_ROUTE;
    }
    names.insert(Box::leak(name.into()), number);
    number
}

fn names() -> MutexGuard<'static, BTreeMap<&'static str, u16>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of all numbers. Zero has none.
pub(crate) fn route_names() -> Vec<Option<&'static str>> {
    let mut all = vec![None; ROUTES];
    let other = [(&OTHER, &OTHER_ROUTE)];
    for (name, number) in names().iter().chain(other) {
        if let Some(place) = all.get_mut(usize::from(*number)) {
            *place = Some(*name);
        }
    }
    all
}

/// The number of a detached task's name.
pub(super) fn task_named(name: &'static str) -> u16 {
    number(Site::Named(name), name.as_ptr().addr())
}

/// The number of the place where a task was started. Takes no lock but for the first one.
pub(super) fn task_at(location: &'static Location<'static>) -> u16 {
    number(Site::At(location), std::ptr::from_ref(location).addr())
}

fn number(site: Site, address: usize) -> u16 {
    let from = mixed(address as u64) as usize;
    for probe in 0..PROBES {
        let at = from.wrapping_add(probe) % SITES;
        let Some(slot) = TASKS.get(at) else {
            continue;
        };
        if slot.get_or_init(|| site).is(&site) {
            return at as u16 + 1;
        }
    }
    OTHER_TASK
}

/// The name of a task, unless the number is zero.
pub(crate) fn task_name(number: u16) -> Option<String> {
    if number == OTHER_TASK {
        return Some(OTHER.to_owned());
    }
    let site = TASKS.get(usize::from(number).checked_sub(1)?)?.get()?;
    Some(site.to_string())
}

impl Site {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(name), Self::Named(other)) => name == other,
            (Self::At(location), Self::At(other)) => std::ptr::eq(*location, *other),
            _ => false,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::At(location) => write!(f, "{}:{}", location.file(), location.line()),
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let number = route("/sampler/labels");
        let elsewhere = ["/sampler", "labels"].join("/");
        assert_eq!(route(&elsewhere), number, "the text counts");
        let names = route_names();
        assert_eq!(names[usize::from(number)], Some("/sampler/labels"));
        assert_eq!((names[0], names[ROUTES - 1]), (None, Some(OTHER)));
    }

    #[test]
    fn tasks_are_known_by_their_name_or_their_place() {
        let (named, here) = (task_named("sampler-audit"), task_at(Location::caller()));
        assert_eq!(task_name(named).as_deref(), Some("sampler-audit"));
        let place = task_name(here).expect("a place");
        assert!(place.starts_with("src/sampler/labels.rs:"), "{place}");
        assert_eq!(task_named("sampler-audit"), named);
        assert_eq!(task_name(0), None);
    }
}
