//! The notation of keys and values on the command line: verbatim, escaped, or hexadecimal.

use std::ffi::OsStr;
use std::fmt::Write;

use anyhow::{Result, bail};

/// Returns the bytes that an argument denotes.
pub(super) fn parse(argument: &OsStr, hex: bool) -> Result<Vec<u8>> {
    let bytes = argument.as_encoded_bytes();
    if hex { parse_hex(bytes) } else { Ok(bytes.to_vec()) }
}

fn parse_hex(digits: &[u8]) -> Result<Vec<u8>> {
    let shown = digits.escape_ascii();
    if !digits.len().is_multiple_of(2) {
        bail!("{shown} has an odd number of hexadecimal digits; give two for each byte");
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => {
            bail!("{} in {shown} is no hexadecimal digit; leave --hex out to give text", byte.escape_ascii())
        }
    };
    digits.chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Returns bytes as one line of text, unambiguously.
pub(super) fn show(bytes: &[u8], hex: bool) -> String {
    if !hex {
        return bytes.escape_ascii().to_string();
    }
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A write to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways_for_every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(parse_hex(show(&all, true).as_bytes()).unwrap(), all);
        assert_eq!(parse_hex(show(&all, true).to_uppercase().as_bytes()).unwrap(), all);
    }

    #[test]
    fn parse_hex_refuses_invalid_text_with_a_reason() {
        assert!(parse_hex(b"abc").unwrap_err().to_string().contains("odd number"));
        assert!(parse_hex(b"0g").unwrap_err().to_string().contains("g in 0g"));
    }

    #[test]
    fn a_line_break_in_a_key_is_escaped() {
        assert_eq!(show(b"a\n\\", false), "a\\n\\\\");
    }
}
