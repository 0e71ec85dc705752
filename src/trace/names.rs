//! Numbers for names. An event has no room for a text, and no pointer may be read from one.

use std::{
    collections::HashMap,
    panic::Location,
    sync::{Arc, Mutex, PoisonError},
};

use crate::account::aside;

/// A name that an event mentions.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'a> {
    None,
    /// The label of a route.
    Label(&'a Arc<str>),
    /// The name of a detached task.
    Static(&'static str),
    /// Where a task was started.
    Place(&'static Location<'static>),
}

/// The number of no name.
pub(super) const NONE: u16 = 0;

/// The number of all names beyond [`MOST`].
const OTHER: u16 = 1;

/// Names with a number of their own. They are kept for ever.
const MOST: usize = 4096;

/// The table of all threads.
#[derive(Default)]
struct Table {
    /// By number, without the two that are fixed.
    texts: Vec<Arc<str>>,
    by_text: HashMap<Arc<str>, u16>,
    /// By the address of a text or place that stays where it is, with its length. A label is kept, so that no
    /// other one comes to its address.
    by_address: HashMap<usize, u16>,
    kept: Vec<Arc<str>>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

fn table<R>(f: impl FnOnce(&mut Table) -> R) -> R {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    f(table.get_or_insert_default())
}

/// The text of a number; `None` of [`NONE`].
pub(super) fn text(number: u16) -> Option<Arc<str>> {
    match number {
        NONE => None,
        OTHER => Some("{other}".into()),
        number => table(|table| table.texts.get(usize::from(number) - 2).cloned()),
    }
}

impl Name<'_> {
    /// What tells it from all other names that are kept. Zero for none.
    fn address(self) -> usize {
        match self {
            Self::None => 0,
            Self::Label(text) => text.as_ptr().addr(),
            // Of two texts with one beginning, one may be a part of the other.
            Self::Static(text) => text
                .as_ptr()
                .addr()
                .wrapping_add(text.len().rotate_right(16)),
            Self::Place(place) => std::ptr::from_ref(place).addr(),
        }
    }

    fn text(self) -> Arc<str> {
        match self {
            Self::None => "".into(),
            Self::Label(text) => Arc::clone(text),
            Self::Static(text) => text.into(),
            Self::Place(place) => place.to_string().into(),
        }
    }

    #[cold]
    #[inline(never)]
    fn find(self) -> u16 {
        aside(|| table(|table| table.find(self)))
    }
}

impl Table {
    fn find(&mut self, name: Name<'_>) -> u16 {
        if let Some(number) = self.by_address.get(&name.address()) {
            return *number;
        }
        let text = name.text();
        let number = match self.by_text.get(&text) {
            Some(number) => *number,
            None if self.texts.len() == MOST => return OTHER,
            None => {
                self.texts.push(Arc::clone(&text));
                // `MOST` is below the highest number.
                let number = self.texts.len() as u16 + 1;
                self.by_text.insert(Arc::clone(&text), number);
                number
            }
        };
        // The same text at further addresses, as of several layers, up to a bound as well.
        if self.by_address.len() < 4 * MOST {
            self.by_address.insert(name.address(), number);
            self.kept.push(text);
        }
        number
    }
}

/// Slots of a [`Cache`].
const SLOTS: usize = 128;

/// The numbers of the names that a thread has met lately.
pub(super) struct Cache([(usize, u16); SLOTS]);

impl Cache {
    pub(super) const fn new() -> Self {
        Self([(0, NONE); SLOTS])
    }

    #[inline]
    pub(super) fn number(&mut self, name: Name<'_>) -> u16 {
        let address = name.address();
        if address == 0 {
            return NONE;
        }
        let slot = &mut self.0[(address >> 4) % SLOTS];
        if slot.0 != address {
            let number = name.find();
            // A name that is not kept may give its address to another one.
            if number == OTHER {
                return OTHER;
            }
            *slot = (address, number);
        }
        slot.1
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_gives_its_text_back() {
        let mut cache = Cache::new();
        let label: Arc<str> = "/names/{n}".into();
        let number = cache.number(Name::Label(&label));
        assert_eq!(text(number).as_deref(), Some("/names/{n}"));
        let again: Arc<str> = "/names/{n}".into();
        assert_eq!(
            Cache::new().number(Name::Label(&again)),
            number,
            "of another layer"
        );
        assert_eq!(cache.number(Name::None), NONE);
        assert_eq!(text(NONE), None);
        let place = Location::caller();
        let number = cache.number(Name::Place(place));
        assert_eq!(text(number).as_deref(), Some(&*place.to_string()));
    }

    #[test]
    fn a_name_and_its_beginning_are_two_names() {
        let long = "audit-log";
        let mut cache = Cache::new();
        let (short, long) = (
            cache.number(Name::Static(&long[..5])),
            cache.number(Name::Static(long)),
        );
        assert_eq!(
            [text(short), text(long)].map(|text| text.unwrap_or("".into())),
            ["audit".into(), "audit-log".into()]
        );
    }

    #[test]
    fn names_beyond_the_bound_share_one() {
        let mut table = Table::default();
        for n in 0..MOST + 10 {
            let label: Arc<str> = format!("/bound/{n}").into();
            let number = table.find(Name::Label(&label));
            assert_eq!(number == OTHER, n >= MOST, "{n}");
        }
        assert_eq!(table.texts.len(), MOST);
        assert_eq!(text(OTHER).as_deref(), Some("{other}"));
    }
}
