//! A scope as others see it: without its type.
#![expect(
    unsafe_code,
    reason = "makes counted references unsized, which stable Rust does for its own types only"
)]

use std::ptr::NonNull;

use super::shutdown::OpenRequest;
use crate::{
    counted::{Counted, Inner},
    limit::Victim,
    task::TaskOwner,
};

impl<T: OpenRequest + 'static> Counted<T> {
    /// The request, as a shutdown sees it.
    pub(super) fn into_request(self) -> Counted<dyn OpenRequest> {
        let inner: NonNull<Inner<dyn OpenRequest>> = self.into_raw();
        // SAFETY: from `into_raw`, made unsized, and used once (invariant 1 of `counted`).
        unsafe { Counted::from_raw(inner) }
    }
}

impl<T: Victim + 'static> Counted<T> {
    /// The request, as the limit of the process sees it.
    pub(crate) fn into_victim(self) -> Counted<dyn Victim> {
        let inner: NonNull<Inner<dyn Victim>> = self.into_raw();
        // SAFETY: from `into_raw`, made unsized, and used once (invariant 1 of `counted`).
        unsafe { Counted::from_raw(inner) }
    }
}

impl<T: TaskOwner + 'static> Counted<T> {
    /// The request, as its tasks see it.
    pub(super) fn into_owner(self) -> Counted<dyn TaskOwner> {
        let inner: NonNull<Inner<dyn TaskOwner>> = self.into_raw();
        // SAFETY: from `into_raw`, made unsized, and used once (invariant 1 of `counted`).
        unsafe { Counted::from_raw(inner) }
    }
}
