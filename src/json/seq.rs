use std::fmt;

use serde::{Serialize, Serializer};

/// A JSON array of the values of an iterator, without a list that holds them.
///
/// Anything that can be iterated by cloning it will do, such as a mapped range or a mapped slice: it is
/// cloned each time the array is serialized.
///
/// # Examples
///
/// ```
/// use tower_memory::{Arena, json};
///
/// #[derive(serde::Serialize)]
/// struct Line<'a> {
///     name: &'a str,
///     cents: u32,
/// }
///
/// let prices = [("tea", 320), ("cake", 450)];
/// let lines = json::seq(prices.iter().map(|&(name, cents)| Line { name, cents }));
/// let bytes = Arena::new().json_bytes(&lines)?;
/// assert_eq!(bytes, r#"[{"name":"tea","cents":320},{"name":"cake","cents":450}]"#);
/// # Ok::<(), json::SerializeError>(())
/// ```
pub const fn seq<I>(values: I) -> Seq<I>
where
    I: IntoIterator<Item: Serialize> + Clone,
{
    Seq(values)
}

/// The array that [`seq`] makes.
#[derive(Clone, Copy)]
#[must_use = "it does nothing until it is serialized"]
pub struct Seq<I>(I);

impl<I> Serialize for Seq<I>
where
    I: IntoIterator<Item: Serialize> + Clone,
{
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// Without the values: an iterator seldom shows them.
impl<I> fmt::Debug for Seq<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seq").finish_non_exhaustive()
    }
}
