//! A store that keeps nothing, for measuring everything else.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::http::HeaderValue;
use bytes::Bytes;

use super::{Placed, Stock, Store, StoreError};
use crate::{
    catalogue::{self, ItemNumber},
    order::State,
};

/// Has endless stock, and forgets orders.
#[derive(Clone, Default)]
pub(crate) struct NoStore {
    orders: Arc<AtomicU64>,
}

const STOCK: Stock = Stock {
    available: 1000,
    reserved: 0,
    sold: 0,
};

impl Store for NoStore {
    fn stock(&self, mut each: impl FnMut(Stock)) -> Result<(), StoreError> {
        (0..catalogue::ITEMS).for_each(|_| each(STOCK));
        Ok(())
    }

    fn stock_of(&self, _item: ItemNumber) -> Result<Stock, StoreError> {
        Ok(STOCK)
    }

    fn order(&self, order: u64) -> Result<Placed, StoreError> {
        Err(StoreError::NoSuchOrder(order))
    }

    async fn place(&self, _key: HeaderValue, record: Bytes) -> Result<Placed, StoreError> {
        Ok(Placed {
            order: self.orders.fetch_add(1, Ordering::Relaxed),
            state: State::Reserved,
            record,
            replayed: false,
        })
    }

    async fn settle(&self, order: u64, _to: State) -> Result<Placed, StoreError> {
        Err(StoreError::NoSuchOrder(order))
    }

    fn close(&self) {}
}
