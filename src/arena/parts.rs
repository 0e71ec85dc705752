//! Texts made of parts, without the formatting machinery of `core::fmt`.

use std::{borrow::Cow, convert::Infallible};

use super::{
    ArenaError,
    raw::{ArenaString, Storage},
};

/// What [`Arena::alloc_concat`](super::Arena::alloc_concat) joins to a text: a tuple of texts, characters,
/// integers and `bool`s.
///
/// A part is a `str`, a `String`, a `Cow<str>`, an [`ArenaString`], a `char`, an integer, a `bool`, a
/// reference to one of these, or a tuple of up to eight parts. Integers are written in decimal, as `{}`
/// does. The trait is sealed.
///
/// # Examples
///
/// ```
/// let arena = tower_memory::Arena::new();
/// let user = String::from("maria");
/// assert_eq!(arena.alloc_concat(("/users/", &user, '/', -7, (true, ""))), "/users/maria/-7true");
/// ```
pub trait Parts {
    /// Writes the parts in their order.
    #[doc(hidden)]
    fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error>;
}

/// Takes parts one by one.
#[expect(unnameable_types, reason = "seals `Parts`")]
pub trait WriteParts {
    type Error;

    fn write_text(&mut self, text: &str) -> Result<(), Self::Error>;

    /// As [`write_text`](Self::write_text), for digits, a minus sign and small letters.
    #[inline(always)]
    fn write_plain(&mut self, text: &str) -> Result<(), Self::Error> {
        self.write_text(text)
    }

    #[inline(always)]
    fn write_unsigned(&mut self, number: u64) -> Result<(), Self::Error> {
        self.write_plain(itoa::Buffer::new().format(number))
    }
}

/// The length of the text of `parts`, in bytes.
#[inline(always)]
pub(super) fn len(parts: &impl Parts) -> usize {
    let mut len = Len(0);
    let Ok(()) = parts.write_parts(&mut len);
    len.0
}

struct Len(usize);

impl WriteParts for Len {
    type Error = Infallible;

    #[inline(always)]
    fn write_text(&mut self, text: &str) -> Result<(), Infallible> {
        self.0 = self.0.saturating_add(text.len());
        Ok(())
    }
}

impl<'a, S: Storage<'a>> WriteParts for ArenaString<'a, S> {
    type Error = ArenaError;

    #[inline(always)]
    fn write_text(&mut self, text: &str) -> Result<(), ArenaError> {
        self.try_push_str(text)
    }
}

impl Parts for str {
    #[inline(always)]
    fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error> {
        to.write_text(self)
    }
}

impl Parts for char {
    #[inline(always)]
    fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error> {
        to.write_text(self.encode_utf8(&mut [0; 4]))
    }
}

impl Parts for bool {
    #[inline(always)]
    fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error> {
        to.write_plain(if *self { "true" } else { "false" })
    }
}

/// Implements `Parts` for what dereferences to parts.
macro_rules! dereference {
    ($([$($n:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($n)*> Parts for $type {
            #[inline(always)]
            fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error> {
                (**self).write_parts(to)
            }
        }
    )+};
}

dereference! {
    [T: Parts + ?Sized] &T,
    [T: Parts + ?Sized] &mut T,
    [] String,
    [] Cow<'_, str>,
    ['a, S: Storage<'a>] ArenaString<'a, S>,
}

/// Implements `Parts` for integers, of which `$number` is one.
macro_rules! integers {
    ($($integer:ty)+ |$number:ident, $to:ident| $write:expr) => {$(
        impl Parts for $integer {
            #[allow(clippy::unnecessary_cast, reason = "of the largest type")]
            #[inline(always)]
            fn write_parts<W: WriteParts>(&self, $to: &mut W) -> Result<(), W::Error> {
                let $number = *self;
                $write
            }
        }
    )+};
}

integers! {
    u8 u16 u32 u64 usize
    |number, to| to.write_unsigned(number as u64)
}
integers! {
    i8 i16 i32 i64 isize
    |number, to| {
        if number < 0 {
            to.write_plain("-")?;
        }
        to.write_unsigned(number.unsigned_abs() as u64)
    }
}
integers! {
    u128 i128
    |number, to| to.write_plain(itoa::Buffer::new().format(number))
}

macro_rules! tuples {
    ($(($($part:ident $index:tt)+))+) => {$(
        impl<$($part: Parts),+> Parts for ($($part,)+) {
            #[inline(always)]
            fn write_parts<W: WriteParts>(&self, to: &mut W) -> Result<(), W::Error> {
                $(self.$index.write_parts(to)?;)+
                Ok(())
            }
        }
    )+};
}

tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
    (A 0 B 1 C 2 D 3 E 4)
    (A 0 B 1 C 2 D 3 E 4 F 5)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
}
