//! The functions of typed keyspaces that run code of their caller: codecs, keys, closures.

use std::borrow::Borrow;
use std::rc::Rc;

use mapcask::{Codec, Postcard, Result, Store, TypedKeyspace, WriteBatch};
use serde::{Deserialize, Serialize};

use super::{Code, Place, first};

/// A codec that runs the caller's code.
#[derive(Clone)]
pub(crate) struct Running(pub(crate) Rc<Code>);

impl Codec for Running {
    fn id(&self) -> &str {
        self.0.run();
        Postcard.id()
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T, into: &mut Vec<u8>) -> Result<()> {
        self.0.run();
        Postcard.encode(value, into)
    }

    fn decode<'b, T: Deserialize<'b>>(&self, bytes: &'b [u8]) -> Result<T> {
        self.0.run();
        Postcard.decode(bytes)
    }
}

type Typed = TypedKeyspace<str, u32, Running>;

/// Opens a typed keyspace whose codec runs the code at every call but the first, which opens it.
fn typed(store: &Store, code: &Rc<Code>) -> Result<Typed> {
    code.left.set(code.left.get() + 1);
    store.typed_keyspace("typed", Running(Rc::clone(code)))
}

/// Opens an ordered typed keyspace as [`typed`] does the other one. Its codec encodes no keys.
fn ordered(store: &Store, code: &Rc<Code>) -> Result<Typed> {
    code.left.set(code.left.get() + 1);
    store.ordered_typed_keyspace("ordered", Running(Rc::clone(code)))
}

/// A key that runs the caller's code when it is borrowed.
struct Text(Rc<Code>);

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.0.run();
        ""
    }
}

/// The beginning of a key, which runs the caller's code when it is encoded.
impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.run();
        serializer.serialize_str("")
    }
}

fn text(code: &Rc<Code>) -> Text {
    Text(Rc::clone(code))
}

/// Functions that run a closure, or a codec between two calls: every call is made from them.
pub(crate) const CLOSURES: &[Place] = &[
    ("TypedKeyspace::fetch_and_update", |s, c| typed(s, c)?.fetch_and_update("a", |_| Some(2)).map(drop)),
    ("TypedKeyspace::update_and_fetch", |s, c| typed(s, c)?.update_and_fetch("a", |_| Some(2)).map(drop)),
    ("TypedReader::iter", |s, c| {
        typed(s, c)?.iter().for_each(drop);
        Ok(())
    }),
];

/// Functions that use a codec or a key: a few calls are made from them.
pub(crate) const ARGUMENTS: &[Place] = &[
    ("Store::typed_keyspace", |s, c| {
        s.typed_keyspace::<str, u32, _>("typed", Running(Rc::clone(c))).map(drop)
    }),
    ("TypedReader::get", |s, c| typed(s, c)?.get("a").map(drop)),
    ("TypedReader::multi_get", |s, c| {
        typed(s, c)?.multi_get(["a", "b"].into_iter().inspect(|_| c.run())).map(drop)
    }),
    ("TypedReader::contains_key", |s, c| typed(s, c)?.contains_key("a").map(drop)),
    ("TypedKeyspace::insert", |s, c| typed(s, c)?.insert("a", &1).map(drop)),
    ("TypedKeyspace::insert_if_absent", |s, c| typed(s, c)?.insert_if_absent("a", &1).map(drop)),
    ("TypedKeyspace::replace", |s, c| typed(s, c)?.replace("a", &1).map(drop)),
    ("TypedKeyspace::remove", |s, c| typed(s, c)?.remove("a").map(drop)),
    ("TypedKeyspace::take", |s, c| typed(s, c)?.take("a").map(drop)),
    ("TypedKeyspace::compare_and_swap", |s, c| typed(s, c)?.compare_and_swap("a", None, Some(&1)).map(drop)),
    ("TypedKeyspace::insert_in", |s, c| {
        let mut batch = WriteBatch::new();
        typed(s, c)?.insert_in(&mut batch, "a", &1)?;
        s.write(batch).map(drop)
    }),
    ("TypedKeyspace::remove_in", |s, c| typed(s, c)?.remove_in(&mut WriteBatch::new(), "a")),
    ("Store::ordered_typed_keyspace", |s, c| {
        s.ordered_typed_keyspace::<str, u32, _>("ordered", Running(Rc::clone(c))).map(drop)
    }),
    ("TypedReader::range", |s, c| first(ordered(s, c)?.range(text(c)..))),
    ("TypedReader::range that decodes", |s, c| first(ordered(s, c)?.range::<&str>(..).rev())),
    ("TypedReader::prefix", |s, c| first(ordered(s, c)?.prefix(&text(c)))),
    ("TypedReader::first_key_value", |s, c| ordered(s, c)?.first_key_value().map(drop)),
    ("TypedReader::last_key_value", |s, c| ordered(s, c)?.last_key_value().map(drop)),
    ("TypedReader::get_lt", |s, c| ordered(s, c)?.get_lt("b").map(drop)),
    ("TypedReader::get_le", |s, c| ordered(s, c)?.get_le("a").map(drop)),
    ("TypedReader::get_ge", |s, c| ordered(s, c)?.get_ge("a").map(drop)),
    ("TypedReader::get_gt", |s, c| ordered(s, c)?.get_gt("").map(drop)),
    ("TypedReader::get_range", |s, c| ordered(s, c)?.get_range::<&str>(.., 2).map(drop)),
    ("TypedReader::count_range", |s, c| ordered(s, c)?.count_range(text(c)..).map(drop)),
    ("TypedReader::encode_key", |s, c| ordered(s, c)?.encode_key("a").map(drop)),
    ("TypedReader::decode_key", |s, c| typed(s, c)?.decode_key(b"\x01a").map(drop)),
    ("TypedReader::decode_value", |s, c| ordered(s, c)?.decode_value(&[1]).map(drop)),
    ("TypedRange::seek", |s, c| typed(s, c)?.range::<&str>(..).seek("a")),
    ("TypedRange::seek_back", |s, c| typed(s, c)?.range::<&str>(..).seek_back("a")),
    ("TypedKeyspace::pop_first", |s, c| ordered(s, c)?.pop_first().map(drop)),
    ("TypedKeyspace::pop_last", |s, c| ordered(s, c)?.pop_last().map(drop)),
    ("TypedKeyspace::pop_first_in", |s, c| ordered(s, c)?.pop_first_in(text(c)..).map(drop)),
    ("TypedKeyspace::pop_last_in", |s, c| ordered(s, c)?.pop_last_in(text(c)..).map(drop)),
    ("TypedTransaction::get", |s, c| s.begin().on(&typed(s, c)?).get("a").map(drop)),
    ("TypedTransaction::contains_key", |s, c| s.begin().on(&typed(s, c)?).contains_key("a").map(drop)),
    ("TypedTransaction::peek", |s, c| s.begin().on(&typed(s, c)?).peek("a").map(drop)),
    ("TypedTransaction::insert", |s, c| {
        let (typed, mut transaction) = (typed(s, c)?, s.begin());
        transaction.on(&typed).insert("a", &1)?;
        transaction.commit().map(drop)
    }),
    ("TypedTransaction::remove", |s, c| {
        let (typed, mut transaction) = (typed(s, c)?, s.begin());
        transaction.on(&typed).remove("a")?;
        transaction.commit().map(drop)
    }),
    ("TypedTransaction::range", |s, c| first(s.begin().on(&ordered(s, c)?).range(text(c)..))),
    ("TypedTransaction::prefix", |s, c| first(s.begin().on(&ordered(s, c)?).prefix(&text(c)))),
    ("TypedTransaction::first_key_value", |s, c| s.begin().on(&ordered(s, c)?).first_key_value().map(drop)),
    ("TypedTransaction::last_key_value", |s, c| s.begin().on(&ordered(s, c)?).last_key_value().map(drop)),
    ("TypedTransaction::get_lt", |s, c| s.begin().on(&ordered(s, c)?).get_lt("b").map(drop)),
    ("TypedTransaction::get_le", |s, c| s.begin().on(&ordered(s, c)?).get_le("a").map(drop)),
    ("TypedTransaction::get_ge", |s, c| s.begin().on(&ordered(s, c)?).get_ge("a").map(drop)),
    ("TypedTransaction::get_gt", |s, c| s.begin().on(&ordered(s, c)?).get_gt("").map(drop)),
    ("TypedTransaction::count_range", |s, c| s.begin().on(&ordered(s, c)?).count_range(text(c)..).map(drop)),
];
