//! A serializer that counts elements and depth, so that it writes nothing that `bounded_reader`
//! refuses.

use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::bounds::Bounded;

impl<T: Serialize + ?Sized> Serialize for Bounded<'_, &T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(Bounded { inner: serializer, bounds: self.bounds })
    }
}

/// Methods whose arguments hold no other values.
macro_rules! forward_to_serializer {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method(self, $($name: $type),*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($name),*)
        }
    )*};
}

/// Methods that begin a compound value. The flag says that its elements count.
macro_rules! forward_compound {
    ($($method:ident($($name:ident: $type:ty),*) -> $compound:ident $counts:literal;)*) => {$(
        fn $method(self, $($name: $type),*) -> Result<Self::$compound, S::Error> {
            let inner = self.inner.$method($($name),*)?;
            Ok(Bounded { inner, bounds: self.bounds.of($counts) })
        }
    )*};
}

impl<'s, S: Serializer> Serializer for Bounded<'s, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Bounded<'s, S::SerializeSeq>;
    type SerializeTuple = Bounded<'s, S::SerializeTuple>;
    type SerializeTupleStruct = Bounded<'s, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Bounded<'s, S::SerializeTupleVariant>;
    type SerializeMap = Bounded<'s, S::SerializeMap>;
    type SerializeStruct = Bounded<'s, S::SerializeStruct>;
    type SerializeStructVariant = Bounded<'s, S::SerializeStructVariant>;

    forward_to_serializer! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_f32(value: f32);
        serialize_f64(value: f64);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    forward_compound! {
        serialize_seq(len: Option<usize>) -> SerializeSeq true;
        serialize_tuple(len: usize) -> SerializeTuple false;
        serialize_tuple_struct(name: &'static str, len: usize) -> SerializeTupleStruct false;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeTupleVariant false;
        serialize_map(len: Option<usize>) -> SerializeMap true;
        serialize_struct(name: &'static str, len: usize) -> SerializeStruct false;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> SerializeStructVariant false;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&self.bounds.child(value).map_err(Error::custom)?)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &self.bounds.child(value).map_err(Error::custom)?)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let child = self.bounds.child(value).map_err(Error::custom)?;
        self.inner.serialize_newtype_variant(name, index, variant, &child)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// The parts of a compound value: each is nested in it, and counts if its elements do.
macro_rules! parts {
    ($($trait:ident: $($method:ident($($name:ident)?))+ $(, $skip:ident)?;)*) => {$(
        impl<C: $trait> $trait for Bounded<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            $(fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: &'static str,)?
                value: &T,
            ) -> Result<(), C::Error> {
                self.inner.$method($($name,)? &self.bounds.child(value).map_err(Error::custom)?)?;
                self.bounds.count().map_err(Error::custom)
            })+

            $(fn $skip(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.inner.$skip(name)
            })?

            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeStruct: serialize_field(name), skip_field;
    SerializeStructVariant: serialize_field(name), skip_field;
}

impl<C: SerializeMap> SerializeMap for Bounded<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(&self.bounds.child(key).map_err(Error::custom)?)?;
        self.bounds.count().map_err(Error::custom)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.inner.serialize_value(&self.bounds.child(value).map_err(Error::custom)?)
    }

    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
