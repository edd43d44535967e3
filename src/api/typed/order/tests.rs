//! Tests the encoding `order-1`: its laws for two values of each kind, its bytes, and its refusals.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::{DeserializeOwned, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserializer, Serializer};

use super::*;
use crate::error::Error;
use serde::de;

fn encoded<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    OrderCodec.encode(value, &mut bytes).unwrap();
    bytes
}

#[track_caller]
fn refused<T: Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Codec { codec: "order-1", reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Checks that bytes are refused or the encoding of the value that they are decoded to.
fn is_canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = OrderCodec.decode::<T>(bytes) {
        assert_eq!(encoded(&value), bytes);
    }
}

/// Checks two values and their bytes against each other, and bytes that are nearly those of a value.
fn check<T: Serialize + DeserializeOwned + PartialOrd + Debug>(one: &T, other: &T, (at, byte): (usize, u8)) {
    let (one_bytes, other_bytes) = (encoded(one), encoded(other));
    assert_eq!(one_bytes.cmp(&other_bytes), one.partial_cmp(other).unwrap(), "{one:?} {other:?}");
    assert_eq!(OrderCodec.decode::<T>(&one_bytes).unwrap(), *one);
    let mut damaged = [one_bytes.clone(), other_bytes].concat();
    is_canonical::<T>(&damaged);
    let at = at % (damaged.len() + 1);
    damaged.insert(at, byte);
    is_canonical::<T>(&damaged[..one_bytes.len()]);
    is_canonical::<T>(&damaged[..=at]);
    is_canonical::<T>(&one_bytes[..at.min(one_bytes.len())]);
}

/// A text of few characters, so that one is often the beginning of another one.
fn texts() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just('\0'), Just('\x01'), Just('a'), Just('\u{ff}'), any::<char>()], 0..5)
        .prop_map(String::from_iter)
}

/// Bytes of a kind of their own in serde.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

fn blobs() -> impl Strategy<Value = Blob> {
    vec(prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()], 0..5).prop_map(Blob)
}

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(f32),
    Named(String),
    Line(i8, i8),
    Square { side: u64, name: Option<String> },
    Nothing(()),
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        any::<f32>().prop_map(Shape::Circle),
        texts().prop_map(Shape::Named),
        any::<(i8, i8)>().prop_map(|(from, to)| Shape::Line(from, to)),
        (0..3_u64, prop::option::of(texts())).prop_map(|(side, name)| Shape::Square { side, name }),
        Just(Shape::Nothing(())),
    ]
}

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Place {
    street: String,
    number: u16,
    parts: (Option<char>, bool, [i16; 2]),
    unit: Unit,
    shapes: Vec<Shape>,
    wrapped: Wrapped<Blob>,
}

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Wrapped<T>(T);

prop_compose! {
    fn places()(
        street in texts(),
        number in 0..3_u16,
        parts in (prop::option::of(any::<char>()), any::<bool>(), any::<[i16; 2]>()),
        shapes in vec(shapes(), 0..3),
        wrapped in blobs(),
    ) -> Place {
        Place { street, number, parts, unit: Unit, shapes, wrapped: Wrapped(wrapped) }
    }
}

fn floats() -> impl Strategy<Value = f64> {
    use prop::num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE
}

fn small_floats() -> impl Strategy<Value = f32> {
    use prop::num::f32::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE
}

/// Laws of the encoding, for two values of each kind.
macro_rules! laws {
    ($($name:ident: $values:expr;)*) => {
        proptest! {
            $(#[test]
            fn $name(one in $values, other in $values, damage in (any::<usize>(), any::<u8>())) {
                check(&one, &other, damage);
                check(&one, &one, damage);
            })*
        }
    };
}

laws! {
    order_holds_for_u8: any::<u8>();
    order_holds_for_u16: any::<u16>();
    order_holds_for_u32: any::<u32>();
    order_holds_for_u64: any::<u64>();
    order_holds_for_u128: any::<u128>();
    order_holds_for_i8: any::<i8>();
    order_holds_for_i16: any::<i16>();
    order_holds_for_i32: any::<i32>();
    order_holds_for_i64: any::<i64>();
    order_holds_for_i128: any::<i128>();
    order_holds_for_f32: small_floats();
    order_holds_for_f64: floats();
    order_holds_for_bool: any::<bool>();
    order_holds_for_characters: any::<char>();
    order_holds_for_text: texts();
    order_holds_for_bytes: blobs();
    order_holds_for_text_in_newtypes: texts().prop_map(|text| Wrapped(Wrapped(text)));
    order_holds_for_pairs: (texts(), any::<u64>());
    order_holds_for_pairs_of_texts: (texts(), texts());
    order_holds_for_bytes_as_fields: (blobs(), blobs());
    order_holds_for_nested_options: prop::option::of(prop::option::of(texts()));
    order_holds_for_vectors: vec(any::<i16>(), 0..4);
    order_holds_for_vectors_of_texts: vec(texts(), 0..4);
    order_holds_for_vectors_of_vectors: vec(vec(0..3_u8, 0..3), 0..3);
    order_holds_for_arrays: any::<[i8; 3]>();
    order_holds_for_enums: shapes();
    order_holds_for_structs: places();
    order_holds_for_addresses: any::<IpAddr>();
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_encoded_alike(bytes in vec(prop_oneof![0..3_u8, Just(0xff), any::<u8>()], 0..40)) {
        is_canonical::<String>(&bytes);
        is_canonical::<Blob>(&bytes);
        is_canonical::<Option<Option<char>>>(&bytes);
        is_canonical::<Vec<Vec<String>>>(&bytes);
        is_canonical::<Vec<(bool, Shape)>>(&bytes);
        is_canonical::<Place>(&bytes);
        is_canonical::<(f32, f64)>(&bytes);
        is_canonical::<[u16; 3]>(&bytes);
    }

    #[test]
    fn encoding_of_a_text_begins_those_that_begin_with_it(text in texts(), rest in texts(), number: u64) {
        let whole = text.clone() + &rest;
        prop_assert!(encoded(&whole).starts_with(&encoded(&text)));
        prop_assert!(encoded(&(&whole, number)).starts_with(&encoded(&Wrapped(text.clone()))));
        prop_assert!(encoded(&(&text, number)).starts_with(&encoded(&(&text,))));
        prop_assert_eq!(encoded(&(&whole, number)).starts_with(&encoded(&(&text,))), rest.is_empty());
    }

    #[test]
    fn deeper_values_than_any_of_ours_keep_the_order(shapes in vec(vec(shapes(), 0..3), 0..3), place in places()) {
        let value = (shapes, BTreeSet::from([place.number]), Some(Wrapped(place)));
        let bytes = encoded(&value);
        let back: (Vec<Vec<Shape>>, BTreeSet<u16>, Option<Wrapped<Place>>) = OrderCodec.decode(&bytes).unwrap();
        prop_assert_eq!(back, value);
    }
}

/// The bytes are a format: they never change.
#[test]
fn encodings_are_those_of_the_table() {
    assert_eq!(encoded("anna"), b"anna");
    assert_eq!(encoded("a\0b"), b"a\0\xffb");
    assert_eq!(encoded(&("a\0", 7_u16)), b"a\0\xff\0\0\x00\x07");
    assert_eq!(encoded(&1_u32), [0, 0, 0, 1]);
    assert_eq!(encoded(&-1_i32), [0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(encoded(&1_i128)[..2], [0x80, 0]);
    assert_eq!(encoded(&1.0_f32), [0xbf, 0x80, 0, 0]);
    assert_eq!(encoded(&-1.0_f64), [0x40, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(encoded(&'a'), [0, 0, 0, b'a']);
    assert_eq!(encoded(&(true, (), Unit)), [1]);
    assert_eq!(encoded(&[None, Some(2_u8)]), [0, 1, 2]);
    assert_eq!(encoded(&vec!["a", ""]), b"\x01a\0\0\x01\0\0\0");
    assert_eq!(encoded(&Wrapped(Blob(vec![0, 1]))), [0, 0xff, 1]);
    assert_eq!(encoded(&Shape::Line(-1, 1)), [0, 0, 0, 3, 0x7f, 0x81]);
    assert_eq!(encoded(&Shape::Named("a".to_owned())), b"\0\0\0\x02a\0\0");
}

#[test]
fn both_zeros_are_one_key() {
    assert_eq!(encoded(&-0.0_f64), encoded(&0.0_f64));
    assert_eq!(encoded(&-0.0_f32), encoded(&0.0_f32));
    refused(OrderCodec.decode::<f64>(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    assert_eq!(encoded(&f64::MIN).cmp(&encoded(&f64::NEG_INFINITY)), Ordering::Greater);
}

#[test]
fn values_without_an_order_are_refused_and_leave_no_bytes() {
    #[derive(Serialize)]
    struct Flattened {
        #[serde(flatten)]
        place: Range<u8>,
    }
    #[derive(Serialize)]
    struct Partial {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<u8>,
        number: u8,
    }
    #[derive(Serialize)]
    enum PartialVariant {
        Only {
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<u8>,
        },
    }
    fn left_empty<T: Serialize>(value: T) -> String {
        let mut bytes = b"before".to_vec();
        let reason = refused(OrderCodec.encode(&("text", value), &mut bytes));
        assert_eq!(bytes, b"before");
        reason
    }
    assert!(left_empty(HashMap::from([(1, 2)])).contains("map"));
    assert!(left_empty(BTreeMap::<u8, u8>::new()).contains("map"));
    assert!(left_empty(Flattened { place: 0..1 }).contains("map"));
    assert!(left_empty(f32::NAN).contains("NaN"));
    assert!(left_empty(-f64::NAN).contains("NaN"));
    assert!(left_empty(Partial { name: None, number: 1 }).contains("name"));
    assert!(left_empty(PartialVariant::Only { name: None }).contains("name"));
    assert_eq!(encoded(&Partial { name: Some(1), number: 2 }), [1, 1, 2]);
}

#[test]
fn types_that_decide_by_the_bytes_are_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
    }
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Only { number: u8 },
    }
    #[derive(Debug, Deserialize)]
    struct Flattened {
        #[serde(flatten)]
        _rest: BTreeMap<String, u8>,
    }
    for reason in [
        refused(OrderCodec.decode::<Untagged>(&encoded(&Untagged::Number(1)))),
        refused(OrderCodec.decode::<Tagged>(&encoded(&Tagged::Only { number: 1 }))),
        refused(OrderCodec.decode::<Flattened>(&[0; 8])),
        refused(OrderCodec.decode::<BTreeMap<u8, u8>>(&[0; 8])),
        refused(OrderCodec.decode::<de::IgnoredAny>(&[0; 8])),
    ] {
        assert!(reason.contains("do not say how to read them"), "{reason}");
    }
}

#[test]
fn bytes_that_no_value_has_are_refused() {
    for (bytes, part) in [(&[2, 0][..], "mark"), (&[1], "end too early"), (&[0, 0], "1 bytes are left over")]
    {
        assert!(refused(OrderCodec.decode::<Option<u8>>(bytes)).contains(part));
    }
    refused(OrderCodec.decode::<bool>(&[2]));
    refused(OrderCodec.decode::<char>(&[0, 0, 0xd8, 0]));
    refused(OrderCodec.decode::<char>(&[0, 0x11, 0, 0]));
    refused(OrderCodec.decode::<f32>(&[0xff; 4]));
    refused(OrderCodec.decode::<f32>(&[0; 4]));
    for text in [&b"a\0"[..], b"a\0\0", b"a\0\x01", b"\0", b"\xff"] {
        refused(OrderCodec.decode::<String>(text));
    }
    for field in [&b"a"[..], b"a\0", b"a\0\xff", b"a\0\x01\0\0", b"\xff\0\0"] {
        refused(OrderCodec.decode::<(String,)>(field));
    }
    refused(OrderCodec.decode::<Vec<u8>>(&[1, 5]));
    refused(OrderCodec.decode::<Vec<u8>>(&[1, 5, 2]));
    refused(OrderCodec.decode::<Shape>(&[0, 0, 0, 6]));
    refused(OrderCodec.decode::<()>(&[0]));
}

#[test]
fn text_is_borrowed_unless_it_has_an_escape() {
    let bytes = encoded(&("anna", 7_u8));
    let (name, _): (&str, u8) = OrderCodec.decode(&bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&name.as_ptr()));
    assert_eq!(OrderCodec.decode::<&[u8]>(b"anna").unwrap(), b"anna");
    refused(OrderCodec.decode::<&str>(&encoded("a\0")));
    assert_eq!(OrderCodec.decode::<String>(&encoded("a\0")).unwrap(), "a\0");
}

#[test]
fn values_are_nested_up_to_the_same_depth_by_both() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nest(Option<Box<Nest>>);
    let nest = |depth| (0..depth).fold(Nest(None), |inner, _| Nest(Some(Box::new(inner))));
    // Each level is a newtype and an option.
    let deepest = nest(127);
    assert_eq!(OrderCodec.decode::<Nest>(&encoded(&deepest)).unwrap(), deepest);
    assert!(refused(OrderCodec.encode(&nest(128), &mut Vec::new())).contains("too deep"));
    assert!(refused(OrderCodec.decode::<Nest>(&[1; 100_000])).contains("too deep"));
}

/// A sequence whose reader stops without asking for the end.
#[test]
fn parts_that_a_visitor_does_not_read_are_refused() {
    #[derive(Debug, PartialEq)]
    struct Two(u8, u8);
    impl Serialize for Two {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut parts = serializer.serialize_seq(None)?;
            parts.serialize_element(&self.0)?;
            parts.serialize_element(&self.1)?;
            parts.end()
        }
    }
    impl<'de> Deserialize<'de> for Two {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Parts;
            impl<'de> Visitor<'de> for Parts {
                type Value = Two;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("two numbers")
                }

                fn visit_seq<A: de::SeqAccess<'de>>(self, mut parts: A) -> Result<Two, A::Error> {
                    let mut next = || parts.next_element()?.ok_or_else(|| de::Error::custom("too few"));
                    Ok(Two(next()?, next()?))
                }
            }
            deserializer.deserialize_seq(Parts)
        }
    }
    assert_eq!(OrderCodec.decode::<Two>(&encoded(&[1_u8, 2].as_slice())).unwrap(), Two(1, 2));
    assert_eq!(OrderCodec.decode::<(Two, u8)>(&encoded(&(Two(1, 2), 3_u8))).unwrap(), (Two(1, 2), 3));
    refused(OrderCodec.decode::<Two>(&encoded(&[1_u8, 2, 3].as_slice())));
    refused(OrderCodec.decode::<Two>(&encoded(&[1_u8].as_slice())));
    // Its third element is read as no part of what follows.
    refused(OrderCodec.decode::<(Two, u8, u8)>(&[1, 1, 1, 2, 1, 3, 0]));
}
