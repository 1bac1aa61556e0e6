//! Z85 (ZeroMQ RFC 32): four bytes as five printable characters.

const ALPHABET: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// The text of a 32 byte key: 40 characters.
pub(crate) fn encode_key(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(40);
    for word in key.chunks_exact(4) {
        let value = word.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        for power in [85_u32.pow(4), 85_u32.pow(3), 85_u32.pow(2), 85, 1] {
            text.push(char::from(ALPHABET[(value / power % 85) as usize]));
        }
    }
    text
}

/// The key a text of 40 characters stands for; nothing for any other text.
pub(crate) fn decode_key(text: &str) -> Option<[u8; 32]> {
    if text.len() != 40 {
        return None;
    }
    let mut key = [0; 32];
    for (digits, word) in text.as_bytes().chunks_exact(5).zip(key.chunks_exact_mut(4)) {
        let mut value = 0_u64;
        for digit in digits {
            let place = ALPHABET.iter().position(|c| c == digit)?;
            value = value * 85 + place as u64;
        }
        word.copy_from_slice(&u32::try_from(value).ok()?.to_be_bytes());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_vector_of_the_standard_is_kept() {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&[0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b]);
        assert!(encode_key(&key).starts_with("HelloWorld"));
        assert_eq!(decode_key(&encode_key(&key)), Some(key));
    }

    #[test]
    fn a_group_beyond_32_bits_and_foreign_letters_are_no_key() {
        assert_eq!(decode_key(&"#".repeat(40)), None);
        assert_eq!(decode_key(&"~".repeat(40)), None);
        assert_eq!(decode_key("0"), None);
        assert_eq!(decode_key(&"é".repeat(20)), None);
    }

    proptest! {
        #[test]
        fn text_and_key_are_the_same(key in any::<[u8; 32]>()) {
            prop_assert_eq!(decode_key(&encode_key(&key)), Some(key));
        }
    }
}
