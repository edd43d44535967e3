//! The serializer of `order-1`.

#![expect(clippy::big_endian_bytes, reason = "the most significant byte decides the order of two numbers")]

use serde::ser::{
    Impossible, Serialize, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::order_error::OrderError;

type Result<T, E = OrderError> = std::result::Result<T, E>;

/// Appends the encoding of one value.
#[derive(Debug)]
pub(crate) struct OrderWriter<'v> {
    into: &'v mut Vec<u8>,
    /// True if the value is a part of another one, so that text needs an end.
    is_field: bool,
}

impl<'v> OrderWriter<'v> {
    pub(super) fn new(into: &'v mut Vec<u8>) -> Self {
        Self { into, is_field: false }
    }

    /// Appends a part of the value.
    fn field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(OrderWriter { into: &mut *self.into, is_field: true })
    }
}

/// Methods that append the bytes of a number.
macro_rules! numbers {
    ($($method:ident: $type:ty, $value:ident => $number:expr;)*) => {$(
        fn $method(self, $value: $type) -> Result<()> {
            self.into.extend($number.to_be_bytes());
            Ok(())
        }
    )*};
}

/// Methods that append the bits of a float.
macro_rules! floats {
    ($($method:ident: $type:ty, $bits:ty;)*) => {$(
        fn $method(self, value: $type) -> Result<()> {
            const SIGN: $bits = !(<$bits>::MAX >> 1);
            if value.is_nan() {
                return Err(OrderError::new("NaN is not a number, and has no place in the order of numbers"));
            }
            // The two zeros are equal.
            let bits = if value == 0.0 { 0 } else { value.to_bits() };
            let flipped = if bits & SIGN == 0 { bits | SIGN } else { !bits };
            self.into.extend(flipped.to_be_bytes());
            Ok(())
        }
    )*};
}

/// Methods that begin a compound value, after the bracketed arguments.
macro_rules! compounds {
    ($($method:ident($($name:ident: $type:ty),*) -> $compound:ident;)*) => {$(
        fn $method(self, $($name: $type),*) -> Result<Self::$compound> {
            Ok(self)
        }
    )*};
}

impl<'v> Serializer for OrderWriter<'v> {
    type Ok = ();
    type Error = OrderError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Impossible<(), OrderError>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers! {
        serialize_bool: bool, value => u8::from(value);
        serialize_u8: u8, value => value;
        serialize_u16: u16, value => value;
        serialize_u32: u32, value => value;
        serialize_u64: u64, value => value;
        serialize_u128: u128, value => value;
        serialize_i8: i8, value => (value ^ i8::MIN);
        serialize_i16: i16, value => (value ^ i16::MIN);
        serialize_i32: i32, value => (value ^ i32::MIN);
        serialize_i64: i64, value => (value ^ i64::MIN);
        serialize_i128: i128, value => (value ^ i128::MIN);
        serialize_char: char, value => u32::from(value);
    }

    floats! {
        serialize_f32: f32, u32;
        serialize_f64: f64, u64;
    }

    compounds! {
        serialize_seq(_len: Option<usize>) -> SerializeSeq;
        serialize_tuple(_len: usize) -> SerializeTuple;
        serialize_tuple_struct(_name: &'static str, _len: usize) -> SerializeTupleStruct;
        serialize_struct(_name: &'static str, _len: usize) -> SerializeStruct;
    }

    fn serialize_str(self, value: &str) -> Result<()> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        for piece in value.split_inclusive(|byte| *byte == 0) {
            self.into.extend(piece);
            if piece.ends_with(&[0]) {
                self.into.push(0xff);
            }
        }
        if self.is_field {
            self.into.extend([0, 0]);
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<()> {
        self.serialize_u8(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(mut self, value: &T) -> Result<()> {
        self.into.push(1);
        self.field(value)
    }

    fn serialize_unit(self) -> Result<()> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<()> {
        Ok(())
    }

    fn serialize_unit_variant(self, _name: &'static str, index: u32, _variant: &'static str) -> Result<()> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.into.extend(index.to_be_bytes());
        self.field(value)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self> {
        self.into.extend(index.to_be_bytes());
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self> {
        self.serialize_tuple_variant(name, index, variant, len)
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self::SerializeMap> {
        Err(OrderError::new(
            "the entries of a map have no fixed order, so a key holds none; use a sequence of pairs",
        ))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl SerializeSeq for OrderWriter<'_> {
    type Ok = ();
    type Error = OrderError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.into.push(1);
        self.field(value)
    }

    fn end(self) -> Result<()> {
        self.into.push(0);
        Ok(())
    }
}

/// Values with a fixed number of parts.
macro_rules! parts {
    ($($trait:ident: $method:ident($($name:ident)?) $($skip:ident)?;)*) => {$(
        impl $trait for OrderWriter<'_> {
            type Ok = ();
            type Error = OrderError;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<()> {
                self.field(value)
            }

            $(fn $skip(&mut self, name: &'static str) -> Result<()> {
                Err(OrderError::new(&format!("the field {name} is left out, and without it the others have no place")))
            })?

            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

parts! {
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeStruct: serialize_field(_name) skip_field;
    SerializeStructVariant: serialize_field(_name) skip_field;
}
