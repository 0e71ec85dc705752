//! Which requests are sent: kinds, their shares, and how they travel. All of it follows from the seed.

use tower_memory::Outcome;

use super::random::Random;

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Plain,
    Stream,
    Head,
    /// 204 or 304.
    NoBody,
    Panic,
    BodyPanic,
    Timeout,
    /// A deadline in a trusted header.
    Deadline,
    /// The client drops the request at a random await.
    Abort,
    SlowReader,
    /// The client resets the TCP connection.
    Reset,
    UploadAbort,
    /// Tasks that are alive when the response ends.
    Outlive,
    TooLarge,
    Upgrade,
    /// `mem::forget` of a scope, an arena or a buffer.
    Forget,
    /// A runtime is shut down with three requests open.
    Shutdown,
}

/// How many of each kind there are among 1000.
pub(crate) const MIX: [(Kind, usize); 17] = [
    (Kind::Plain, 390),
    (Kind::Stream, 120),
    (Kind::Head, 40),
    (Kind::NoBody, 20),
    (Kind::Panic, 60),
    (Kind::BodyPanic, 20),
    (Kind::Timeout, 60),
    (Kind::Deadline, 50),
    (Kind::Abort, 90),
    (Kind::SlowReader, 50),
    (Kind::Reset, 40),
    (Kind::UploadAbort, 20),
    (Kind::Outlive, 15),
    (Kind::TooLarge, 10),
    (Kind::Upgrade, 10),
    (Kind::Forget, 4),
    (Kind::Shutdown, 1),
];

pub(crate) const DECK: usize = 1000;

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stream => "stream",
            Self::Head => "head",
            Self::NoBody => "no_body",
            Self::Panic => "panic",
            Self::BodyPanic => "bodypanic",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Abort => "abort",
            Self::SlowReader => "slow",
            Self::Reset => "reset",
            Self::UploadAbort => "upload",
            Self::Outlive => "outlive",
            Self::TooLarge => "large",
            Self::Upgrade => "upgrade",
            Self::Forget => "forget",
            Self::Shutdown => "shutdown",
        }
    }

    /// Every outcome that such a request may have.
    pub(crate) const fn outcomes(self) -> &'static [Outcome] {
        match self {
            Self::Panic | Self::BodyPanic => &[Outcome::Panicked],
            Self::Timeout | Self::Deadline => &[Outcome::DeadlineExceeded],
            Self::Abort | Self::Reset | Self::Shutdown => &[Outcome::Abandoned, Outcome::Completed],
            // The error of a reset HTTP/2 stream says nothing; a handler that answers it has completed.
            Self::UploadAbort => &[Outcome::ClientGone, Outcome::Abandoned, Outcome::Completed],
            _ => &[Outcome::Completed],
        }
    }

    /// How many requests the layer sees.
    pub(crate) const fn requests(self) -> u64 {
        match self {
            Self::Shutdown => 3,
            _ => 1,
        }
    }
}

impl Random {
    /// One of the generators of a seed. Those of two streams are far apart.
    pub(crate) const fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.rotate_left(32))
    }
}

/// The kinds of 1000 requests in a random order. What is forgotten would hide what the resident set
/// does, so it is forgotten in the first quarter of a soak, four times as often, and not from then on.
pub(crate) fn deck(seed: u64, number: u64, forgets: bool) -> Vec<Kind> {
    let count = |kind, count| match kind {
        Kind::Forget if forgets => 4 * count,
        Kind::Forget => 0,
        // Without what is forgotten, or with four times as much, there are still 1000.
        Kind::Plain if forgets => count - 12,
        Kind::Plain => count + 4,
        _ => count,
    };
    let mut deck: Vec<_> = MIX
        .iter()
        .flat_map(|&(kind, of_all)| std::iter::repeat_n(kind, count(kind, of_all)))
        .collect();
    assert_eq!(deck.len(), DECK);
    let mut random = Random::new(seed, number);
    for last in (1..deck.len()).rev() {
        let other = random.below(last + 1);
        deck.swap(last, other);
    }
    deck
}

/// The word that everything of a request consists of.
pub(crate) const fn word(id: u64) -> [u8; 8] {
    (id ^ 0xC3A7_0000_0000_0000)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_le_bytes()
}

/// Panics if `bytes` hold anything but the request's own word.
#[track_caller]
pub(crate) fn check(bytes: &[u8], id: u64) {
    let word = word(id);
    let foreign = bytes
        .chunks(8)
        .position(|chunk| *chunk != word[..chunk.len()]);
    if let Some(at) = foreign {
        panic!(
            "residue: request {id} has {:02x?} at {}",
            &bytes[at * 8..bytes.len().min(at * 8 + 16)],
            at * 8
        );
    }
}
