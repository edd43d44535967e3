//! The deserializer of `order-1`.

#![expect(clippy::big_endian_bytes, reason = "the most significant byte decides the order of two numbers")]

use std::borrow::Cow;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor,
};

use super::order_error::OrderError;

type Result<T, E = OrderError> = std::result::Result<T, E>;

/// Takes the encoding of one value off the bytes.
#[derive(Debug)]
pub(crate) struct OrderReader<'r, 'de> {
    rest: &'r mut &'de [u8],
    /// True if the value is a part of another one, so that text has an end.
    is_field: bool,
}

impl<'r, 'de> OrderReader<'r, 'de> {
    pub(super) fn new(rest: &'r mut &'de [u8]) -> Self {
        Self { rest, is_field: false }
    }

    fn field(rest: &'r mut &'de [u8]) -> Self {
        Self { rest, is_field: true }
    }

    fn text(self) -> Result<Cow<'de, [u8]>> {
        let (bytes, mut unescaped) = (*self.rest, Vec::new());
        let mut start = 0;
        loop {
            let piece = &bytes[start..];
            let zero = piece.iter().position(|byte| *byte == 0);
            let (len, used) = match zero.map(|zero| (zero, piece.get(zero + 1))) {
                Some((zero, Some(0xff))) => {
                    unescaped.extend(&piece[..=zero]);
                    start += zero + 2;
                    continue;
                }
                Some((zero, Some(0))) if self.is_field => (zero, zero + 2),
                None if !self.is_field => (piece.len(), piece.len()),
                Some(_) => return Err(OrderError::new("a text has a zero byte that is not escaped")),
                None => return Err(OrderError::new("a text has no end")),
            };
            *self.rest = &piece[used..];
            if start == 0 {
                return Ok(Cow::Borrowed(&piece[..len]));
            }
            unescaped.extend(&piece[..len]);
            return Ok(Cow::Owned(unescaped));
        }
    }

    /// Reads parts of the value: `len` of them, or as many as are marked.
    fn parts<V: Visitor<'de>>(self, len: Option<usize>, visitor: V) -> Result<V::Value> {
        let mut parts = OrderedParts { rest: self.rest, left: len };
        let value = visitor.visit_seq(&mut parts)?;
        // A visitor of a known number of parts has read them all. That number itself cannot be compared:
        // for a struct, serde counts aliases, too.
        if parts.left.is_none() && parts.has_next()? {
            return Err(OrderError::new("it has more parts than its type"));
        }
        Ok(value)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, left) = rest.split_first_chunk().ok_or_else(|| OrderError::new("the bytes end too early"))?;
    *rest = left;
    Ok(*taken)
}

/// Reads a mark or a truth value.
fn flag(rest: &mut &[u8]) -> Result<bool> {
    match take(rest)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [_] => Err(OrderError::new("a mark is neither 0 nor 1")),
    }
}

/// Methods that read a number. The value is `number`, changed back.
macro_rules! numbers {
    ($($method:ident: $type:ty, $visit:ident, $flip:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(<$type>::from_be_bytes(take(self.rest)?) ^ $flip)
        }
    )*};
}

/// Methods that read a float.
macro_rules! floats {
    ($($method:ident: $type:ty, $visit:ident, $bits:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            const SIGN: $bits = !(<$bits>::MAX >> 1);
            let flipped = <$bits>::from_be_bytes(take(self.rest)?);
            let bits = if flipped & SIGN == 0 { !flipped } else { flipped ^ SIGN };
            let value = <$type>::from_bits(bits);
            if value.is_nan() || bits == SIGN {
                return Err(OrderError::new("a float is NaN or -0.0"));
            }
            visitor.$visit(value)
        }
    )*};
}

/// Methods that read text or bytes: from the input, or a copy without the escapes.
macro_rules! texts {
    ($($method:ident: $borrowed:ident $owned:ident $from:expr, $from_owned:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            match self.text()? {
                Cow::Borrowed(bytes) => visitor.$borrowed($from(bytes)?),
                Cow::Owned(bytes) => visitor.$owned($from_owned(bytes)?),
            }
        }
    )*};
}

/// Methods with the bracketed arguments that read a fixed number of parts.
macro_rules! tuples {
    ($($method:ident($($name:ident: $type:ty),*) $len:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value> {
            self.parts(Some($len), visitor)
        }
    )*};
}

/// Methods for types that decide by the bytes how to read them.
macro_rules! refused {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value> {
            Err(OrderError::new(
                "the bytes of a key do not say how to read them, \
                 so it holds no map and no untagged, tagged or flattened type",
            ))
        }
    )*};
}

fn utf8<T, E>(text: Result<T, E>) -> Result<T> {
    text.map_err(|_| OrderError::new("a text is not UTF-8"))
}

impl<'de> Deserializer<'de> for OrderReader<'_, 'de> {
    type Error = OrderError;

    numbers! {
        deserialize_u8: u8, visit_u8, 0;
        deserialize_u16: u16, visit_u16, 0;
        deserialize_u32: u32, visit_u32, 0;
        deserialize_u64: u64, visit_u64, 0;
        deserialize_u128: u128, visit_u128, 0;
        deserialize_i8: i8, visit_i8, i8::MIN;
        deserialize_i16: i16, visit_i16, i16::MIN;
        deserialize_i32: i32, visit_i32, i32::MIN;
        deserialize_i64: i64, visit_i64, i64::MIN;
        deserialize_i128: i128, visit_i128, i128::MIN;
    }

    floats! {
        deserialize_f32: f32, visit_f32, u32;
        deserialize_f64: f64, visit_f64, u64;
    }

    texts! {
        deserialize_str: visit_borrowed_str visit_string
            |bytes| utf8(std::str::from_utf8(bytes)), |bytes| utf8(String::from_utf8(bytes));
        deserialize_bytes: visit_borrowed_bytes visit_byte_buf Result::Ok, Result::Ok;
    }

    tuples! {
        deserialize_tuple(len: usize) len;
        deserialize_tuple_struct(_name: &'static str, len: usize) len;
        deserialize_struct(_name: &'static str, fields: &'static [&'static str]) fields.len();
    }

    refused! { deserialize_any deserialize_map deserialize_identifier deserialize_ignored_any }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_bool(flag(self.rest)?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let found = char::from_u32(u32::from_be_bytes(take(self.rest)?));
        visitor.visit_char(found.ok_or_else(|| OrderError::new("a number stands for no character"))?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if flag(self.rest)? { visitor.visit_some(Self::field(self.rest)) } else { visitor.visit_none() }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.parts(None, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'de> EnumAccess<'de> for OrderReader<'_, 'de> {
    type Error = OrderError;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self)> {
        let index: U32Deserializer<OrderError> = u32::from_be_bytes(take(self.rest)?).into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for OrderReader<'_, 'de> {
    type Error = OrderError;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(Self::field(self.rest))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.parts(Some(len), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.parts(Some(fields.len()), visitor)
    }
}

/// The parts of a value.
struct OrderedParts<'r, 'de> {
    rest: &'r mut &'de [u8],
    /// The number of parts that are left; `None` if a mark says whether there is another one.
    left: Option<usize>,
}

impl OrderedParts<'_, '_> {
    fn has_next(&mut self) -> Result<bool> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => {
                let is_marked = flag(self.rest)?;
                self.left = if is_marked { None } else { Some(0) };
                Ok(is_marked)
            }
        }
    }
}

impl<'de> SeqAccess<'de> for OrderedParts<'_, 'de> {
    type Error = OrderError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.has_next()? {
            return Ok(None);
        }
        seed.deserialize(OrderReader::field(&mut *self.rest)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}
