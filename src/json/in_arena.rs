//! A deserializer that puts into an arena what cannot be borrowed from its input.
//!
//! serde_json lends a visitor the strings without escapes, and shows it the others for the length of
//! a call. A `&str` field needs a text that stays, so those are copied into the arena and lent from
//! there. To see every string, each deserializer, visitor, seed and accessor is wrapped.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use crate::arena::Arena;

pub(super) struct InArena<'de, T> {
    inner: T,
    arena: &'de Arena,
}

impl<'de, T> InArena<'de, T> {
    #[inline(always)]
    pub(super) const fn new(inner: T, arena: &'de Arena) -> Self {
        Self { inner, arena }
    }
}

/// Forwards methods of a deserializer that take a visitor last, which it wraps.
macro_rules! deserializer {
    ($($method:ident($($name:ident: $type:ty),*))+) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* InArena::new(visitor, self.arena))
        }
    )+};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for InArena<'de, D> {
    type Error = D::Error;

    deserializer! {
        deserialize_any()
        deserialize_bool()
        deserialize_i8()
        deserialize_i16()
        deserialize_i32()
        deserialize_i64()
        deserialize_i128()
        deserialize_u8()
        deserialize_u16()
        deserialize_u32()
        deserialize_u64()
        deserialize_u128()
        deserialize_f32()
        deserialize_f64()
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier()
        deserialize_ignored_any()
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Forwards methods of a visitor that take a value.
macro_rules! visitor {
    ($($method:ident($type:ty))+) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )+};
}

/// Forwards methods of a visitor that take what yields further values.
macro_rules! visitor_of {
    ($($method:ident($access:ident: $trait:ident))+) => {$(
        #[inline]
        fn $method<A: $trait<'de>>(self, $access: A) -> Result<V::Value, A::Error> {
            self.inner.$method(InArena::new($access, self.arena))
        }
    )+};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for InArena<'de, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner: &dyn Expected = &self.inner;
        // Every text can be borrowed here, so a client need not read of that.
        match &*inner.to_string() {
            "a borrowed string" => f.write_str("a string"),
            "a borrowed byte array" => f.write_str("a byte array"),
            other => f.write_str(other),
        }
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<V::Value, E> {
        let text: &'de str = self.arena.alloc_str(text);
        self.inner.visit_borrowed_str(text)
    }

    #[inline]
    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        let bytes: &'de [u8] = self.arena.alloc_slice_copy(bytes);
        self.inner.visit_borrowed_bytes(bytes)
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    visitor! {
        visit_bool(bool)
        visit_i8(i8)
        visit_i16(i16)
        visit_i32(i32)
        visit_i64(i64)
        visit_i128(i128)
        visit_u8(u8)
        visit_u16(u16)
        visit_u32(u32)
        visit_u64(u64)
        visit_u128(u128)
        visit_f32(f32)
        visit_f64(f64)
        visit_char(char)
        visit_borrowed_str(&'de str)
        visit_string(String)
        visit_borrowed_bytes(&'de [u8])
        visit_byte_buf(Vec<u8>)
    }

    visitor_of! {
        visit_some(deserializer: Deserializer)
        visit_newtype_struct(deserializer: Deserializer)
        visit_seq(values: SeqAccess)
        visit_map(entries: MapAccess)
        visit_enum(variant: EnumAccess)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for InArena<'de, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner
            .deserialize(InArena::new(deserializer, self.arena))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for InArena<'de, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(InArena::new(seed, self.arena))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for InArena<'de, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.inner.next_key_seed(InArena::new(seed, self.arena))
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(InArena::new(seed, self.arena))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for InArena<'de, A> {
    type Error = A::Error;
    type Variant = InArena<'de, A::Variant>;

    #[inline]
    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(InArena::new(seed, self.arena))?;
        Ok((value, InArena::new(variant, self.arena)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for InArena<'de, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.inner
            .newtype_variant_seed(InArena::new(seed, self.arena))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner
            .tuple_variant(len, InArena::new(visitor, self.arena))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, InArena::new(visitor, self.arena))
    }
}
