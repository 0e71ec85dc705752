use super::ring::{RUNNING, Words};
use crate::names::{LabelWord, route_name, task_name};

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

/// Whom an event concerns, in one word: the low bits of the request's number, since a ring holds some seconds, and
/// the labels of its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Origin(pub(super) u64);

const REQUEST_SHIFT: u32 = LabelWord::BITS;

impl Origin {
    /// Zero is no request.
    #[inline]
    pub(crate) const fn new(request: u64, labels: LabelWord) -> Self {
        Self(request << REQUEST_SHIFT | labels.bits() as u64)
    }

    /// A task of this request, by the labels of the task's account.
    #[inline]
    pub(crate) const fn in_task(self, task: LabelWord) -> Self {
        Self(self.0 | task.bits() as u64)
    }

    pub(super) const fn request(self) -> u32 {
        (self.0 >> REQUEST_SHIFT) as u32
    }

    const fn labels(self) -> LabelWord {
        LabelWord::from_bits(self.0 as u32)
    }

    pub(super) fn route(self) -> Option<&'static str> {
        route_name(self.labels().route())
    }

    pub(super) fn task(self) -> Option<String> {
        task_name(self.labels().task())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    /// In ticks, as the end.
    pub(super) start: u64,
    /// The start, of what takes no time.
    pub(super) end: u64,
    pub(super) kind: Kind,
    /// Bytes that were allocated, or what the kind says.
    pub(super) value: u64,
    pub(super) origin: Origin,
}

/// Bits of the kind. Those above hold the value, and [`RUNNING`] is between them.
const VALUE_SHIFT: u32 = RUNNING.trailing_zeros() + 1;

const _: () = assert!(Kind::ALL.len() < RUNNING as usize);

/// A kind and a value below 2^56 in one word.
#[inline]
pub(super) const fn pack(kind: Kind, value: u64) -> u64 {
    value << VALUE_SHIFT | kind as u64
}

/// The word of what ran, with a value.
#[inline]
pub(super) const fn ended(running: u64, value: u64) -> u64 {
    value << VALUE_SHIFT | running & (RUNNING - 1)
}

pub(super) fn unpack(word: u64) -> (Kind, u64) {
    let kind = Kind::ALL.get((word & (RUNNING - 1)) as usize);
    // A word is whole, so there is such a kind.
    (*kind.unwrap_or(&Kind::Request), word >> VALUE_SHIFT)
}

impl Event {
    /// What happened to `origin` at a moment.
    pub(super) const fn mark(kind: Kind, at: u64, value: u64, origin: Origin) -> Self {
        Self {
            start: at,
            end: at,
            kind,
            value,
            origin,
        }
    }

    /// In ticks. Zero if the clocks of two processors differ.
    pub(super) const fn duration(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    pub(super) const fn pack(&self) -> Words {
        [
            self.start,
            self.end,
            pack(self.kind, self.value),
            self.origin.0,
        ]
    }

    pub(super) fn unpack([start, end, what, origin]: Words) -> Self {
        let (kind, value) = unpack(what);
        Self {
            start,
            end: end.max(start),
            kind,
            value,
            origin: Origin(origin),
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
            let event = Event {
                start: u64::MAX - 1,
                end: u64::MAX,
                kind,
                value: (1 << 56) - 2,
                origin: Origin(0x0123_4567_89ab_cdef),
            };
            assert_eq!(Event::unpack(event.pack()), event);
        }
    }

    #[test]
    fn an_origin_has_the_low_bits_of_the_request_and_the_labels_of_both() {
        let request = Origin::new(0xf_ffff_fffe, LabelWord::from_bits(0x0007_0000));
        let task = request.in_task(LabelWord::from_bits(0x0000_0009));
        assert_eq!(task.request(), 0xffff_fffe);
        assert_eq!((task.labels().route(), task.labels().task()), (7, 9));
    }
}
