/// For whom an arena is rented, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RentedFor(u32);

impl RentedFor {
    /// One more than the highest origin.
    pub(crate) const ORIGINS: u32 = 1 << 24;

    /// `buffer_step` is the [step](crate::arena::steps) of the first block of its buffers, zero if
    /// nothing is known. `origin` is the number under which blocks that were handed out are counted,
    /// zero if they are not counted.
    pub(crate) fn new(buffer_step: u8, origin: u32) -> Self {
        debug_assert!(origin < Self::ORIGINS);
        Self(u32::from(buffer_step) << 24 | origin)
    }

    #[inline]
    pub(super) fn buffer_step(self) -> usize {
        (self.0 >> 24) as usize
    }

    #[inline]
    pub(super) fn origin(self) -> u32 {
        self.0 & (Self::ORIGINS - 1)
    }
}
