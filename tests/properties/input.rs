/// Makes choices out of bytes. Once they are used up, each choice is the first one.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// Most are small, some a few KiB, and a few more than a chunk.
    pub(crate) fn size(&mut self) -> usize {
        let kind = usize::from(self.byte());
        match kind {
            0..192 => kind % 48,
            192..248 => kind * 17 + usize::from(self.byte()) % 17,
            _ => (kind - 247) * 9000,
        }
    }
}
