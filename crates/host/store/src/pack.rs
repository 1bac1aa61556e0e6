//! How a blob is written: as it is, or smaller.
//!
//! Most blobs are small JSON texts of a few kinds, which say little of their own: lines of
//! eventlogs, resource sets, directories, which consist of hexadecimal digests, and signed requests,
//! which are base64. So digests and base64 become bytes, and what a usual text has in common with a text that every release knows becomes a
//! reference to it.

use flux_model::blobref::HashAlg;

/// Blobs from this size on are compressed, if that makes them smaller.
const MIN: usize = 32;

/// Blobs above this size find their own repetitions; the dictionary does not pay any more.
const DICTIONARY_MAX: usize = 4 << 10;

/// Largest blob, 1 GiB.
const BLOB_MAX: usize = 1 << 30;

/// Typical texts. It is a part of format 3: files are unreadable with another one.
static DICTIONARY: &[u8] = include_bytes!("pack/dictionary3.txt");

/// Marks a digest. No JSON text has such a byte; what has one is left as it is.
const MARK: u8 = 1;
const MARK_SHA256: u8 = 2;
/// Marks base64; the number of its bytes follows, low byte first.
const MARK_BASE64: u8 = 3;

/// Shortest and longest stretch of base64 that becomes bytes, in characters.
const BASE64_MIN: usize = 96;
const BASE64_MAX: usize = (4 * 0xffff / 3) & !3;

/// Ways of writing, in the column `size`: -1 for a blob that is written as it is, its size for LZ4
/// in formats 1 and 2; else -2 - 2 × its size, less 1 with the dictionary.
const PLAIN: i64 = -1;

/// A blob as the file holds it: how, and its bytes.
#[derive(Debug)]
pub(crate) struct Packed(pub(crate) i64, pub(crate) Vec<u8>);

impl Packed {
    /// A blob, in the smallest way.
    pub(crate) fn new(blob: &[u8]) -> Option<Self> {
        if blob.len() < MIN || blob.len() > BLOB_MAX {
            return None;
        }
        let short = shorten(blob);
        let text = short.as_deref().unwrap_or(blob);
        let known = blob.len() <= DICTIONARY_MAX;
        let packed = if known {
            lz4_flex::block::compress_with_dict(text, DICTIONARY)
        } else {
            lz4_flex::block::compress(text)
        };
        let size = i64::try_from(blob.len()).ok()?;
        (packed.len() < blob.len()).then(|| Self(-2 - 2 * size - i64::from(known), packed))
    }

    /// The blob, checked against its digest; what is wrong otherwise.
    pub(crate) fn unpack(self, hash: HashAlg, digest: &[u8]) -> Result<Vec<u8>, String> {
        let blob = self.open()?;
        if *hash.hash(&blob).digest() != *digest {
            return Err("its content does not match its digest".to_string());
        }
        Ok(blob)
    }

    /// The blob, whatever its digest.
    pub(crate) fn open(self) -> Result<Vec<u8>, String> {
        let Self(how, object) = self;
        let bound = |size: i64| match usize::try_from(size) {
            Ok(size) if size <= BLOB_MAX => Ok(size),
            _ => Err(format!("it claims {size} bytes")),
        };
        if how == PLAIN {
            return Ok(object);
        }
        if how >= 0 {
            let size = bound(how)?;
            return lz4_flex::block::decompress(&object, size).map_err(|error| error.to_string());
        }
        let code = -2 - i128::from(how);
        let size = bound(i64::try_from(code.unsigned_abs() / 2).unwrap_or(i64::MAX))?;
        let text = if code % 2 == 0 {
            lz4_flex::block::decompress(&object, size)
        } else {
            lz4_flex::block::decompress_with_dict(&object, size, DICTIONARY)
        };
        lengthen(text.map_err(|error| error.to_string())?, size)
    }
}

/// No digit.
const NONE: u8 = 0xff;

/// Values of the digits of digests.
static NIBBLES: [u8; 256] = values(DIGITS);
/// Values of the digits of base64.
static VALUES: [u8; 256] = values(SEXTETS);

/// The table that gives each digit its place in `digits`.
const fn values(digits: &[u8]) -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut at = 0;
    while at < digits.len() {
        table[digits[at] as usize] = at as u8;
        at += 1;
    }
    table
}

/// A quoted digest at the beginning: its mark, its bytes, its length as text.
fn digest<'a>(text: &[u8], room: &'a mut [u8; 32]) -> Option<(u8, &'a [u8], usize)> {
    if text.get(1..4) != Some(b"sha") {
        return None;
    }
    let (mark, start, bytes) = if text.starts_with(b"\"sha1-") {
        (MARK, 6, 20)
    } else if text.starts_with(b"\"sha256-") {
        (MARK_SHA256, 8, 32)
    } else {
        return None;
    };
    let end = start + 2 * bytes;
    if text.get(end) != Some(&b'"') {
        return None;
    }
    let room = room.get_mut(..bytes)?;
    for (byte, pair) in room.iter_mut().zip(text.get(start..end)?.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        if high == NONE || low == NONE {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some((mark, room, end + 1))
}

/// How many characters of base64 are at the beginning.
fn base64(text: &[u8]) -> usize {
    let text = text.get(..BASE64_MAX).unwrap_or(text);
    text.iter().position(|byte| VALUES[usize::from(*byte)] == NONE).unwrap_or(text.len())
}

/// The text with its digests and base64 as bytes; nothing where there is none, or where it is no
/// text.
fn shorten(text: &[u8]) -> Option<Vec<u8>> {
    if text.iter().any(|byte| matches!(*byte, MARK | MARK_SHA256 | MARK_BASE64)) {
        return None;
    }
    let mut short = Vec::new();
    let mut room = [0; 32];
    let (mut done, mut at) = (0, 0);
    while at < text.len() {
        if text[at] == b'"'
            && let Some((mark, digest, length)) = digest(&text[at..], &mut room)
        {
            short.extend_from_slice(&text[done..at]);
            short.push(mark);
            short.extend_from_slice(digest);
            at += length;
            done = at;
            continue;
        }
        let run = base64(&text[at..]);
        // In whole groups of four.
        let length = run & !3;
        if length < BASE64_MIN {
            at += run.max(1);
            continue;
        }
        short.extend_from_slice(&text[done..at]);
        short.push(MARK_BASE64);
        let bytes = u16::try_from(length / 4 * 3).ok()?;
        short.extend_from_slice(&bytes.to_le_bytes());
        for group in text[at..at + length].chunks_exact(4) {
            let digit = |bits, digit: &u8| bits << 6 | u32::from(VALUES[usize::from(*digit)]);
            let bits = group.iter().fold(0_u32, digit);
            short.extend_from_slice(&bits.to_be_bytes()[1..]);
        }
        at += length;
        done = at;
    }
    if done == 0 {
        return None;
    }
    short.extend_from_slice(&text[done..]);
    Some(short)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const SEXTETS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text that [`shorten`] made shorter, of this length; a text of this length is one that it
/// left as it was.
fn lengthen(short: Vec<u8>, length: usize) -> Result<Vec<u8>, String> {
    if short.len() >= length {
        return Ok(short);
    }
    let mut text = Vec::with_capacity(length);
    let mut rest = short.as_slice();
    while let Some((byte, behind)) = rest.split_first() {
        let (name, bytes) = match *byte {
            MARK => ("\"sha1-", 20),
            MARK_SHA256 => ("\"sha256-", 32),
            MARK_BASE64 => {
                let (bytes, behind) = behind.split_at_checked(2).ok_or("it ends in a mark")?;
                let bytes = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
                let (data, behind) =
                    behind.split_at_checked(bytes).ok_or("it ends within base64")?;
                for group in data.chunks(3) {
                    let group = group.try_into().unwrap_or([0; 3]);
                    let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
                    let digit = |shift: u32| SEXTETS[(bits >> shift & 63) as usize];
                    text.extend([18, 12, 6, 0].map(digit));
                }
                rest = behind;
                if text.len() > length {
                    return Err(format!("it is longer than {length} bytes"));
                }
                continue;
            }
            byte => {
                text.push(byte);
                rest = behind;
                continue;
            }
        };
        let (digest, behind) = behind.split_at_checked(bytes).ok_or("it ends within a digest")?;
        text.extend_from_slice(name.as_bytes());
        for byte in digest {
            text.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
        }
        text.push(b'"');
        rest = behind;
        if text.len() > length {
            return Err(format!("it is longer than {length} bytes"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(blob: &[u8]) -> usize {
        let Some(packed) = Packed::new(blob) else { return blob.len() };
        let length = packed.1.len();
        assert_eq!(packed.open().unwrap(), blob);
        length
    }

    #[test]
    fn usual_texts_become_small() {
        let line = "{\"timestamp\":1895251172.4089186,\"name\":\"start\"}\n";
        assert!(packed(line.as_bytes()) < 30, "{}", packed(line.as_bytes()));
        let name = HashAlg::Sha1.hash(b"x");
        let dir = format!(
            "{{\"data\":{{\"a\":{{\"data\":[\"{name}\"],\"type\":\"valref\",\"ver\":1}}}},\"type\":\"dir\",\"ver\":1}}"
        );
        assert!(packed(dir.as_bytes()) < 50, "{}", packed(dir.as_bytes()));
        let name = HashAlg::Sha256.hash(b"x");
        let many = format!("[{}]", vec![format!("\"{name}\""); 900].join(","));
        assert!(packed(many.as_bytes()) < 1000);
        let long: String =
            (0..300_000_u32).map(|n| char::from(SEXTETS[n as usize * 7 % 64])).collect();
        assert!(packed(long.as_bytes()) < 3_000);
        // Random bytes stay.
        assert_eq!(packed(name.to_string().as_bytes()), name.to_string().len());
    }

    #[test]
    fn what_an_older_release_wrote_is_read() {
        let blob = b"abcdefgh".repeat(100);
        assert_eq!(Packed(-1, blob.clone()).open().unwrap(), blob);
        assert_eq!(Packed(800, lz4_flex::block::compress(&blob)).open().unwrap(), blob);
    }

    #[test]
    fn the_dictionary_of_the_format_never_changes() {
        let name = HashAlg::Sha1.hash(DICTIONARY).to_string();
        assert_eq!(name, "sha1-04b1da44fbab56a9e92b2e878673f706678da954");
    }

    proptest! {
        #[test]
        fn whatever_is_packed_is_unpacked(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[a-z\"{}:,\\[]{0,20}".prop_map(String::into_bytes),
                "\"sha1-[0-9a-f]{38,41}\"".prop_map(String::into_bytes),
                "\"sha256-[0-9a-f]{63,65}\"?".prop_map(String::into_bytes),
                "[A-Za-z0-9+/=.]{90,120}".prop_map(String::into_bytes),
                "[A-Za-z0-9+/]{95,300}".prop_map(String::into_bytes),
            ], 0..12),
        ) {
            packed(&parts.concat());
        }

        #[test]
        fn nothing_that_is_read_does_harm(
            how in any::<i64>(), object in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            // No more memory than a few times what is claimed is used for it.
            let how = how % 100_000;
            if let Ok(blob) = Packed(how, object).open() {
                prop_assert!(blob.len() <= 200_000);
            }
        }
    }
}
