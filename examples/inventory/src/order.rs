//! Orders: what is accepted, and the bytes that the store keeps.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, request::Parts},
};
use bytes::{Buf, BufMut};
use serde::Serialize;

use crate::{
    catalogue::{self, ITEMS, ItemNumber},
    problem::Problem,
};

pub(crate) const MAX_LINES: usize = 100;
pub(crate) const MAX_QUANTITY: u32 = 1000;

/// Most bytes of a request body. 100 lines take about 4 KiB.
pub(crate) const MAX_BODY: usize = 64 * 1024;

const KEY: &str = "idempotency-key";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Reserved,
    Confirmed,
    Cancelled,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Reserved => b'r',
            Self::Confirmed => b'c',
            Self::Cancelled => b'x',
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'r' => Some(Self::Reserved),
            b'c' => Some(Self::Confirmed),
            b'x' => Some(Self::Cancelled),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) item: ItemNumber,
    pub(crate) quantity: u32,
}

impl Line {
    pub(crate) fn cents(self) -> u64 {
        u64::from(self.quantity) * u64::from(catalogue::item(self.item).cents)
    }
}

/// Checks an order and writes its record: the customer and the lines, without pointers. So it can be sent
/// to the thread of the store, wherever the texts of the request are.
pub(crate) fn record<'a>(
    customer: &str,
    lines: impl ExactSizeIterator<Item = (&'a str, u32)>,
    mut out: impl BufMut,
) -> Result<(), Problem> {
    let length = customer.chars().count();
    if !(1..=100).contains(&length) || customer.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "customer: expected 1 to 100 characters, none of them a control character",
        ));
    }
    if !(1..=MAX_LINES).contains(&lines.len()) {
        let lines = lines.len();
        let detail = format!("lines: {lines} lines, expected 1 to {MAX_LINES}");
        return Err(Problem::invalid(detail));
    }
    out.put_u16(customer.len() as u16); // at most 400
    out.put_slice(customer.as_bytes());
    // The number of the line that names an item, from 1 on; 0 if none does.
    let mut named = [0_u8; ITEMS];
    for ((sku, quantity), number) in lines.zip(1_u8..) {
        let at = number - 1;
        let Some(item) = catalogue::find(sku) else {
            let detail = format!("lines[{at}].sku: unknown item {sku:?}");
            return Err(Problem::invalid(detail));
        };
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            return Err(Problem::invalid(format!(
                "lines[{at}].qty: {quantity}, expected 1 to {MAX_QUANTITY}"
            )));
        }
        match std::mem::replace(&mut named[item as usize], number) {
            0 => {}
            before => {
                let before = before - 1;
                return Err(Problem::invalid(format!(
                    "lines[{at}].sku: {sku:?} is in lines[{before}] already"
                )));
            }
        }
        out.put_u32(item);
        out.put_u32(quantity);
    }
    Ok(())
}

/// A record, as [`record`] wrote it.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) customer: &'a str,
    lines: &'a [u8],
}

impl<'a> Record<'a> {
    /// Returns `None` if the bytes are no record.
    pub(crate) fn parse(mut bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from(bytes.try_get_u16().ok()?);
        let (customer, lines) = bytes.split_at_checked(length)?;
        let customer = str::from_utf8(customer).ok()?;
        (lines.len() % 8 == 0).then_some(Self { customer, lines })
    }

    pub(crate) fn lines(self) -> impl ExactSizeIterator<Item = Line> + Clone + 'a {
        self.lines.chunks_exact(8).map(|mut bytes| Line {
            item: bytes.get_u32(),
            quantity: bytes.get_u32(),
        })
    }

    pub(crate) fn cents(self) -> u64 {
        self.lines().map(Line::cents).sum()
    }
}

/// The key that makes retries of a request one request. (A `HeaderMap` as an extractor would be a copy of all
/// headers.)
pub(crate) struct IdempotencyKey(pub(crate) HeaderValue);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        idempotency_key(&parts.headers).map(Self)
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let refused = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let mut keys = headers.get_all(KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(refused(
            "an order needs one idempotency-key header; retries repeat it",
        ));
    };
    let length = key.len();
    if !(1..=64).contains(&length) || key.to_str().is_err() {
        return Err(refused(
            "idempotency-key: expected 1 to 64 visible ASCII characters",
        ));
    }
    Ok(key.clone())
}
