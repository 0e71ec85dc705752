//! Where stock and orders are kept.

mod none;
mod table;
mod writer;

use std::{fmt, future::Future};

use axum::http::HeaderValue;
use bytes::Bytes;
use serde::Serialize;

pub(crate) use self::{
    none::NoStore,
    table::{Audit, OpenError, Place, Tables},
    writer::TableStore,
};
use crate::{
    catalogue::{self, ItemNumber},
    order::State,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stock {
    pub(crate) available: u32,
    pub(crate) reserved: u32,
    pub(crate) sold: u32,
}

/// An order as it is in the store.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) order: u64,
    pub(crate) state: State,
    pub(crate) record: Bytes,
    /// An earlier request with the same key has placed it.
    pub(crate) replayed: bool,
}

/// Stock and orders. What a method returned `Ok` for is kept, whatever happens to the process.
///
/// A dropped call may have been carried out: the caller repeats it with the same key.
pub(crate) trait Store: Clone + Send + Sync + 'static {
    /// Passes the stock of each item, in the order of the catalogue, from one moment.
    fn stock(&self, each: impl FnMut(Stock)) -> Result<(), StoreError>;

    fn stock_of(&self, item: ItemNumber) -> Result<Stock, StoreError>;

    fn order(&self, order: u64) -> Result<Placed, StoreError>;

    /// Reserves the stock of all lines of a record, or of none.
    fn place(
        &self,
        key: HeaderValue,
        record: Bytes,
    ) -> impl Future<Output = Result<Placed, StoreError>> + Send;

    /// Confirms or cancels an order. To do the same twice is no error.
    fn settle(
        &self,
        order: u64,
        to: State,
    ) -> impl Future<Output = Result<Placed, StoreError>> + Send;

    /// Carries out what has been asked for, and closes the store.
    fn close(&self);
}

#[derive(Clone, Debug)]
pub(crate) enum StoreError {
    OutOfStock {
        item: ItemNumber,
        asked: u32,
        available: u32,
    },
    /// The key belongs to an order with other content.
    OtherOrder,
    NoSuchOrder(u64),
    Settled {
        order: u64,
        state: State,
    },
    /// Nothing was changed, or that is not known: the caller may try again.
    Unavailable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfStock {
                item,
                asked,
                available,
            } => {
                let sku = &catalogue::item(*item).sku;
                write!(f, "{sku}: {asked} asked for, {available} available")
            }
            Self::OtherOrder => {
                f.write_str("the idempotency-key was used for an order with other content")
            }
            Self::NoSuchOrder(order) => write!(f, "no order {order}"),
            Self::Settled { order, state } => {
                write!(f, "order {order} is {} already", state.name())
            }
            Self::Unavailable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StoreError {}
