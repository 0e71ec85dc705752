use std::{
    ptr,
    task::{RawWakerVTable, Waker},
};

use super::{handle::RequestScope, shutdown::Stream};
use crate::slab::Key;

/// The place of a response body, or of a held connection, among those that a shutdown can cut off.
#[derive(Debug, Default)]
pub(crate) struct StreamPlace(Option<Place>);

#[derive(Debug)]
struct Place {
    key: Key,
    /// The parts of the waker that is listed there, and stays alive as long as it is.
    data: usize,
    vtable: &'static RawWakerVTable,
}

impl Place {
    /// Whether `waker` is the one that is listed.
    fn will_wake(&self, waker: &Waker) -> bool {
        self.data == waker.data().addr() && ptr::eq(self.vtable, waker.vtable())
    }
}

impl StreamPlace {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Lists the stream with its waker. Returns whether it has been cut off. A held one is cut off only if
    /// the response is over.
    pub(crate) fn register(&mut self, scope: &RequestScope, held: bool, waker: &Waker) -> bool {
        let state = scope.state();
        let shutdown = &state.layer().shutdown;
        if !self.0.as_ref().is_some_and(|place| place.will_wake(waker)) {
            self.remove(scope);
            let stream = Stream {
                request: state.clone().into_request(),
                held,
                waker: waker.clone(),
            };
            self.0 = Some(Place {
                key: shutdown.streams().insert(stream),
                data: waker.data().addr(),
                vtable: waker.vtable(),
            });
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
        if let Some(Place { key, .. }) = self.0.take() {
            drop(scope.state().layer().shutdown.streams().remove(key));
        }
    }
}
