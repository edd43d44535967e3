//! The command that prints the changes of a store as lines of JSON.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use mapcask::{Change, ChangeKind, Changes, Error, Seq, Since};

use super::{Tail, bytes};

/// The time of one wait for a change. Another one follows.
const SLICE: Duration = Duration::from_secs(60);

/// Returns the beginning that an argument names.
fn parse_since(text: &str) -> Result<Since> {
    Ok(match text {
        "oldest" => Since::Oldest,
        "state" => Since::State,
        "now" => Since::Now,
        number => match number.parse() {
            Ok(number) => Since::Seq(Seq(number)),
            Err(_) => bail!("--from {number} is none of oldest, state, now, and a sequence number"),
        },
    })
}

/// Quotes a text for JSON.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted += &format!("\\u{:04x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns the fields of a change that depend on its kind.
fn fields(kind: &ChangeKind<'_>, hex: bool) -> Result<String> {
    let show = |part: &[u8]| quoted(&bytes::show(part, hex));
    Ok(match kind {
        ChangeKind::Insert { key, value } => {
            format!("\"kind\":\"insert\",\"key\":{},\"value\":{}", show(key), show(value))
        }
        ChangeKind::State { key, value } => {
            format!("\"kind\":\"state\",\"key\":{},\"value\":{}", show(key), show(value))
        }
        ChangeKind::Remove { key } => format!("\"kind\":\"remove\",\"key\":{}", show(key)),
        ChangeKind::Created { name } => format!("\"kind\":\"created\",\"name\":{}", quoted(name)),
        ChangeKind::Renamed { name } => format!("\"kind\":\"renamed\",\"name\":{}", quoted(name)),
        ChangeKind::Cleared { before } => format!("\"kind\":\"cleared\",\"before\":{before}"),
        ChangeKind::Dropped => "\"kind\":\"dropped\"".to_owned(),
        ChangeKind::StateEnd => "\"kind\":\"state_end\"".to_owned(),
        other => bail!("this tool does not know the change {other:?}"),
    })
}

fn line_of(change: &Change<'_>, hex: bool) -> Result<String> {
    let name = change.keyspace.name.map_or("null".to_owned(), quoted);
    let (seq, id, more) = (change.seq, change.keyspace.id, change.more);
    let fields = fields(&change.kind, hex)?;
    Ok(format!("{{\"seq\":{seq},\"id\":{id},\"keyspace\":{name},{fields},\"more\":{more}}}"))
}

/// Prints the changes up to the end of the log, or without an end if it follows. Returns false if a part of them is not there.
pub(super) fn tail(tail: &Tail) -> Result<bool> {
    let mut changes = Changes::open(&tail.at.store, parse_since(&tail.from)?)?;
    if !tail.keyspace.is_empty() {
        changes = changes.only(tail.keyspace.iter());
    }
    if tail.durable {
        changes = changes.durable();
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let mut is_whole = true;
    loop {
        let next = match changes.next() {
            Ok(None) if tail.follow => {
                // The reader of the pipe has all lines before the wait.
                out.flush()?;
                changes.next_within(SLICE)
            }
            other => other,
        };
        match next {
            Ok(Some(change)) => writeln!(out, "{}", line_of(&change, tail.hex)?)?,
            Ok(None) if tail.follow => {}
            Ok(None) => break,
            Err(Error::Lagged { from, to }) => {
                is_whole = false;
                writeln!(out, "{{\"kind\":\"lagged\",\"from\":{from},\"to\":{to}}}")?;
            }
            Err(Error::Rewound { last, read }) => {
                is_whole = false;
                writeln!(out, "{{\"kind\":\"rewound\",\"last\":{last},\"read\":{read}}}")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    out.flush()?;
    Ok(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_for_json() {
        assert_eq!(quoted("a\"\\\n käse"), "\"a\\\"\\\\\\u000a käse\"");
        assert_eq!(quoted(&bytes::show(b"\xff\n", false)), "\"\\\\xff\\\\n\"");
    }

    #[test]
    fn beginning_is_a_word_or_a_number() {
        assert_eq!(parse_since("17").unwrap(), Since::Seq(Seq(17)));
        assert_eq!(parse_since("state").unwrap(), Since::State);
        assert!(parse_since("then").unwrap_err().to_string().contains("none of oldest"));
    }
}
