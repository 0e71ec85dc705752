use tokio_util::sync::CancellationToken;

/// Tokens of a request. The first one is a root, since making, dropping and cancelling a child takes twice as
/// many locked instructions. Further ones have a root in common, which forgets those that are dropped.
pub(super) struct Tokens {
    pub(super) first: Option<CancellationToken>,
    pub(super) further: Option<CancellationToken>,
}

impl Tokens {
    #[inline]
    pub(super) fn cancel(self) {
        if self.first.is_some() {
            self.cancel_all();
        }
    }

    #[inline(never)]
    fn cancel_all(self) {
        if bug!("token-not-cancelled") {
            return;
        }
        for token in [self.first, self.further].into_iter().flatten() {
            token.cancel();
        }
    }
}
