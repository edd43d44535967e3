//! Tests of the codecs. Values are restored from their bytes. Damaged and hostile bytes are refused
//! in bounded time and memory.
//!
//! Each property is stated once and holds for both codecs.
#![cfg(all(feature = "bincode", feature = "postcard"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "../damage/allocator.rs"]
mod allocator;

use std::collections::{BTreeMap, HashMap, HashSet, LinkedList};
use std::fmt::Debug;

use allocator::largest_allocation;
use mapcask::{Bincode, Codec, Error, Postcard};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Checks the property with each codec.
macro_rules! for_each_codec {
    ($property:expr $(, $argument:expr)*) => {{
        $property(&Bincode $(, $argument)*);
        $property(&Postcard $(, $argument)*);
    }};
}

/// A value of every kind in serde's data model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct All {
    integers: (i8, u16, i32, u64, i128),
    float: f64,
    letter: char,
    text: String,
    flag: Option<bool>,
    unit: (),
    shapes: Vec<Shape>,
    map: BTreeMap<String, Vec<u32>>,
    wrapped: Wrapped,
    array: [u8; 3],
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Point,
    Circle(u32),
    Line(i8, i8),
    Square { side: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(Option<Box<Wrapped>>);

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        any::<u32>().prop_map(Shape::Circle),
        any::<(i8, i8)>().prop_map(|(from, to)| Shape::Line(from, to)),
        any::<u64>().prop_map(|side| Shape::Square { side }),
    ]
}

prop_compose! {
    fn values()(
        integers: (i8, u16, i32, u64, i128),
        float in any::<f64>().prop_filter("a number", |float| !float.is_nan()),
        letter: char,
        text: String,
        flag: Option<bool>,
        shapes in vec(shapes(), 0..5),
        map in btree_map(any::<String>(), vec(any::<u32>(), 0..4), 0..4),
        depth in 0..5,
        array: [u8; 3],
    ) -> All {
        let wrapped = (0..depth).fold(Wrapped(None), |inner, _| Wrapped(Some(Box::new(inner))));
        All { integers, float, letter, text, flag, unit: (), shapes, map, wrapped, array }
    }
}

fn encoded<T: Serialize + ?Sized>(codec: &impl Codec, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode(value, &mut bytes).unwrap();
    bytes
}

#[track_caller]
fn refused<T: Debug>(result: mapcask::Result<T>) {
    assert!(matches!(result, Err(Error::Codec { .. })), "{result:?}");
}

fn comes_back(codec: &impl Codec, value: &All) {
    let mut bytes = b"before".to_vec();
    codec.encode(value, &mut bytes).unwrap();
    assert_eq!(&bytes[..6], b"before");
    assert_eq!(codec.decode::<All>(&bytes[6..]).unwrap(), *value);
}

fn is_read_as_a_whole_or_not_at_all(codec: &impl Codec, value: &All) {
    let mut bytes = encoded(codec, value);
    for len in 0..bytes.len() {
        refused(codec.decode::<All>(&bytes[..len]));
    }
    for byte in [0, 1, 0x80, 0xff] {
        bytes.push(byte);
        refused(codec.decode::<All>(&bytes));
        bytes.pop();
    }
}

/// Checks that decoding neither panics nor allocates more memory than the bytes account for. It may
/// return another value.
fn is_bounded(codec: &impl Codec, bytes: &[u8]) {
    let (result, largest) = largest_allocation(|| codec.decode::<All>(bytes).map(drop));
    // The largest element that one byte can stand for, twice because vectors double.
    assert!(largest <= 4096 + bytes.len() * 2 * size_of::<(String, Vec<u32>)>(), "{largest}: {result:?}");
}

proptest! {
    #[test]
    fn values_come_back_from_their_bytes_and_from_no_others(value in values()) {
        for_each_codec!(comes_back, &value);
        for_each_codec!(is_read_as_a_whole_or_not_at_all, &value);
    }

    #[test]
    fn flipped_bytes_never_panic_or_take_much_memory(value in values(), flip in 1..=u8::MAX) {
        fn flipped(codec: &impl Codec, value: &All, flip: u8) {
            let mut bytes = encoded(codec, value);
            for at in 0..bytes.len() {
                bytes[at] ^= flip;
                is_bounded(codec, &bytes);
                bytes[at] ^= flip;
            }
        }
        for_each_codec!(flipped, &value, flip);
    }

    #[test]
    fn random_bytes_never_panic_or_take_much_memory(bytes in vec(any::<u8>(), 0..200)) {
        for_each_codec!(is_bounded, &bytes);
    }
}

#[test]
fn text_is_borrowed_from_the_bytes() {
    fn borrows(codec: &impl Codec) {
        let bytes = encoded(codec, "text");
        let text: &str = codec.decode(&bytes).unwrap();
        assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
    }
    for_each_codec!(borrows);
}

#[test]
fn the_encodings_and_their_names_are_pinned() {
    fn is(codec: &impl Codec, id: &str, expected: &[u8]) {
        assert_eq!(codec.id(), id);
        let value = (300_u16, -1_i32, "ab", Some(Shape::Line(1, -1)), vec![true], 1.0_f32);
        assert_eq!(encoded(codec, &value), expected);
    }
    let bincode = [251, 44, 1, 1, 2, b'a', b'b', 1, 2, 1, 255, 1, 1, 0, 0, 128, 63];
    is(&Bincode, "bincode-1", &bincode);
    let postcard = [172, 2, 1, 2, b'a', b'b', 1, 2, 1, 255, 1, 1, 0, 0, 128, 63];
    is(&Postcard, "postcard-1", &postcard);
}

// ---- Hostile lengths ----------------------------------------------------------------------------

/// A length of 2^60, which the tests encode with each codec.
const HUGE: u64 = 1 << 60;

fn is_refused_within<'b, T: Deserialize<'b> + Debug>(most: usize, codec: &impl Codec, bytes: &'b [u8]) {
    let (result, largest) = largest_allocation(|| codec.decode::<T>(bytes));
    refused(result);
    assert!(largest <= most, "{largest} bytes");
}

/// A bound on the bytes of an error's text.
const TEXT: usize = 256;
/// The bytes of the largest number of elements that take no input bytes, in a vector that doubles.
const BARE: usize = 4096 * 2 * size_of::<Blank>();

/// An element that takes no input bytes and much memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Blank {
    #[serde(skip)]
    filled: [u64; 16],
}

#[test]
fn codec_refuses_length_beyond_input_without_allocating() {
    fn all(codec: &impl Codec) {
        let bytes = encoded(codec, &HUGE);
        is_refused_within::<String>(TEXT, codec, &bytes);
        is_refused_within::<&str>(TEXT, codec, &bytes);
        is_refused_within::<&[u8]>(TEXT, codec, &bytes);
        is_refused_within::<Vec<u8>>(TEXT, codec, &bytes);
        is_refused_within::<Vec<u64>>(TEXT, codec, &bytes);
        is_refused_within::<Vec<String>>(TEXT, codec, &bytes);
        is_refused_within::<Box<[Shape]>>(TEXT, codec, &bytes);
        is_refused_within::<HashMap<u64, u64>>(TEXT, codec, &bytes);
        is_refused_within::<Option<Vec<u8>>>(TEXT, codec, &[&[1], &*bytes].concat());
    }
    for_each_codec!(all);
}

#[test]
fn codec_refuses_huge_count_of_zero_byte_elements() {
    fn all(codec: &impl Codec) {
        let bytes = encoded(codec, &HUGE);
        is_refused_within::<Vec<()>>(BARE, codec, &bytes);
        is_refused_within::<LinkedList<()>>(BARE, codec, &bytes);
        is_refused_within::<HashSet<()>>(BARE, codec, &bytes);
        is_refused_within::<HashMap<(), [u8; 0]>>(BARE, codec, &bytes);
        is_refused_within::<Vec<Blank>>(BARE, codec, &bytes);
        is_refused_within::<Vec<((), Blank)>>(BARE, codec, &bytes);
    }
    for_each_codec!(all);
}

/// The length is one that elements without bytes could have.
#[test]
fn codec_reserves_no_more_elements_than_input_bytes() {
    fn all(codec: &impl Codec) {
        let bytes = encoded(codec, &4000_u64);
        let most = TEXT + bytes.len() * size_of::<[u64; 16]>();
        is_refused_within::<Vec<[u64; 16]>>(most, codec, &bytes);
    }
    for_each_codec!(all);
}

/// Each of many collections has a harmless length. Only their sum is too large.
#[test]
fn elements_that_take_no_bytes_are_counted_over_all_collections() {
    fn all(codec: &impl Codec) {
        let inner = vec![(); 100];
        let lists = |count| encoded(codec, &vec![inner.clone(); count]);
        assert_eq!(codec.decode::<Vec<Vec<()>>>(&lists(40)).unwrap().len(), 40);
        let mut bytes = lists(1);
        bytes = [&encoded(codec, &42_u8)[..], &bytes[1..].repeat(42)].concat();
        refused(codec.decode::<Vec<Vec<()>>>(&bytes));
    }
    for_each_codec!(all);
}

#[test]
fn encode_refuses_values_that_decode_would_refuse() {
    fn all(codec: &impl Codec) {
        let bytes = encoded(codec, &vec![Blank::default(); 4096]);
        assert_eq!(codec.decode::<Vec<Blank>>(&bytes).unwrap().len(), 4096);
        let mut into = b"before".to_vec();
        // The bytes of the length account for a few elements.
        refused(codec.encode(&vec![Blank::default(); 4096 + 10], &mut into));
        refused(codec.encode(&BareMap, &mut into));
        refused(codec.encode(&wrapped(200), &mut into));
        // The length of this sequence is not known in advance, which neither format can express.
        refused(codec.encode(&Unsized, &mut into));
        assert_eq!(into, b"before");
    }
    for_each_codec!(all);
}

/// A map with equal keys that take no bytes. No map of the standard library has such keys.
struct BareMap;

impl Serialize for BareMap {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(4096 + 10))?;
        for _ in 0..4096 + 10 {
            map.serialize_entry(&(), &())?;
        }
        map.end()
    }
}

/// A sequence that does not report its length.
struct Unsized;

impl Serialize for Unsized {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&1)?;
        list.end()
    }
}

/// There are many more elements than the limit for elements without bytes, and each takes bytes.
#[test]
fn codec_decodes_long_collections_of_nonempty_elements() {
    fn all(codec: &impl Codec) {
        let nested = vec![vec![vec![1_u8; 3]; 40]; 400];
        assert_eq!(codec.decode::<Vec<Vec<Vec<u8>>>>(&encoded(codec, &nested)).unwrap(), nested);
        let map: HashMap<u32, ()> = (0..20_000).map(|key| (key, ())).collect();
        assert_eq!(codec.decode::<HashMap<u32, ()>>(&encoded(codec, &map)).unwrap(), map);
        let long = vec![(1_u8, (), [(); 4]); 50_000];
        assert_eq!(codec.decode::<Vec<(u8, (), [(); 4])>>(&encoded(codec, &long)).unwrap(), long);
    }
    for_each_codec!(all);
}

// ---- Depth --------------------------------------------------------------------------------------

fn wrapped(depth: usize) -> Wrapped {
    (0..depth).fold(Wrapped(None), |inner, _| Wrapped(Some(Box::new(inner))))
}

/// A type that contains itself in every way that serde supports.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Newtype(Box<Tree>),
    Tuple(Box<Tree>, u8),
    Struct { inner: Box<Tree> },
    List(Vec<Tree>),
    Map(BTreeMap<u8, Tree>),
    Option(Option<Box<Tree>>),
}

/// Runs on the 2 MiB stack of a test's thread, in a build with little optimisation.
#[test]
fn codec_refuses_values_nested_too_deep() {
    fn all(codec: &impl Codec) {
        let deepest = encoded(codec, &wrapped(127));
        assert_eq!(codec.decode::<Wrapped>(&deepest).unwrap(), wrapped(127));
        refused(codec.decode::<Wrapped>(&[1; 129]));
        // Every byte, or pair of bytes, opens another level.
        for bytes in [&[1][..], &[2], &[3], &[4, 1], &[5, 1, 0], &[6, 1]] {
            refused(codec.decode::<Tree>(&bytes.repeat(1 << 20)));
        }
    }
    for_each_codec!(all);
}

#[test]
fn codec_restores_tree_of_every_kind_of_nesting() {
    fn all(codec: &impl Codec) {
        let tree = [0, 1, 2, 3, 4, 5].iter().cycle().take(60).fold(Tree::Leaf, |inner, way| match way {
            0 => Tree::Newtype(Box::new(inner)),
            1 => Tree::Tuple(Box::new(inner), 7),
            2 => Tree::Struct { inner: Box::new(inner) },
            3 => Tree::List(vec![Tree::Leaf, inner]),
            4 => Tree::Map([(1, inner), (2, Tree::Leaf)].into()),
            _ => Tree::Option(Some(Box::new(inner))),
        });
        assert_eq!(codec.decode::<Tree>(&encoded(codec, &tree)).unwrap(), tree);
    }
    for_each_codec!(all);
}
