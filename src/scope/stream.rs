use std::task::Waker;

use super::{handle::RequestScope, shutdown::Stream};
use crate::slab::Key;

/// The place of a response body, or of a held connection, among those that a shutdown can cut off.
#[derive(Debug, Default)]
pub(crate) struct StreamPlace(Option<(Key, Waker)>);

impl StreamPlace {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Lists the stream with its waker. Returns whether it has been cut off. A held one is cut off only if
    /// the response is over.
    pub(crate) fn register(&mut self, scope: &RequestScope, held: bool, waker: &Waker) -> bool {
        let state = scope.state();
        let shutdown = &state.layer().shutdown;
        if !matches!(&self.0, Some((_, known)) if known.will_wake(waker)) {
            self.remove(scope);
            let stream = Stream {
                request: state.clone().into_request(),
                held,
                waker: waker.clone(),
            };
            self.0 = Some((shutdown.streams().insert(stream), waker.clone()));
        }
        shutdown.is_cut_off()
    }

    /// Whether a stream that is listed has been cut off. A response that begins after that may still be sent.
    #[inline]
    pub(crate) fn is_cut_off(&self, scope: &RequestScope) -> bool {
        self.0.is_some() && scope.state().layer().shutdown.is_cut_off()
    }

    #[inline]
    pub(crate) fn remove(&mut self, scope: &RequestScope) {
        if let Some((key, _)) = self.0.take() {
            drop(scope.state().layer().shutdown.streams().remove(key));
        }
    }
}
