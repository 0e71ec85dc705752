use std::{
    collections::BTreeMap,
    fmt,
    panic::Location,
    // Not loom's, which cannot be in a `static`.
    sync::{Mutex, OnceLock, PoisonError},
};

/// How many routes have a number of their own. Further ones share [`OTHER`].
pub(crate) const ROUTES: usize = 1024;
const OTHER_ROUTE: u16 = ROUTES as u16 - 1;

/// How many places in the code, or names, tasks can have.
const SITES: usize = 1024;
const OTHER_TASK: u16 = SITES as u16 + 1;

/// Places that are looked at for a name.
const PROBES: usize = 16;

/// The name of all names beyond the bounds, as that of routes.
const OTHER: &str = "{other}";

/// The numbers of routes. Its lock is held while one is added.
static NUMBERS: Mutex<BTreeMap<&'static str, u16>> = Mutex::new(BTreeMap::new());

/// The routes by number.
static NAMES: [OnceLock<&'static str>; ROUTES] = [const { OnceLock::new() }; ROUTES];

/// Which task it is.
#[derive(Clone, Copy)]
enum Site {
    Named(&'static str),
    At(&'static Location<'static>),
}

static TASKS: [OnceLock<Site>; SITES] = [const { OnceLock::new() }; SITES];

/// The number of a route, from one on. Names are kept for ever, so there is a bound.
pub(super) fn route(name: &str) -> u16 {
    let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = numbers.get(name) {
        return *number;
    }
    let number = numbers.len() as u16 + 1;
    if number >= OTHER_ROUTE {
        return OTHER_ROUTE;
    }
    let name: &'static str = Box::leak(name.into());
    if let Some(place) = NAMES.get(usize::from(number)) {
        place.get_or_init(|| name);
    }
    numbers.insert(name, number);
    number
}

/// The name of a route, unless the number is zero. Takes no lock.
pub(crate) fn route_name(number: u16) -> Option<&'static str> {
    if number == OTHER_ROUTE {
        return Some(OTHER);
    }
    NAMES.get(usize::from(number))?.get().copied()
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
    // Upper bits of the product depend on all bits below them.
    let from = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    for probe in 0..PROBES {
        let at = (from as usize).wrapping_add(probe) % SITES;
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
        let number = route("/names/{n}");
        let elsewhere = ["/names", "{n}"].join("/");
        assert_eq!(route(&elsewhere), number, "the text counts");
        assert_eq!(route_name(number), Some("/names/{n}"));
        assert_eq!(
            [route_name(0), route_name(OTHER_ROUTE)],
            [None, Some(OTHER)]
        );
    }

    #[test]
    fn tasks_are_known_by_their_name_or_their_place() {
        let (named, here) = (task_named("names-audit"), task_at(Location::caller()));
        assert_eq!(task_name(named).as_deref(), Some("names-audit"));
        let place = task_name(here).expect("a place");
        assert!(place.starts_with("src/names/tables.rs:"), "{place}");
        assert_eq!(task_named("names-audit"), named);
        assert_eq!(task_name(0), None);
    }
}
