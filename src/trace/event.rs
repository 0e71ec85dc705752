use super::{names::Name, ring::WORDS};
use crate::pack::Field;

/// What an event is. Polls come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request's own future, or a closure that runs inside of it.
    Request,
    /// The response's body.
    Body,
    /// A task of the request.
    Task,
    /// A closure of `spawn_blocking`, which may take as long as it likes.
    Closure,
    /// A task that was detached.
    Detached,
    /// The request was cancelled; the task's name is the outcome.
    Cancelled,
    /// The request has closed, after allocating so many bytes.
    Closed,
    /// An arena took a chunk of so many bytes.
    ArenaGrowth,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Request,
        Self::Body,
        Self::Task,
        Self::Closure,
        Self::Detached,
        Self::Cancelled,
        Self::Closed,
        Self::ArenaGrowth,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Body => "body",
            Self::Task => "task",
            Self::Closure => "closure",
            Self::Detached => "detached",
            Self::Cancelled => "cancelled",
            Self::Closed => "closed",
            Self::ArenaGrowth => "arena growth",
        }
    }

    pub(super) const fn is_poll(self) -> bool {
        !matches!(self, Self::Cancelled | Self::Closed | Self::ArenaGrowth)
    }

    /// Whether it keeps others of its thread waiting while it runs.
    pub(super) const fn may_starve(self) -> bool {
        self.is_poll() && !matches!(self, Self::Closure)
    }
}

/// Whom a poll is for, with names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) kind: Kind,
    pub(crate) request: u64,
    pub(crate) route: Name<'a>,
    pub(crate) task: Name<'a>,
}

/// Whom an event concerns: the low bits of the request's number, and two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Origin {
    pub(super) request: u32,
    pub(super) route: u16,
    pub(super) task: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) start: u64,
    /// In ticks; zero for what takes no time.
    pub(super) duration: u64,
    pub(super) kind: Kind,
    /// Bytes that were allocated, or what the kind says.
    pub(super) value: u64,
    pub(super) origin: Origin,
}

const KIND: Field = Field::first(8);
const VALUE: Field = KIND.then(56);
const TASK: Field = Field::first(16);
const ROUTE: Field = TASK.then(16);
const REQUEST: Field = ROUTE.then(32);

impl Origin {
    pub(super) fn pack(self) -> u64 {
        REQUEST.pack(self.request.into())
            | ROUTE.pack(self.route.into())
            | TASK.pack(self.task.into())
    }

    pub(super) fn unpack(word: u64) -> Self {
        // The fields are as wide as the numbers.
        Self {
            request: REQUEST.get(word) as u32,
            route: ROUTE.get(word) as u16,
            task: TASK.get(word) as u16,
        }
    }
}

/// A kind and a value in one word. Larger values are the largest.
pub(super) fn pack(kind: Kind, value: u64) -> u64 {
    KIND.pack(kind as u64) | VALUE.pack(value.min(VALUE.max()))
}

pub(super) fn unpack(word: u64) -> (Kind, u64) {
    let kind = Kind::ALL.get(KIND.get(word) as usize);
    // A word is whole, so there is such a kind.
    (*kind.unwrap_or(&Kind::Request), VALUE.get(word))
}

impl Event {
    pub(super) fn pack(&self) -> [u64; WORDS] {
        [
            self.start,
            self.duration,
            pack(self.kind, self.value),
            self.origin.pack(),
        ]
    }

    pub(super) fn unpack([start, duration, what, origin]: [u64; WORDS]) -> Self {
        let (kind, value) = unpack(what);
        Self {
            start,
            duration,
            kind,
            value,
            origin: Origin::unpack(origin),
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_as_it_was() {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
            let origin = Origin {
                request: u32::MAX - 1,
                route: 0xabcd,
                task: n as u16,
            };
            let event = Event {
                start: u64::MAX,
                duration: 7,
                kind,
                value: (1 << 56) - 2,
                origin,
            };
            assert_eq!(Event::unpack(event.pack()), event);
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_the_largest() {
        assert_eq!(
            unpack(pack(Kind::Body, u64::MAX)),
            (Kind::Body, (1 << 56) - 1)
        );
    }
}
