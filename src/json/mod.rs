//! JSON out of the arena, and into it.
//!
//! What takes the time of a response with many short texts is neither JSON nor memory, but `core::fmt`
//! and the intermediate strings. [`seq`] and [`concat()`] need neither:
//!
//! ```
//! use tower_memory::{Arena, json};
//!
//! let items = json::seq((0..3).map(|i| json::concat(("item-", i))));
//! assert_eq!(Arena::new().json_bytes(&items)?, r#"["item-0","item-1","item-2"]"#);
//! # Ok::<(), json::SerializeError>(())
//! ```
//!
//! | to write | use |
//! |---|---|
//! | any [`Serialize`](serde::Serialize) value | [`Arena::json_bytes`](crate::Arena::json_bytes), [`Arena::json`](crate::Arena::json) |
//! | the values of an iterator, without a list of them | [`seq`] |
//! | a text of a few parts, such as `item-7` | [`concat()`] |
//! | values as they come, also across `.await` | [`List`] |
//!
#![cfg_attr(
    feature = "axum",
    doc = "[`Arena::deserialize_json`](crate::Arena::deserialize_json) reads, and \
           [`JsonBody`](crate::extract::JsonBody) does it for the body of a request."
)]
#![cfg_attr(
    not(feature = "axum"),
    doc = "[`Arena::deserialize_json`](crate::Arena::deserialize_json) reads."
)]
//! Fields of type `&str` borrow from what is read, and from the arena where a text has escapes.

mod concat;
mod deserialize;
mod in_arena;
mod list;
mod seq;
mod serialize;

pub use self::{
    concat::{Concat, concat},
    deserialize::DeserializeError,
    list::List,
    seq::{Seq, seq},
    serialize::SerializeError,
};
